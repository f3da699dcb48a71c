"""A key that was destroyed, or wrapped anew, is not in the files of the nats-server, whoever died meanwhile."""

import asyncio
import base64
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from nats.aio.client import Client

from events.errors import UnavailableError
from events.history import WholeLog
from events.ids import new_id
from events.key_store import KeyDocument, KeyStore
from events.keyring import Keyring
from events.keys import MasterKeys, Owner
from events.log import EventLog
from events.subjects import ERASED
from services.erasure import CompanyKeyKeeper
from services.worker.memo import Memo
from tests.events.test_sealing import MASTER, OTHER, company, erased
from tests.system.test_erasure import in_files, nats_folder

__all__ = ["nats_folder"]


class DyingStore(KeyStore):
    """Dies after a document was written, before what was before it is erased."""

    async def _erase_before(self, owner: Owner, sequence: int) -> None:
        raise UnavailableError("killed")


@pytest.fixture
def store(connection: Client) -> KeyStore:
    return KeyStore(connection, MasterKeys(MASTER))


@pytest.fixture
async def owner(store: KeyStore) -> Owner:
    made = Owner(new_id(), new_id())
    await store.create(made)
    return made


def forms(wrapped: str) -> tuple[bytes, ...]:
    """A wrapped key as it is stored, and as bytes."""
    encoded = wrapped.partition(":")[2]
    return encoded.encode(), base64.b64decode(encoded)


def kept(folder: Path, document: KeyDocument) -> list[bool]:
    """Of each generation, whether it is in any file."""
    return [bool(in_files(folder, *forms(wrapped))) for wrapped in document.generations]


async def test_an_erased_key_is_overwritten_in_the_file(store: KeyStore, owner: Owner, nats_folder: Path) -> None:
    await store.rotate(owner)
    await store.rotate(owner)
    document = await store.read(owner)
    assert kept(nats_folder, document) == [True] * 3
    await store.erase(owner, datetime.now(UTC))
    assert kept(nats_folder, document) == [False] * 3
    assert in_files(nats_folder, owner.company_id.encode()), "its tombstone is"


async def test_a_key_that_is_wrapped_anew_is_overwritten_as_it_was(
    connection: Client, store: KeyStore, owner: Owner, nats_folder: Path
) -> None:
    await store.rotate(owner)
    before = await store.read(owner)
    both = KeyStore(connection, MasterKeys(f"{OTHER},{MASTER}"))
    assert await both.rewrap(before)
    assert kept(nats_folder, before) == [False] * 2
    assert kept(nats_folder, await store.read(owner)) == [True] * 2


async def test_wrapping_anew_goes_on_where_it_was_killed(
    connection: Client, store: KeyStore, owner: Owner, nats_folder: Path
) -> None:
    before, masters = await store.read(owner), MasterKeys(f"{OTHER},{MASTER}")
    with pytest.raises(UnavailableError, match="killed"):
        await DyingStore(connection, masters).rewrap(before)
    assert kept(nats_folder, before) == [True]
    again = KeyStore(connection, masters)
    assert not await again.rewrap(await again.read(owner)), "it is wrapped already"
    assert kept(nats_folder, before) == [False]


async def test_whatever_was_killed_before_an_erasure_takes_all_with_it(
    connection: Client, store: KeyStore, owner: Owner, nats_folder: Path
) -> None:
    dying = DyingStore(connection, MasterKeys(f"{OTHER},{MASTER}"))
    with pytest.raises(UnavailableError, match="killed"):
        await dying.rotate(owner)
    rotated = await store.read(owner)
    with pytest.raises(UnavailableError, match="killed"):
        await dying.rewrap(rotated)
    rewrapped = await store.read(owner)
    assert kept(nats_folder, rotated) + kept(nats_folder, rewrapped) == [True] * 4
    await store.erase(owner, datetime.now(UTC))
    assert kept(nats_folder, rotated) + kept(nats_folder, rewrapped) == [False] * 4


async def test_a_service_overwrites_at_its_start_what_another_one_could_not(
    connection: Client, store: KeyStore, owner: Owner, nats_folder: Path
) -> None:
    log, document = EventLog(connection, Keyring(store)), await store.read(owner)
    await log.append(company(owner))
    memo = Memo(connection, Keyring(store))
    await memo.keep(*owner, "a" * 64, {"n": 1})
    with pytest.raises(UnavailableError, match="killed"):
        await DyingStore(connection, MasterKeys(MASTER)).erase(owner, datetime.now(UTC))
    assert (await store.read(owner)).erased_at
    assert kept(nats_folder, document) == [True]
    told: asyncio.Queue = asyncio.Queue()
    heard = await connection.subscribe(ERASED, cb=told.put)
    await log.append(erased(owner))
    starting = asyncio.create_task(CompanyKeyKeeper(connection, Keyring(store)).catch_up(WholeLog(connection)))
    try:
        while orjson.loads((await asyncio.wait_for(told.get(), 20)).data)["company"] != owner.company_id:
            continue
    finally:
        starting.cancel()
        await heard.unsubscribe()
    assert kept(nats_folder, document) == [False]
    info = await connection.jetstream().stream_info("MEMO", subjects_filter=f"memo.{owner.org_id}.>")
    assert not info.state.subjects
