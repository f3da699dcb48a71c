"""Generations: a changed read model is built beside the old one, and nobody ever sees anything half-built."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from events.processing import RunSucceeded
from projections.base import LIVE_SCHEMA
from projections.catalogue import PROJECTIONS
from projections.checkpoints import CheckpointsMovedError
from projections.generations import (
    Building,
    NotSwitchedError,
    Succession,
    build_in_background,
    drop_old,
    in_service,
    successions,
)
from projections.projector import projection_status, run_projector
from projections.queries.positions import PROJECTED_POSITION
from projections.rebuild import rebuild
from projections.runs import RUNS, RUNS_V1
from tests.projections.support import TIMEOUT_S, World, at_least, until, whole_run

OLD_VIEW = """
CREATE OR REPLACE VIEW data_engine.runs WITH (security_invoker = true) AS
SELECT *, NULL::bigint AS input_rows, NULL::bigint AS output_rows FROM data_engine.runs_v1
"""
NEW_VIEW = "CREATE OR REPLACE VIEW data_engine.runs WITH (security_invoker = true) AS SELECT * FROM data_engine.runs_v2"
OLD_IN_SERVICE = f"""
TRUNCATE data_engine.runs_v1; {OLD_VIEW};
INSERT INTO data_engine.projection_checkpoints (name, position, epoch, decision_id) VALUES ('runs_v1', 0, '', '')
"""
RUNS_TO_BUILD = 30


@pytest.fixture
async def old(world: World):
    """A database that comes from the version before: `runs_v1` is in service, and up to date."""
    await world.pool.execute(OLD_IN_SERVICE)
    await world.project(await world.append(*(whole_run(number) for number in range(1, RUNS_TO_BUILD + 1))))
    yield world
    await world.pool.execute(NEW_VIEW)


def building(world: World, new=RUNS) -> Building:
    return Building(world.pool, world.nats, Succession(RUNS_V1, new), rest_share=0)


async def served(world: World) -> list[str]:
    async with world.pool.acquire() as database:
        return [projection.name for projection in await in_service(database) if projection.view == "runs"]


async def shown(world: World, column: str = "output_rows") -> set:
    return {row[0] for row in await world.pool.fetch(f"SELECT {column} FROM data_engine.runs")}


async def test_the_old_generation_stays_in_service_until_the_new_one_is_built(old):
    assert await served(old) == ["runs_v1"]
    assert await shown(old) == {None}
    assert len(await old.rows("step_results_v1")) == 3 * RUNS_TO_BUILD, "what reads runs reads those in service"
    progress = []
    switched = await building(old).run(progress.append)
    assert (switched.old, switched.new, switched.rows) == ("runs_v1", "runs_v2", RUNS_TO_BUILD)
    assert progress[-1].position == progress[-1].total == switched.position
    assert await served(old) == ["runs_v2"]
    assert await shown(old) == {1}
    assert all(result.identical for result in await rebuild(old.pool, old.nats))
    async with old.pool.acquire() as database:
        assert await successions(database) == []


async def test_an_interrupted_building_goes_on_where_it_was(old, monkeypatch):
    monkeypatch.setattr("projections.generations.BATCH_DECISIONS", 7)

    class Stopped(BaseException):
        pass

    def stop(progress):
        if progress.position >= 14:
            raise Stopped

    with pytest.raises(Stopped):
        await building(old).run(stop)
    half = {status.name: status for status in await projection_status(old.pool)}["runs_v2"]
    assert half.building
    assert 14 <= half.position < 2 * RUNS_TO_BUILD
    assert await old.pool.fetchval(PROJECTED_POSITION) > half.position, "nobody waits for what is being built"
    positions = []
    await building(old).run(lambda progress: positions.append(progress.position))
    assert positions[0] > half.position
    assert await shown(old) == {1}


async def test_a_crash_in_the_middle_of_the_switch_changes_nothing(old):
    async with old.pool.acquire() as blocker, blocker.transaction():
        await blocker.execute("SELECT count(*) FROM data_engine.runs")  # whoever changes the view waits for this
        switching = asyncio.create_task(building(old).run())
        pid = await _waiting_backend(old)
        await old.pool.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
            await switching
    assert await served(old) == ["runs_v1"]
    assert await shown(old) == {None}
    await building(old).run()
    assert await shown(old) == {1}


async def _waiting_backend(world: World) -> int:
    """The one that waits for a lock, as soon as there is one."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            pid = await world.pool.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%switch_generation%'"
            )
            if pid is not None:
                return pid


