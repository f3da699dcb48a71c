"""Payloads: small ones inline, large ones by digest, in chunks, per org, and damage is noticed."""

import pytest

from events.blobs import CHUNK_MAX_BYTES, BlobStore
from events.errors import UnavailableError
from events.ids import new_id
from events.payload import INLINE_MAX_BYTES, Payload


@pytest.fixture
def blobs(connection):
    return BlobStore(connection)


@pytest.mark.parametrize(
    "size", [2, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, CHUNK_MAX_BYTES, CHUNK_MAX_BYTES + 1, 3 * CHUNK_MAX_BYTES]
)
async def test_payloads_of_every_size_come_back(blobs, size):
    org, data = new_id(), b"[" + b"1" * (size - 2) + b"]"
    payload = await blobs.store(org, data, 1)
    assert (payload.inline is not None) == (size <= INLINE_MAX_BYTES)
    assert await blobs.load(org, payload) == data
    assert await blobs.store(org, data, 1) == payload, "the same bytes again"


async def test_another_org_does_not_have_the_blob(blobs):
    data = b"x" * (INLINE_MAX_BYTES + 1)
    payload = await blobs.store(new_id(), data, 1)
    with pytest.raises(UnavailableError, match="has no"):
        await blobs.load(new_id(), payload)


async def test_a_blob_under_a_false_digest_is_noticed(blobs):
    org = new_id()
    await blobs.put(org, "0" * 64, b"something else")
    with pytest.raises(UnavailableError, match="damaged"):
        await blobs.load(org, Payload(digest="0" * 64, size_bytes=14, rows=1))
