"""Decisions sealed for their company: what is stored, who can open it, and what is left of it once the key is gone."""

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import orjson
import pytest
import zstandard
from nats.aio.client import Client

from events.administration import COMPANY, CompanyCreated, CompanyErased
from events.context import SERVICE_ACTOR
from events.errors import ConfigurationError, ErasedError, PoisonedMessageError, StateConflictError, UnavailableError
from events.ids import new_id
from events.key_store import KeyStore
from events.keyring import Keyring
from events.keys import KeyMissingError, MasterKeys, Owner
from events.log import EventLog, decision_id
from events.mapper import SALT_BYTES, decode_decision
from events.model import Decision
from events.subjects import ERASED_ROUTING
from tests.system.client import SYSTEM_MASTER_KEYS

MARKER = "Plainly Readable Ltd"
MASTER, OTHER = SYSTEM_MASTER_KEYS.split(",")


def company(owner: Owner, version: int = 1) -> Decision:
    """The decision that creates a company."""
    return Decision(
        org_id=owner.org_id,
        kind=COMPANY,
        aggregate_id=owner.company_id,
        version=version,
        routing="log.company",
        decision_id=decision_id(),
        at=datetime.now(UTC),
        actor=SERVICE_ACTOR,
        events=(CompanyCreated(originator_id=owner.company_id, originator_version=version, name=MARKER),),
        company_id=owner.company_id,
        digest="d1",
    )


def erased(owner: Owner) -> Decision:
    """The decision that erases a company."""
    return Decision(
        org_id=owner.org_id, kind=COMPANY, aggregate_id=owner.company_id, version=2, routing=ERASED_ROUTING,
        decision_id=decision_id(), at=datetime.now(UTC), actor=SERVICE_ACTOR, company_id=owner.company_id,
        events=(CompanyErased(originator_id=owner.company_id, originator_version=2),),
    )  # fmt: skip


@pytest.fixture
def store(connection: Client) -> KeyStore:
    """KEYS of this run's server, with one master key."""
    return KeyStore(connection, MasterKeys(MASTER))


@pytest.fixture
async def owner(store: KeyStore) -> Owner:
    """A company with a key."""
    made = Owner(new_id(), new_id())
    await store.create(made)
    return made


async def raw(connection: Client, position: int) -> tuple[str, bytes]:
    """What the log stores at a position."""
    message = await connection.jetstream().get_msg("EVENTS", position)
    assert message.subject is not None
    assert message.data is not None
    return message.subject, message.data


async def test_a_sealed_decision_comes_back_as_it_was(connection: Client, store: KeyStore, owner: Owner) -> None:
    log, made = EventLog(connection, Keyring(store)), company(owner)
    appended = await log.append(made)
    assert (await log.at(appended.position)).decision == made  # type: ignore[union-attr]
    assert (await log.append(made)).repeated
    _, body = await raw(connection, appended.position)
    assert MARKER.encode() not in body
    envelope = orjson.loads(body)
    assert (envelope["v"], envelope["key"], envelope["digest"]) == (2, 1, None)
    assert envelope["id"] == made.decision_id


async def test_an_auditor_can_be_shown_what_was_sealed(connection: Client, store: KeyStore, owner: Owner) -> None:
    keyring = Keyring(store)
    position = (await EventLog(connection, keyring).append(company(owner))).position
    subject, body = await raw(connection, position)
    head, _, box = body.rpartition(b',"box":"')
    keys = await keyring.of(owner)
    assert keys is not None
    plaintext = keys.current[1].open(base64.b64decode(box[:-2]), subject.encode() + b"\n" + head)
    if orjson.loads(body).get("packed"):
        plaintext = zstandard.decompress(plaintext)
    assert MARKER.encode() in plaintext[SALT_BYTES:]
    assert orjson.loads(body)["sealed"] == sha256(plaintext).hexdigest()


async def test_nothing_is_sealed_without_a_key(connection: Client, store: KeyStore) -> None:
    owner = Owner(new_id(), new_id())
    for keyring in (Keyring(), Keyring(store)):  # no master key; a company from before there was one
        log = EventLog(connection, keyring)
        appended = await log.append(company(Owner(owner.org_id, new_id())))
        assert orjson.loads((await raw(connection, appended.position))[1])["v"] == 1


