"""Payloads: small ones inline, large ones by digest, in chunks, per org, and damage is noticed."""

from datetime import UTC, datetime

import pytest

from events.blobs import CHUNK_MAX_BYTES, BlobStore
from events.errors import ErasedError, UnavailableError
from events.ids import new_id
from events.key_store import KeyStore
from events.keyring import Keyring
from events.keys import MasterKeys, Owner
from events.payload import INLINE_MAX_BYTES, Payload
from tests.events.test_sealing import MASTER


@pytest.fixture
def keys(connection):
    return KeyStore(connection, MasterKeys(MASTER))


@pytest.fixture(params=["plain", "sealed"])
def blobs(request, connection, keys):
    return BlobStore(connection, Keyring(keys if request.param == "sealed" else None))


@pytest.fixture
async def owner(keys):
    made = Owner(new_id(), new_id())
    await keys.create(made)
    return made


@pytest.mark.parametrize(
    "size", [2, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, CHUNK_MAX_BYTES, CHUNK_MAX_BYTES + 1, 3 * CHUNK_MAX_BYTES]
)
async def test_payloads_of_every_size_come_back(blobs, owner, size):
    org, data = owner, b"[" + b"1" * (size - 2) + b"]"
    payload = await blobs.store(org, data, 1)
    assert (payload.inline is not None) == (size <= INLINE_MAX_BYTES)
    assert await blobs.load(org, payload) == data
    assert await blobs.store(org, data, 1) == payload, "the same bytes again"


async def test_another_org_does_not_have_the_blob(blobs):
    data = b"x" * (INLINE_MAX_BYTES + 1)
    payload = await blobs.store(Owner(new_id(), new_id()), data, 1)
    with pytest.raises(UnavailableError, match="has no"):
        await blobs.load(Owner(new_id(), new_id()), payload)


async def test_a_blob_under_a_false_digest_is_noticed(blobs, owner):
    org = owner
    await blobs.put(org, "0" * 64, b"something else")
    with pytest.raises(UnavailableError, match="damaged"):
        await blobs.load(org, Payload(digest="0" * 64, size_bytes=14, rows=1))


async def test_the_same_bytes_are_one_blob_and_nobody_can_tell_which(connection, keys, owner):
    sealed = BlobStore(connection, Keyring(keys))
    data = b"Plainly Readable Ltd, " * 1000
    before = (await connection.jetstream().stream_info("BLOBS")).state.messages
    payload = await sealed.store(owner, data, 1)
    assert await sealed.store(owner, data, 1) == payload
    state = (await connection.jetstream().stream_info("BLOBS")).state
    assert state.messages == before + 1
    stored = await connection.jetstream().get_msg("BLOBS", state.last_seq)
    assert b"Readable" not in stored.data
    assert payload.digest not in stored.subject
    other = Owner(owner.org_id, new_id())
    await keys.create(other)
    await sealed.store(other, data, 1)
    assert (await connection.jetstream().stream_info("BLOBS")).state.messages == before + 2


async def test_what_was_stored_before_the_first_key_and_before_another_one_is_found(connection, keys):
    owner, data = Owner(new_id(), new_id()), b"y" * (INLINE_MAX_BYTES + 1)
    payload = await BlobStore(connection, Keyring()).store(owner, data, 1)
    for generation in (1, 2):
        assert await keys.rotate(owner) == generation
        blobs = BlobStore(connection, Keyring(keys))
        assert await blobs.load(owner, payload) == data
        more = b"%d" % generation * (INLINE_MAX_BYTES + 1)
        written = await blobs.store(owner, more, 1)
        assert await blobs.load(owner, written) == more


async def test_an_erased_company_stores_and_finds_nothing(connection, keys, owner):
    data = b"z" * (INLINE_MAX_BYTES + 1)
    payload = await BlobStore(connection, Keyring(keys)).store(owner, data, 1)
    await keys.erase(owner, datetime.now(UTC))
    blobs = BlobStore(connection, Keyring(keys))
    with pytest.raises(ErasedError):
        await blobs.load(owner, payload)
    with pytest.raises(ErasedError):
        await blobs.store(owner, data, 1)
