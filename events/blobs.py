"""Payloads too large for an event: one message a blob in the stream BLOBS, its subject the org and the SHA-256.

For a company that has a key, the subject's last token is an HMAC of the SHA-256 and the bytes are sealed; both are the
same for the same bytes. What such a company stored before it had a key is still found as it was stored.
"""

import asyncio
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.errors import PayloadLostError, PoisonedMessageError, UnavailableError
from events.keyring import Keyring, keyring_of
from events.keys import CompanyKeys, Owner
from events.payload import Payload, describe, digest_of

REQUEST_TIMEOUT_S = 10.0
CHUNK_MAX_BYTES = 6 * 1024 * 1024
"""What one message holds; below the server's `max_payload` of 8 MiB. A larger payload is a list of chunks."""

ASIDE_BYTES = 256 * 1024
"""Larger pieces are sealed and opened on a thread, beside the loop."""

_ALREADY_THERE = (10071, 10164)


class BlobStore:
    """Content-addressed bytes of a company. Storing the same bytes twice keeps one copy.

    Every method raises UnavailableError when NATS does not answer, and ErasedError for a company that is erased.
    """

    def __init__(self, connection: Client, keyring: Keyring | None = None) -> None:
        self._nc = connection
        self._keyring = keyring or keyring_of(connection)

    async def store(self, owner: Owner, data: bytes, rows: int) -> Payload:
        """Describe encoded records, and keep them on disk when they are too large to be inline."""
        payload = describe(data, rows)
        if payload.inline is None:
            await self.put(owner, payload.digest, data)
        return payload

    async def load(self, owner: Owner, payload: Payload) -> bytes:
        """The bytes of a payload, wherever they are. Raises UnavailableError when they cannot be had."""
        if payload.inline is not None:
            return payload.inline.encode()
        return await self.get(owner, payload.digest, payload.size_bytes)

    async def put(self, owner: Owner, digest: str, data: bytes) -> None:
        """Keep `data`; chunks first, so that a blob whose last chunk exists is whole."""
        keys = await self._keyring.to_write(owner)
        name = digest if keys is None else keys.name(digest)
        for number, start in enumerate(range(0, len(data), CHUNK_MAX_BYTES)):
            chunk = data[start : start + CHUNK_MAX_BYTES]
            sealed = chunk if keys is None else await _aside(keys.seal_blob, chunk, f"{name}.{number}")
            await self._put_chunk(f"{subjects.blob(owner.org_id, name)}.{number}", sealed)

    async def _put_chunk(self, subject: str, chunk: bytes) -> None:
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        try:
            answer = await self._nc.request(subject, chunk, timeout=REQUEST_TIMEOUT_S, headers=headers)
        except nats.errors.Error as error:
            raise UnavailableError("The blob store does not answer.") from error
        failure = strictjson.loads(answer.data).get("error")
        if failure and failure.get("err_code") not in _ALREADY_THERE:
            raise UnavailableError(f"The blob store refused a payload: {failure.get('description')}")

    async def get(self, owner: Owner, digest: str, size_bytes: int) -> bytes:
        """The bytes under a digest, checked against it. Raises PayloadLostError when they are missing or altered."""
        keys = await self._keyring.to_write(owner)
        if keys is None:
            data = await self._plain(owner, digest, size_bytes)
        else:
            data = await self._sealed(keys, owner, digest, size_bytes)
        if digest_of(data) != digest:
            raise PayloadLostError(f"The blob {digest} is damaged: its bytes have another digest.")
        return data

    async def _plain(self, owner: Owner, digest: str, size_bytes: int) -> bytes:
        subject = subjects.blob(owner.org_id, digest)
        chunks = [await self._get_chunk(f"{subject}.{number}") for number in range(_count(size_bytes))]
        return b"".join(_there(chunk, subject) for chunk in chunks)

    async def _sealed(self, keys: CompanyKeys, owner: Owner, digest: str, size_bytes: int) -> bytes:
        name, chunks = keys.name(digest), []
        for number in range(_count(size_bytes)):
            subject = f"{subjects.blob(owner.org_id, name)}.{number}"
            chunk = await self._get_chunk(subject)
            if chunk is None and number == 0 and not keys.whole:
                return await self._plain(owner, digest, size_bytes)
            try:
                chunks.append(await _aside(keys.open_blob, _there(chunk, subject), f"{name}.{number}"))
            except PoisonedMessageError as error:
                raise PayloadLostError(f"The blob {subject} is damaged: {error.message}") from error
        return b"".join(chunks)

    async def _get_chunk(self, subject: str) -> bytes | None:
        try:
            request = f"$JS.API.DIRECT.GET.{subjects.BLOBS}.{subject}"
            answer = await self._nc.request(request, b"", timeout=REQUEST_TIMEOUT_S)
        except nats.errors.Error as error:
            raise UnavailableError("The blob store does not answer.") from error
        return None if answer.headers and "Status" in answer.headers else answer.data


def _count(size_bytes: int) -> int:
    return -(-size_bytes // CHUNK_MAX_BYTES)


def _there(chunk: bytes | None, subject: str) -> bytes:
    if chunk is None:
        raise PayloadLostError(f"The blob store has no {subject}.")
    return chunk


async def _aside(work: Callable[[bytes, str], bytes], data: bytes, name: str) -> bytes:
    return await asyncio.to_thread(work, data, name) if len(data) > ASIDE_BYTES else work(data, name)
