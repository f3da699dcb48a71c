"""`dex log restore` and `dex log trim` on real servers: each copy made anew from the other, and nothing lost."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest

from events import subjects
from events.archive import Archive
from events.errors import LogRewoundError, StateConflictError
from events.history import WholeLog
from events.log import TRIMMING
from migrations.streams import check_streams, definitions, migrate_streams
from projections.archive.archiver import Archiver
from projections.archive.check import check
from projections.archive.restore_archive import restore_archive
from projections.archive.restore_log import restore_log
from projections.archive.trim import trim
from tests.projections.archiving import archive_all, whole
from tests.projections.support import ORG, World, an_id, make_log_anew, whole_run
from tests.projections.test_log_check import tamper
from tests.projections.trimming import api, trim_to

CONFIG = definitions(1)[subjects.EVENTS]
TABLE = "data_engine.event_log"


async def messages(world: World) -> list[tuple[int, str, bytes]]:
    state = await world.log.state()
    found = []
    for position in range(max(1, state.first_position), state.last_position + 1):
        message = (await api(world, "STREAM.MSG.GET.EVENTS", {"seq": position}))["message"]
        found.append((position, message["subject"], base64.b64decode(message["data"])))
    return found


async def dead_letters(world: World) -> int:
    return int((await api(world, "STREAM.INFO.DEAD_LETTERS"))["state"]["messages"])


@pytest.fixture(autouse=True)
async def no_dead_letters(world: World) -> None:
    await api(world, "STREAM.PURGE.DEAD_LETTERS")


async def archived_world(world: World, runs: int = 4) -> list[tuple[int, str, bytes]]:
    """Some runs in the log, in the archive and in the read models; all messages."""
    last = await world.append(*(whole_run(number) for number in range(1, runs + 1)))
    await archive_all(world)
    await world.project(last)
    return await messages(world)


async def stops(world: World, match: str) -> None:
    """Every follower stops with the message."""
    for follower in (world.projector(), Archiver(world.pool, world.nats)):
        with pytest.raises(LogRewoundError, match=match):
            await asyncio.wait_for(follower.run(asyncio.Event()), 20)


async def goes_on(world: World) -> None:
    """Every follower follows again, and both copies are whole."""
    last = await world.append(whole_run(77))
    await archive_all(world)
    await world.project(last)
    assert (await check(world.pool, world.nats)).ok
    assert await check_streams(world.nats, replicas=1) == []


async def test_a_whole_log_is_left_alone(world):
    before = await archived_world(world)
    assert await restore_log(world.pool, world.nats, CONFIG) is None
    assert await restore_archive(world.pool, world.nats) is None
    assert await messages(world) == before


async def test_a_log_that_was_made_anew_comes_back(world):
    before = await archived_world(world)
    epoch = (await world.log.state()).epoch
    await make_log_anew(world.nats)
    await world.append(whole_run(1), whole_run(8))  # the same bytes at the same positions, and others
    await stops(world, "made anew")
    done = await restore_log(world.pool, world.nats, CONFIG)
    assert done is not None
    after = await messages(world)
    assert after[: len(before)] == before
    assert (await world.log.state()).epoch == epoch
    assert (done.appended, done.dead_letters) == (len(whole_run(8).recorded), 0)
    assert [r.decision for r in await world.log.history(ORG, "run", an_id(8))] == [
        r.decision for r in whole_run(8).recorded
    ]
    await goes_on(world)


async def test_a_log_that_is_not_there_comes_back(world):
    before = await archived_world(world)
    await api(world, "STREAM.DELETE.EVENTS")
    assert await restore_log(world.pool, world.nats, CONFIG) is not None
    assert await messages(world) == before
    await goes_on(world)


async def test_a_log_restored_from_an_older_copy_and_written_again_loses_nothing(world):
    """The new decisions are appended where their versions are free; the others are kept, with the reason."""
    before = await archived_world(world, runs=3)
    epoch = (await world.log.state()).epoch
    await make_log_anew(world.nats)
    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    metadata = {**config["metadata"], "data_engine.epoch": epoch}
    await api(world, "STREAM.UPDATE.EVENTS", config | {"metadata": metadata})
    await world.append(whole_run(1))  # the older copy ends here
    rival = [replace(r.decision, decision_id=an_id(500 + n)) for n, r in enumerate(whole_run(2).recorded)]
    for decision in rival:
        await world.log.append(decision)
    later = [replace(r.decision, decision_id=an_id(600 + n)) for n, r in enumerate(whole_run(9).recorded)]
    for decision in later:
        await world.log.append(decision)
    await stops(world, "rewound and written again|was cut")
    done = await restore_log(world.pool, world.nats, CONFIG)
    assert done is not None
    assert (await messages(world))[: len(before)] == before
    assert (done.appended, done.dead_letters) == (len(later), len(rival))
    assert await dead_letters(world) == len(rival)
    assert len(await world.log.history(ORG, "run", an_id(9))) == len(later)
    await goes_on(world)


async def test_a_log_cut_by_a_limit_comes_back(world):
    before = await archived_world(world)
    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    await api(
        world, "STREAM.UPDATE.EVENTS", config | {"max_msgs": 2, "discard": "old", "discard_new_per_subject": False}
    )
    await stops(world, "reconfigured: max_msgs is 2")
    done = await restore_log(world.pool, world.nats, CONFIG)
    assert done is not None
    assert await messages(world) == before
    await goes_on(world)


@pytest.mark.parametrize("own_pool", ["session"], indirect=True)  # 13 s of a server's timers, and no SQL of interest
async def test_tasks_of_a_restored_log_are_delivered(world):
    """The server goes on sourcing TASKS from the log that was made anew: what is new arrives."""
    await archived_world(world)
    await api(world, "STREAM.DELETE.EVENTS")
    await restore_log(world.pool, world.nats, CONFIG)
    history = whole_run(20)
    await world.append(history)
    subscription = await world.nats.jetstream().pull_subscribe(f"tasks.*.{ORG}.{an_id(20)}.>", stream="TASKS")
    [task] = await subscription.fetch(1, timeout=60)
    assert subjects.scheduled_by(task.subject) == f"events.{ORG}.run.{an_id(20)}.1.due.first"
    await task.ack()
    await subscription.unsubscribe()


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE {TABLE} SET body = body || 'x' WHERE position = 3",
        f"DELETE FROM {TABLE} WHERE position = 2",
        f"DELETE FROM {TABLE} WHERE position >= 5",
        f"TRUNCATE {TABLE}, data_engine.event_log_head",
        "DELETE FROM data_engine.event_log_head",
        "UPDATE data_engine.event_log_head SET chain = sha256(chain)",
        f"UPDATE {TABLE} SET org_id = gen_random_uuid() WHERE position = 6",
    ],
)
async def test_a_damaged_archive_comes_back(world, sql):
    before = await archived_world(world)
    await tamper(world, sql)
    await restore_archive(world.pool, world.nats)
    await archive_all(world)  # an archive that is empty has no fault: the archiver fills it
    assert await whole(world) == len(before)
    assert [(m.position, m.subject, m.body) for m in await Archive(world.pool).read(0)] == before
    await goes_on(world)
    with pytest.raises(Exception, match="append-only"):
        await world.pool.execute(f"DELETE FROM {TABLE}")


async def test_what_the_log_cannot_give_back_is_not_cut_off(world):
    await archived_world(world)
    await trim_to(world, 4)
    await tamper(world, f"UPDATE {TABLE} SET body = body || 'x' WHERE position = 3")
    with pytest.raises(StateConflictError, match="restore the database from a backup"):
        await restore_archive(world.pool, world.nats)
    await api(world, "STREAM.DELETE.EVENTS")
    with pytest.raises(StateConflictError, match="not whole"):
        await restore_log(world.pool, world.nats, CONFIG)
    assert (await Archive(world.pool).head()).position == 8


async def test_an_archive_of_another_log_is_not_overwritten(world):
    await archived_world(world)
    await make_log_anew(world.nats)
    await tamper(world, f"UPDATE {TABLE} SET body = body || 'x' WHERE position = 3")
    with pytest.raises(StateConflictError, match="not what was archived"):
        await restore_archive(world.pool, world.nats)


async def old_and_new(world: World, keep_s: float) -> int:
    """Runs that are older than `keep_s`, and one that is not; the last position of the old ones."""
    old = await world.append(whole_run(1), whole_run(2))
    await asyncio.sleep(1.2 * keep_s)  # they must be of an age
    await world.append(whole_run(3))
    await archive_all(world)
    await world.project((await world.log.state()).last_position)
    return old


async def sourced(world: World) -> None:
    """Wait until TASKS has taken what the log has."""
    async with asyncio.timeout(60):
        for stream in ("TASKS", "BULK_TASKS"):
            while any(s.get("lag", 0) for s in (await api(world, f"STREAM.INFO.{stream}"))["sources"]):
                await asyncio.sleep(0.1)  # the interval between two questions


async def test_a_trim_drops_what_is_old_and_leaves_no_limit(world):
    old = await old_and_new(world, keep_s=2.0)
    everything = await messages(world)
    await sourced(world)
    done = await trim(world.pool, world.nats, 2.0, lease_s=0.0)
    assert (done.before, done.first_position) == (1, old + 1)
    assert await messages(world) == everything[old:]
    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    assert not config.get("max_age")
    assert TRIMMING not in config["metadata"]
    assert (await world.log.state()).trimmed_to >= old
    log = WholeLog(world.nats, lambda _org: _archive(world))
    assert [r.position async for r in log.read(0)] == [position for position, *_ in everything]
    await goes_on(world)


async def _archive(world: World) -> Archive:
    return Archive(world.pool)


async def test_nothing_old_is_no_fault(world):
    await archived_world(world)
    done = await trim(world.pool, world.nats, 3600, lease_s=0.0)
    assert done.before == done.first_position == 1


@pytest.mark.parametrize("fault", ["altered", "projector"])
async def test_a_trim_that_would_lose_something_is_refused(world, fault):
    await old_and_new(world, keep_s=2.0)
    await sourced(world)
    if fault == "altered":
        await tamper(world, f"UPDATE {TABLE} SET body = body || 'x' WHERE position = 3")
    else:
        await world.pool.execute("UPDATE data_engine.projection_checkpoints SET position = 1 WHERE name LIKE 'runs%'")
    before = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    with pytest.raises(StateConflictError, match="Nothing is trimmed"):
        await trim(world.pool, world.nats, 2.0, lease_s=0.0)
    after: dict[str, Any] = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    assert after == before
    assert (await world.log.state()).first_position == 1


async def test_a_trim_that_was_killed_is_ended_by_the_next(world):
    await archived_world(world)
    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    limited = config | {"max_age": 3600 * 10**9, "metadata": {**config["metadata"], TRIMMING: "now"}}
    await api(world, "STREAM.UPDATE.EVENTS", limited)
    assert any("max_age" in fault for fault in await check_streams(world.nats, replicas=1))
    await trim(world.pool, world.nats, 3600, lease_s=0.0)
    assert await check_streams(world.nats, replicas=1) == []
    await migrate_streams(world.nats, replicas=1)
