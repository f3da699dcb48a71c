"""Files as they were uploaded: parts of a fixed size in the blob store, and a list of them as the payload.

The list of a file is the same for the same bytes, so that a file that is uploaded twice is one input.
"""

from collections.abc import AsyncIterable, AsyncIterator
from hashlib import sha256
from typing import Any

import orjson

from events.blobs import BlobStore
from events.keys import Owner
from events.payload import Payload, describe, digest_of

VERSION = 1
PART_BYTES = 4 * 1024 * 1024


async def store_file(blobs: BlobStore, owner: Owner, body: AsyncIterable[bytes]) -> Payload:
    """Store a file as it comes in, holding one part at a time; its payload, once all of it is on disk.

    Raises UnavailableError, and whatever `body` raises; parts that were stored by then belong to nobody.
    """
    whole, parts, held = sha256(), [], bytearray()
    async for piece in body:
        held += piece
        while len(held) >= PART_BYTES:
            parts.append(await _store_part(blobs, owner, bytes(held[:PART_BYTES])))
            del held[:PART_BYTES]
        whole.update(piece)
    if held:
        parts.append(await _store_part(blobs, owner, bytes(held)))
    size_bytes = sum(size for _, size in parts)
    listing = orjson.dumps({"v": VERSION, "sha256": whole.hexdigest(), "size_bytes": size_bytes, "parts": parts})
    payload = describe(listing, 0).model_copy(update={"format": "file"})
    if payload.inline is None:
        await blobs.put(owner, payload.digest, listing)
    return payload


async def load_parts(blobs: BlobStore, owner: Owner, payload: Payload) -> AsyncIterator[bytes]:
    """The file's bytes, part by part. Raises UnavailableError, ValueError when the payload is no file."""
    listing: dict[str, Any] = orjson.loads(await blobs.load(owner, payload))
    if listing.get("v") != VERSION:
        raise ValueError(f"the list of a file's parts has version {listing.get('v')}; this program reads {VERSION}")
    for digest, size_bytes in listing["parts"]:
        yield await blobs.get(owner, digest, size_bytes)


async def _store_part(blobs: BlobStore, owner: Owner, part: bytes) -> tuple[str, int]:
    digest = digest_of(part)
    await blobs.put(owner, digest, part)
    return digest, len(part)
