"""What is sealed is packed: it comes back, small or large, and a bomb does not open."""

import os
from dataclasses import replace

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from events.errors import PoisonedMessageError
from events.ids import new_id
from events.key_store import KeyStore
from events.keyring import Keyring
from events.keys import CompanyKeys, MasterKeys, Owner
from events.mapper import decode_decision, encode_decision
from events.model import Decision
from events.packing import OPENED_MAX_BYTES, PACK_MIN_BYTES, pack, unpack
from tests.events.test_sealing import MASTER, company


@given(st.binary(max_size=4 * PACK_MIN_BYTES), st.integers(1, 20))
def test_what_was_packed_comes_back(part: bytes, times: int) -> None:
    packed = pack(part * times)
    if packed is not None:
        assert len(packed) < len(part * times)
        assert unpack(packed) == part * times


def test_what_would_not_get_smaller_is_left() -> None:
    assert pack(b"a" * (PACK_MIN_BYTES - 1)) is None
    assert pack(os.urandom(10_000)) is None


@pytest.mark.parametrize(
    "frame",
    [
        zstandard.compress(bytes(OPENED_MAX_BYTES + 1)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000)),
        zstandard.compress(b"whole" * 100)[:-1],
        b"",
        b"no frame",
    ],
    ids=["a bomb", "of an unknown size", "cut", "nothing", "something else"],
)
def test_what_is_not_ours_does_not_open(frame: bytes) -> None:
    with pytest.raises(ValueError, match="What is packed"):
        unpack(frame)


@pytest.fixture
async def keys(connection: Client) -> tuple[Keyring, Owner, CompanyKeys]:
    """A company's, and the ring that has them at hand."""
    store, owner = KeyStore(connection, MasterKeys(MASTER)), Owner(new_id(), new_id())
    await store.create(owner)
    keyring = Keyring(store)
    found = await keyring.of(owner)
    assert found is not None
    return keyring, owner, found


def named(owner: Owner, name: str) -> Decision:
    """A decision with a name in it."""
    made = company(owner)
    return replace(made, events=(made.events[0].model_copy(update={"name": name}),))


@pytest.mark.parametrize("name", ["x", "Acme " * 2000])
async def test_a_decision_is_packed_where_that_helps(keys: tuple[Keyring, Owner, CompanyKeys], name: str) -> None:
    keyring, owner, found = keys
    subject = f"events.{owner.org_id}.company.{owner.company_id}.1.log.company"
    made = named(owner, name)
    body = encode_decision(made, subject, found)
    assert decode_decision(subject, body, keyring) == made
    if len(name) > 1:
        assert orjson.loads(body)["packed"] == "zstd"
        assert len(body) < 1000
        for other in (b'"packed":"lzma"', b'"packed":null'):
            with pytest.raises(PoisonedMessageError):
                decode_decision(subject, body.replace(b'"packed":"zstd"', other), keyring)
