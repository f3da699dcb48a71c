"""Payloads too large for an event: one message a blob in the stream BLOBS, its subject the org and the SHA-256."""

import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.errors import UnavailableError
from events.payload import Payload, describe, digest_of

REQUEST_TIMEOUT_S = 10.0
CHUNK_MAX_BYTES = 6 * 1024 * 1024
"""What one message holds; below the server's `max_payload` of 8 MiB. A larger payload is a list of chunks."""

_ALREADY_THERE = (10071, 10164)


class BlobStore:
    """Content-addressed bytes of an org. Storing the same bytes twice keeps one copy."""

    def __init__(self, connection: Client) -> None:
        self._nc = connection

    async def store(self, org_id: str, data: bytes, rows: int) -> Payload:
        """Describe encoded records, and keep them on disk when they are too large to be inline."""
        payload = describe(data, rows)
        if payload.inline is None:
            await self.put(org_id, payload.digest, data)
        return payload

    async def load(self, org_id: str, payload: Payload) -> bytes:
        """The bytes of a payload, wherever they are. Raises UnavailableError when they cannot be had."""
        if payload.inline is not None:
            return payload.inline.encode()
        return await self.get(org_id, payload.digest, payload.size_bytes)

    async def put(self, org_id: str, digest: str, data: bytes) -> None:
        """Keep `data`; chunks first, so that a blob whose last chunk exists is whole."""
        for number, start in enumerate(range(0, len(data), CHUNK_MAX_BYTES)):
            await self._put_chunk(f"{subjects.blob(org_id, digest)}.{number}", data[start : start + CHUNK_MAX_BYTES])

    async def _put_chunk(self, subject: str, chunk: bytes) -> None:
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        try:
            answer = await self._nc.request(subject, chunk, timeout=REQUEST_TIMEOUT_S, headers=headers)
        except nats.errors.Error as error:
            raise UnavailableError("The blob store does not answer.") from error
        failure = strictjson.loads(answer.data).get("error")
        if failure and failure.get("err_code") not in _ALREADY_THERE:
            raise UnavailableError(f"The blob store refused a payload: {failure.get('description')}")

    async def get(self, org_id: str, digest: str, size_bytes: int) -> bytes:
        """The bytes under a digest, checked against it. Raises UnavailableError when they are missing or altered."""
        count = -(-size_bytes // CHUNK_MAX_BYTES)
        chunks = [await self._get_chunk(f"{subjects.blob(org_id, digest)}.{number}") for number in range(count)]
        data = b"".join(chunks)
        if digest_of(data) != digest:
            raise UnavailableError(f"The blob {digest} is damaged: its bytes have another digest.")
        return data

    async def _get_chunk(self, subject: str) -> bytes:
        try:
            request = f"$JS.API.DIRECT.GET.{subjects.BLOBS}.{subject}"
            answer = await self._nc.request(request, b"", timeout=REQUEST_TIMEOUT_S)
        except nats.errors.Error as error:
            raise UnavailableError("The blob store does not answer.") from error
        if answer.headers and "Status" in answer.headers:
            raise UnavailableError(f"The blob store has no {subject}.")
        return answer.data