async def test_queries_meanwhile_never_fail_and_never_see_less(old):
    counts: list[int] = []
    done = asyncio.Event()

    async def ask():
        while not done.is_set():
            counts.append(await old.pool.fetchval("SELECT count(*) FROM data_engine.runs"))

    async with old.hints() as hints, old.projecting():
        asking = asyncio.create_task(ask())
        running = asyncio.create_task(building(old).run())
        more = await old.append(*(whole_run(number) for number in range(100, 140)))
        await asyncio.wait_for(running, TIMEOUT_S)
        await until(hints, at_least(more))
        done.set()
        await asking
    assert counts == sorted(counts)
    assert counts[0] >= RUNS_TO_BUILD
    assert len(await shown(old, "run_id")) == RUNS_TO_BUILD + 40
    assert await shown(old) == {1}
    assert all(result.identical for result in await rebuild(old.pool, old.nats))


async def test_a_projector_builds_in_the_background_and_goes_on_with_the_new_one(old):
    stop = asyncio.Event()
    running = asyncio.create_task(run_projector(old.settings, old.nats, stop))
    async with asyncio.timeout(TIMEOUT_S):
        while await served(old) != ["runs_v2"]:
            await old.append(whole_run(1000 + len(await old.rows("runs_v2"))))
    async with old.hints() as hints:
        await until(hints, at_least(await old.append(whole_run(5000))))
    stop.set()
    await asyncio.wait_for(running, TIMEOUT_S)
    assert await shown(old) == {1}
    assert all(result.identical for result in await rebuild(old.pool, old.nats))


async def test_two_that_build_at_once_end_with_one_switch(old, monkeypatch):
    monkeypatch.setattr("projections.generations.BATCH_DECISIONS", 5)
    outcomes = await asyncio.gather(building(old).run(), building(old).run(), return_exceptions=True)
    assert sum(isinstance(outcome, CheckpointsMovedError) for outcome in outcomes) <= 1
    assert all(not isinstance(outcome, Exception) or isinstance(outcome, CheckpointsMovedError) for outcome in outcomes)
    assert await served(old) == ["runs_v2"]
    assert all(result.identical for result in await rebuild(old.pool, old.nats))


async def test_a_generation_that_cannot_apply_a_decision_does_not_take_over(old):
    def fold(batch):
        for recorded in batch:
            if recorded.position == 8 and any(isinstance(event, RunSucceeded) for event in recorded.decision.events):
                raise ValueError("no such thing")
        return RUNS.fold(batch)

    with pytest.raises(NotSwitchedError, match=r"position 8: .*no such thing.*runs_v1 stays in service"):
        await building(old, replace(RUNS, fold=fold)).run()
    assert await served(old) == ["runs_v1"]
    status = {status.name: status for status in await projection_status(old.pool)}["runs_v2"]
    assert "position 8" in status.building_message


async def test_a_generation_that_says_other_things_waits_for_a_human(old):
    await old.pool.execute("UPDATE data_engine.runs_v1 SET status = 'failed' WHERE position = 1")
    with pytest.raises(NotSwitchedError, match=r"they differ \(1 and 1 rows.*--accept-differences"):
        await building(old).run()
    assert await served(old) == ["runs_v1"]
    await build_in_background(old.pool, old.nats)
    assert await served(old) == ["runs_v1"]
    await building(old).run(accept_differences=True)
    assert await served(old) == ["runs_v2"]


async def test_a_new_database_has_the_newest_generation_at_once(world):
    assert await served(world) == ["runs_v2"]
    async with world.pool.acquire() as database:
        assert {projection.name for projection in await in_service(database)} == {p.name for p in PROJECTIONS}


async def test_old_tables_are_dropped_only_when_they_serve_no_more(old):
    async with old.pool.acquire() as database:
        assert await drop_old(database) == []
        await building(old).run()
        transaction = database.transaction()
        await transaction.start()
        assert await drop_old(database) == ["runs_v1"]
        assert await drop_old(database) == []
        await transaction.rollback()  # other tests have use for it
    assert await old.pool.fetchval(f"SELECT to_regclass('{LIVE_SCHEMA}.runs_v1') IS NOT NULL")
