"""Keys are destroyed in the end, whoever dies in between; deferred commands hold no plain text."""

import asyncio
from datetime import UTC, datetime

import orjson
import pytest
from nats.aio.client import Client

from events.administration import COMPANY
from events.commands import CreateCompany, CreateUser
from events.context import SERVICE_ACTOR
from events.deferral import open_command, seal_command
from events.errors import PoisonedMessageError, StateConflictError
from events.history import WholeLog
from events.ids import new_id
from events.key_store import KeyStore
from events.keyring import Keyring
from events.keys import KeyMissingError, MasterKeys, Owner
from events.log import EventLog
from events.subjects import ERASED
from services.erasure import CompanyKeyKeeper
from services.worker.memo import Memo
from tests.events.test_sealing import MASTER, company, erased

SUBJECT = "commands.{org}.create_user"


@pytest.fixture
def store(connection: Client) -> KeyStore:
    return KeyStore(connection, MasterKeys(MASTER))


@pytest.fixture
async def owner(store: KeyStore) -> Owner:
    made = Owner(new_id(), new_id())
    await store.create(made)
    return made


async def test_a_service_finishes_at_its_start_what_another_one_began(
    connection: Client, store: KeyStore, owner: Owner
) -> None:
    log = EventLog(connection, Keyring(store))
    await log.append(company(owner))
    await log.append(erased(owner))  # and then it died
    told = asyncio.Queue()
    heard = await connection.subscribe(ERASED, cb=told.put)
    starting = Keyring(store)
    catching_up = asyncio.create_task(CompanyKeyKeeper(connection, starting).catch_up(WholeLog(connection)))
    try:
        while orjson.loads((await asyncio.wait_for(told.get(), 20)).data)["company"] != owner.company_id:
            continue
    finally:
        catching_up.cancel()
        await heard.unsubscribe()
    assert (await store.read(owner)).erased_at
    history = await EventLog(connection, Keyring(store)).history(owner.org_id, COMPANY, owner.company_id)
    assert [recorded.decision.erased for recorded in history] == [True, False]


async def test_a_company_that_began_in_plain_text_cannot_be_erased(connection: Client, store: KeyStore) -> None:
    owner, keeper = Owner(new_id(), new_id()), CompanyKeyKeeper(connection, Keyring(store))
    with pytest.raises(StateConflictError, match="not encrypted from its beginning"):
        await keeper.must_be_erasable(owner)
    await store.rotate(owner)  # a key for what comes is not enough
    with pytest.raises(StateConflictError, match="not encrypted from its beginning"):
        await CompanyKeyKeeper(connection, Keyring(store)).must_be_erasable(owner)


async def test_the_memo_is_sealed_and_forgotten(connection: Client, store: KeyStore, owner: Owner) -> None:
    keyring = Keyring(store)
    memo, key = Memo(connection, keyring), "a" * 64
    await memo.keep(*owner, key, {"report": "Plainly Readable Ltd"})
    async with asyncio.timeout(10):
        while (found := await memo.find(*owner, key)) is None:
            continue  # it is kept without an acknowledgement
    assert found == {"report": "Plainly Readable Ltd"}
    stream = connection.jetstream()
    last = await stream.get_last_msg("MEMO", f"memo.{owner.org_id}.{owner.company_id}.>")
    assert last.data is not None
    assert b"Readable" not in last.data
    assert key not in str(last.subject)
    await CompanyKeyKeeper(connection, keyring).destroy(owner, datetime.now(UTC))
    assert await memo.find(*owner, key) is None
    info = await stream.stream_info("MEMO", subjects_filter=f"memo.{owner.org_id}.>")
    assert not info.state.subjects


def user(owner: Owner) -> CreateUser:
    """A command that names a company."""
    return CreateUser(
        command_id=new_id(), org_id=owner.org_id, aggregate_id=new_id(), actor=SERVICE_ACTOR, digest="d",
        email="plain@readable.example", name=None, role="member", company_id=owner.company_id,
    )  # fmt: skip


async def test_a_deferred_command_is_sealed_for_its_company(store: KeyStore, owner: Owner) -> None:
    subject, body = SUBJECT.format(org=owner.org_id), user(owner).model_dump_json().encode()
    stored = await seal_command(Keyring(store), subject, user(owner), body)
    assert b"readable" not in stored
    assert await open_command(Keyring(store), subject, stored) == body
    with pytest.raises(KeyMissingError):
        await open_command(Keyring(), subject, stored)
    with pytest.raises(PoisonedMessageError):
        await open_command(Keyring(store), f"{subject}s", stored)
    await store.erase(owner, datetime.now(UTC))
    assert await open_command(Keyring(store), subject, stored) is None


async def test_a_deferred_command_without_a_key_of_its_company_is_sealed_all_the_same(store: KeyStore) -> None:
    made = CreateCompany(
        command_id=new_id(), org_id=new_id(), aggregate_id=new_id(), actor=SERVICE_ACTOR, digest="d", name="Readable"
    )
    body, subject = made.model_dump_json().encode(), f"commands.{made.org_id}.create_company"
    stored = await seal_command(Keyring(store), subject, made, body)
    assert b"Readable" not in stored
    assert await open_command(Keyring(store), subject, stored) == body
    assert await seal_command(Keyring(), subject, made, body) == body
    assert await open_command(Keyring(store), subject, body) == body, "what was deferred before there was a master key"
