"""The log is cut, made anew, or restored from an older backup under a running system: all who follow it stop and say
so, nothing new is accepted, and the commands for it bring back what either copy had. The same for the archive.
"""

import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest

from cli import supervisor
from cli.system import System
from events.audit.checkpoint import Checkpoint, SignedCheckpoint
from events.ids import new_id
from events.key_store import KeyStore
from events.keys import MasterKeys, Owner
from events.log import EventLog
from events.model import Decision
from migrations.streams import migrate_streams
from projections.archive.stream import api
from tests.audit.archive import tamper
from tests.audit.support import company_decision
from tests.system.client import SYSTEM_MASTER_KEYS, Org
from tests.system.rewinding import Rewindable, Servers, rewindable, rewindable_servers, rewindable_system, until

STEP = "test_count"


@pytest.fixture(scope="module")
async def servers_and_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Servers, System]]:
    """One for all: each harm finds what the one before left. A process that ended is soon tried again."""
    folder = tmp_path_factory.mktemp("rewound")
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(supervisor, "BACKOFF_MAX_S", 2.0)
        async with (
            rewindable_servers(folder / "servers") as servers,
            rewindable_system(folder / "system", servers) as system,
        ):
            yield servers, system


@pytest.fixture
async def running(servers_and_system: tuple[Servers, System]) -> AsyncIterator[Rewindable]:
    async with rewindable(*servers_and_system) as made:
        yield made


async def backup(running: Rewindable) -> None:
    """NATS's files are exchanged for the older copy."""
    await running.servers.put_back("nats")


async def deleted(running: Rewindable) -> None:
    """The stream is deleted, and recreated as it was, but empty."""
    await api(running.connection, "STREAM.DELETE.EVENTS")
    await migrate_streams(running.connection, replicas=1)


async def limited(running: Rewindable) -> None:
    """The stream is given a limit, and drops what is beyond."""
    config = (await api(running.connection, "STREAM.INFO.EVENTS"))["config"]
    limits = {"max_msgs": 3, "discard": "old", "discard_new_per_subject": False}
    await api(running.connection, "STREAM.UPDATE.EVENTS", config | limits)


CUT, REWOUND = "is at position {at}, and the log ends at", "The log was rewound and written again"
ANEW, RECONFIGURED = "The log was made anew", "reconfigured: max_msgs is 3"
HARM = [(backup, CUT, REWOUND), (deleted, ANEW, ANEW), (limited, RECONFIGURED, RECONFIGURED)]


@pytest.mark.parametrize(("harm", "followers_say", "clients_hear"), HARM)
async def test_what_the_log_lost_comes_back(
    running: Rewindable, harm: Callable[[Rewindable], Awaitable[None]], followers_say: str, clients_hear: str
) -> None:
    org, log = running.org, EventLog(running.connection)
    blueprint_id = await org.blueprint(STEP)
    await org.ended(first := await org.submit(blueprint_id, [{"n": 1}], "first"))
    erased_id = (await org.call("companies/create", {"name": "Forgotten Ltd"}))["company_id"]
    await running.quiet()
    if harm is backup:
        await running.servers.save("nats")
    await accepted(running, "companies/erase", {"company_id": erased_id, "confirmation": erased_id}, "erase")
    await ended(running, second := await submitted(running, blueprint_id, 2, "second"))
    steps = await org.steps(second)
    archived = company_decision(org.org_id, org.company_id)
    await log.append(archived)
    before = await running.quiet()

    await harm(running)
    # Accepted before anybody looked, and encrypted: one whose version is free, and one that the archive has otherwise.
    rescued, rival = company_decision(org.org_id, org.company_id), replace(archived, decision_id=new_id())
    written = [] if harm is limited else [rescued, rival]
    for decision in written:
        await until(partial(log.append, decision))
    for process in ("projector", "archiver"):
        await running.told(process, followers_say.format(at=before.archive.position))
        assert "log_rewound" in running.says(process)
    await refused(running, blueprint_id, clients_hear)
    code, told = await running.dex("log", "check")
    assert (code, "dex log restore log" in told) == (1, True), told

    code, told = await running.dex("log", "restore", "log")
    assert (code, "The log was made anew" in told) == (0, True), told
    assert (await running.checked()).ok
    await goes_on(running, blueprint_id, first, second)
    assert await org.steps(second) == steps
    assert await ids(log, org, archived) == [archived.decision_id]
    assert not written or await ids(log, org, rescued) == [rescued.decision_id]
    letters = await api(running.connection, "STREAM.INFO.DEAD_LETTERS", {"subjects_filter": "dead.events.>"})
    kept = [subject for subject in letters["state"].get("subjects", {}) if archived.aggregate_id in subject]
    assert len(kept) == (1 if written else 0)
    await until(
        partial(key_destroyed, running, Owner(org.org_id, erased_id))
    )  # also one that came back with the backup