async def test_a_process_without_the_key_waits(connection: Client, store: KeyStore, owner: Owner) -> None:
    position = (await EventLog(connection, Keyring(store)).append(company(owner))).position
    with pytest.raises(UnavailableError, match="DATA_ENGINE_MASTER_KEYS"):
        await EventLog(connection, Keyring()).at(position)
    with pytest.raises(UnavailableError, match="lacks it"):
        await EventLog(connection, Keyring(KeyStore(connection, MasterKeys(OTHER)))).at(position)
    subject, body = await raw(connection, position)
    with pytest.raises(KeyMissingError):
        decode_decision(subject, body, Keyring(store))


@pytest.mark.parametrize("place", ["head", "box", "subject"])
async def test_what_was_altered_or_moved_does_not_open(
    connection: Client, store: KeyStore, owner: Owner, place: str
) -> None:
    keyring = Keyring(store)
    subject, body = await raw(connection, (await EventLog(connection, keyring).append(company(owner))).position)
    match place:
        case "head":
            body = body.replace(b'"method":"service"', b'"method":"platform"')
        case "box":
            body = body[:-10] + (b"A" if body[-10:-9] != b"A" else b"B") + body[-9:]
        case _:
            subject = subject.replace(".1.log.", ".2.log.")
    await keyring.load([(subject, body)])
    with pytest.raises(PoisonedMessageError):
        decode_decision(subject, body, keyring)


async def test_earlier_generations_are_read_and_the_newest_seals(
    connection: Client, store: KeyStore, owner: Owner
) -> None:
    early = Keyring(store)
    log = EventLog(connection, early)
    first = await log.append(company(owner))
    assert await store.rotate(owner) == 2
    second = await EventLog(connection, Keyring(store)).append(company(owner, 2))
    assert orjson.loads((await raw(connection, second.position))[1])["key"] == 2
    found = await log.history(owner.org_id, COMPANY, owner.company_id)  # it knew the first generation only
    assert [recorded.position for recorded in found] == [first.position, second.position]


async def test_keys_are_wrapped_anew_by_another_master_key(connection: Client, store: KeyStore, owner: Owner) -> None:
    position = (await EventLog(connection, Keyring(store)).append(company(owner))).position
    both = KeyStore(connection, MasterKeys(f"{OTHER},{MASTER}"))
    assert await both.rewrap(await both.read(owner))
    assert not await both.rewrap(await both.read(owner))
    only_new = Keyring(KeyStore(connection, MasterKeys(OTHER)))
    assert await EventLog(connection, only_new).at(position) is not None


async def test_an_erased_company_leaves_decisions_without_events(
    connection: Client, store: KeyStore, owner: Owner
) -> None:
    made = company(owner)
    position = (await EventLog(connection, Keyring(store)).append(made)).position
    before = await raw(connection, position)
    wrapped = (await store.read(owner)).generations[0]
    # From here on a command service that runs on this server, if there is one, destroys the key too.
    await EventLog(connection, Keyring(store)).append(erased(owner))
    await asyncio.gather(*(store.erase(owner, datetime.now(UTC)) for _ in range(8)))  # as by several services
    await store.erase(owner, datetime.now(UTC))
    assert (await store.read(owner)).erased_at
    assert await raw(connection, position) == before
    log = EventLog(connection, Keyring(store))
    found = await log.at(position)
    assert found is not None
    assert found.decision == replace(made, events=(), digest=None, erased=True)
    for refused in (made, company(owner, 3)):
        with pytest.raises(ErasedError):
            await log.append(refused)
    with pytest.raises(StateConflictError):
        await store.rotate(owner)
    assert wrapped not in str([document async for document in store.documents()])


async def test_a_key_that_was_used_a_moment_ago_is_forgotten_when_it_is_told(
    connection: Client, store: KeyStore, owner: Owner
) -> None:
    keyring = Keyring(store)
    position = (await EventLog(connection, keyring).append(company(owner))).position
    keyring.forget(owner)
    found = await EventLog(connection, keyring).at(position)
    assert found is not None
    assert found.decision.erased


@pytest.mark.parametrize("text", ["", "main", "main:AAAA", f"{MASTER},{MASTER}", "a b:" + MASTER[5:]])
def test_faulty_master_keys_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="DATA_ENGINE_MASTER_KEYS"):
        MasterKeys(text)