async def test_postgres_is_restored_from_an_older_backup(running: Rewindable) -> None:
    """The log has what the archive lacks: archiver and projector add it by themselves, and proofs still hold."""
    org = running.org
    blueprint_id = await org.blueprint(STEP)
    await org.ended(first := await org.submit(blueprint_id, [{"n": 1}], "first"))
    await running.quiet()
    await running.servers.save("postgres")
    await ended(running, second := await submitted(running, blueprint_id, 2, "second"))
    before = await running.quiet()
    noted = await proved(running, before.log.last_position)

    await running.servers.put_back("postgres")
    await goes_on(running, blueprint_id, first, second)
    found = await running.quiet()
    assert found.archived == found.compared == found.log.last_position
    latest = await proved(running, found.log.last_position)
    assert latest.size > noted.size
    same = await org.call("audit/consistency", {"from_size": noted.size, "to_size": noted.size})
    assert same["root"] == b64encode(noted.root).decode()


async def test_the_end_of_the_archive_is_lost(running: Rewindable) -> None:
    """Cut off by somebody with all rights, under a running archiver: named, and made anew from the log."""
    org = running.org
    blueprint_id = await org.blueprint(STEP)
    await org.ended(first := await org.submit(blueprint_id, [{"n": 1}], "first"))
    await org.ended(second := await org.submit(blueprint_id, [{"n": 2}], "second"))
    before = await running.quiet()
    await proved(running, before.log.last_position)
    lost = before.log.last_position - 3
    await tamper(running.pool, f"DELETE FROM data_engine.event_log WHERE position >= {lost}")
    await running.told("archiver", "archive_altered")
    code, told = await running.dex("log", "check")
    assert (code, f"no row at position {lost}" in told, "restore archive" in told) == (1, True, True), told
    code, told = await running.dex("log", "restore", "archive")
    assert (code, f"cut after {lost - 1}" in told) == (0, True), told
    assert (await running.checked()).ok
    await goes_on(running, blueprint_id, first, second)
    found = await running.quiet()
    assert found.archived == found.compared == found.log.last_position
    await proved(running, found.log.last_position)


async def goes_on(running: Rewindable, blueprint_id: str, *earlier: dict) -> None:
    """What was accepted is there, once; what is new is done; and both copies are whole."""
    org = running.org
    third = await submitted(running, blueprint_id, 3, "third")
    assert (await ended(running, third))["status"] == "succeeded"
    for number, made in enumerate(earlier, 1):
        assert (await ended(running, made))["status"] == "succeeded"
        again = await submitted(running, blueprint_id, number, ("first", "second")[number - 1])
        assert (again["run_id"], again["position"]) == (made["run_id"], made["position"])
        listed = await org.call("events/list", {"run_id": made["run_id"], "limit": 500})
        versions = [item["version"] for item in listed["items"]]
        assert versions == list(range(1, len(versions) + 1))
    assert third["position"] > earlier[-1]["position"]
    assert (await running.quiet()).ok


async def submitted(running: Rewindable, blueprint_id: str, number: int, key: str) -> dict:
    """Submit until it is accepted."""
    body = {"company_id": running.org.company_id, "blueprint_id": blueprint_id, "records": [{"n": number}]}
    return await accepted(running, "submissions/create", body, key)


async def accepted(running: Rewindable, endpoint: str, body: dict, key: str) -> dict:
    """Call until it is done, as a client would."""

    async def is_accepted() -> dict | None:
        answer = await running.org.post(endpoint, body, key)
        assert answer.status_code in (200, 201, 202, 503), answer.text
        return answer.json() if answer.status_code in (200, 201) else None

    return await until(is_accepted)


async def refused(running: Rewindable, blueprint_id: str, what: str) -> None:
    """What is new is refused, with what happened to the log."""
    body = {"company_id": running.org.company_id, "blueprint_id": blueprint_id, "records": [{"n": 1}]}

    async def is_refused() -> bool:
        answer = await running.org.post("submissions/create", body, str(uuid.uuid4()))
        return answer.status_code == 503 and answer.json()["code"] == "log_rewound" and what in answer.json()["detail"]

    await until(is_refused)


async def ended(running: Rewindable, made: dict) -> dict:
    """Wait until a run has ended; a server that is on its way up is asked again."""

    async def is_read() -> dict | None:
        body = {"run_id": made["run_id"], "wait_s": 30, "min_position": made["position"]}
        answer = await running.org.post("runs/get", body)
        return answer.json() if answer.status_code == 200 and answer.json()["status"] != "running" else None

    return await until(is_read)


async def key_destroyed(running: Rewindable, owner: Owner) -> bool:
    document = await KeyStore(running.connection, MasterKeys(SYSTEM_MASTER_KEYS)).read(owner)
    return document.erased_at is not None and not document.generations


async def ids(log: EventLog, org: Org, decision: Decision) -> list[str]:
    """The ids of the decisions about the same thing, as the log has them."""
    history = await log.history(org.org_id, decision.kind, decision.aggregate_id)
    return [recorded.decision.decision_id for recorded in history]


async def proved(running: Rewindable, position: int) -> Checkpoint:
    """The org's checkpoint, once the trees go as far as a position."""

    async def is_proved() -> Checkpoint | None:
        at = await running.pool.fetchval("SELECT position FROM data_engine.org_trees_head")
        answer = await running.org.post("audit/checkpoint")
        if at < position or answer.status_code != 200:
            return None
        return SignedCheckpoint.parse(answer.json()["checkpoint"]).checkpoint

    return await until(is_proved)
