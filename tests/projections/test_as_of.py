"""Any moment: `as_of` = the read models built into a schema at that position = those of a log that ends there."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from events import processing
from events.errors import InvalidInputError, StateConflictError
from projections.moment import build_moment
from projections.queries import work
from projections.queries.reader import Reader, Scope
from tests.projections.archiving import archive_all
from tests.projections.asking import asking
from tests.projections.support import BLUEPRINT, COMPANY, ORG, USER, History, an_id, done, fault, payload
from tests.projections.trimming import trim_to

FIRST, SECOND, THIRD, FOURTH = (an_id(number) for number in range(201, 205))
MADE = an_id(300)


def some_runs() -> History:
    """Runs that begin, fail once, wait, progress, end, beside each other; one of them with its submission."""
    history = History()
    first = history.start(FIRST)
    second = history.start(SECOND)
    first = history.record(first, done(0))
    second = history.record(second, fault(0))
    created = processing.SubmissionCreated(
        originator_id=THIRD, originator_version=0, submission_id=MADE, company_id=COMPANY, blueprint_id=BLUEPRINT,
        name="m", records=payload("in"),
    )  # fmt: skip
    third = history.start(THIRD)
    last = history.recorded.pop().decision  # a submission and its first run are one decision
    history.decide(processing.RUN, THIRD, created, *last.events, user_id=USER, routing=last.routing)
    first = history.record(first, done(1, output=payload("big", inline=False)))
    second = history.record(second, fault(0, attempt=2, retryable=False))
    history.start(FOURTH)
    first = history.record(first, done(2))
    history.record(third, *(done(index) for index in range(3)))
    return history


async def everything_about(ask: Any, **moment: Any) -> dict[str, Any]:
    """What all endpoints that take `as_of` tell."""
    told: dict[str, Any] = {
        "runs": await ask("runs/list", **moment),
        "failed": await ask("runs/list", status="failed", **moment),
        "submissions": await ask("submissions/list", **moment),
        "submission": (await ask("submissions/get", submission_id=MADE, **moment)),
    }
    for run_id in (FIRST, SECOND, THIRD, FOURTH):
        told[run_id] = await ask("runs/get", run_id=run_id, **moment)
        told[f"steps of {run_id}"] = await ask("step_results/list", run_id=run_id, **moment)
    return {name: answer if status == 200 else status for name, (status, answer) in told.items()}


async def test_as_of_tells_what_a_log_that_ends_there_would_tell(world):
    history = some_runs()
    cut: list[dict[str, Any]] = []
    async with asking(world) as ask:
        cut.append(await everything_about(ask))
        for recorded in history.recorded:  # the log grows; what is told at each end is what as_of must tell later
            one = History(recorded=[recorded])
            await world.project(await world.append(one))
            cut.append(await everything_about(ask, min_position=recorded.position))
        for position, told in enumerate(cut):
            assert await everything_about(ask, as_of=position) == told, position
        assert len({str(told) for told in cut}) == len(cut), "every decision is seen"


async def test_a_schema_of_a_moment_has_the_rows_of_a_log_that_ends_there(world):
    history = some_runs()
    wanted = [await world.everything()]
    for recorded in history.recorded:
        await world.project(await world.append(History(recorded=[recorded])))
        wanted.append(await world.everything())
    await archive_all(world)
    await trim_to(world, 4)
    for position, rows in enumerate(wanted):
        built = await build_moment(world.pool, world.nats, "then", position)
        assert built.rows == {name: len(found) for name, found in rows.items()}
        assert built.dead_letters == 0
        for name in rows:
            differing = f'(TABLE data_engine.{name} EXCEPT TABLE "then".{name})'
            if position == len(wanted) - 1:
                assert await world.pool.fetch(differing) == []
        found = await world.pool.fetch('SELECT run_id::text, status, last_position FROM "then".runs ORDER BY run_id')
        assert [tuple(row) for row in found] == [
            (row["run_id"], row["status"], row["last_position"])
            for row in sorted(rows["runs_v2"], key=lambda row: row["run_id"])
        ]
    await world.pool.execute('DROP SCHEMA "then" CASCADE')


async def test_the_named_queries_say_the_same_of_the_schema_and_of_the_moment(world):
    last = await world.append(some_runs())
    await world.project(last)
    async with asking(world) as ask:
        for position in range(1, last + 1):
            await build_moment(world.pool, world.nats, "then", position)
            reader = Reader(SimpleNamespace(acquire=world.pool.acquire))  # type: ignore[arg-type]
            sql = work.RUNS.replace("data_engine.", '"then".')
            rows = await reader.rows(Scope(ORG), sql, ORG, None, last + 1, 50, None, None, None, False)
            _, answer = await ask("runs/list", as_of=position)
            assert [(row["run_id"], row["status"], row["last_position"]) for row in rows] == [
                (item["run_id"], item["status"], item["last_position"]) for item in answer["items"]
            ]
    await world.pool.execute('DROP SCHEMA "then" CASCADE')


async def test_a_time_is_the_last_position_recorded_by_then(world):
    last = await world.append(some_runs())
    await world.project(last)
    recorded = [recorded async for recorded in world.log.read(0)]
    async with asking(world) as ask:
        for one in recorded:
            assert one.recorded_at is not None
            by_time = await everything_about(ask, as_of=one.recorded_at.isoformat())
            same = [other.position for other in recorded if other.recorded_at == one.recorded_at][-1]
            assert by_time == await everything_about(ask, as_of=same)
        before = (recorded[0].recorded_at - timedelta(seconds=1)).isoformat()  # type: ignore[operator]
        assert (await ask("runs/list", as_of=before))[1]["items"] == []
        await archive_all(world)
        await trim_to(world, last)
        at = recorded[3].recorded_at.isoformat()  # type: ignore[union-attr]
        assert await everything_about(ask, as_of=at) == await everything_about(ask, as_of=recorded[3].position)


async def test_moments_that_there_are_not(world):
    last = await world.append(some_runs())
    await world.project(last)
    async with asking(world) as ask:
        for wrong in (last + 1, "yesterday", "2026-01-31T12:00:00", (datetime.now(UTC) + timedelta(1)).isoformat()):
            status, problem = await ask("runs/list", as_of=wrong)
            assert (status, problem["errors"][0]["path"]) == (422, "/as_of"), wrong
        status, problem = await ask("runs/get", run_id=FOURTH, as_of=1)
        assert status == 404
        assert "at position 1" in problem["detail"]
        assert (await ask("runs/get", run_id=FIRST, as_of=1, wait_s=1))[0] == 422


async def test_pages_as_of_a_moment_are_whole(world):
    last = await world.append(some_runs())
    await world.project(last)
    async with asking(world) as ask:
        for position in range(last + 1):
            _, whole = await ask("runs/list", as_of=position)
            found, cursor = [], None
            while True:
                _, page = await ask("runs/list", as_of=position, limit=1, **({"cursor": cursor} if cursor else {}))
                found += page["items"]
                if (cursor := page["next_cursor"]) is None:
                    break
            assert found == whole["items"]


@pytest.mark.parametrize("schema", ["data_engine", "data_engine_rebuild", "public", "pg_catalog", "A", "x;y", ""])
async def test_schemas_that_are_not_ours_to_make(world, schema):
    with pytest.raises(InvalidInputError):
        await build_moment(world.pool, world.nats, schema, 0)


async def test_a_schema_of_somebody_else_is_left_alone(world):
    await world.pool.execute("CREATE SCHEMA theirs; CREATE TABLE theirs.kept ()")
    with pytest.raises(StateConflictError, match="theirs"):
        await build_moment(world.pool, world.nats, "theirs", 0)
    assert await world.pool.fetchval("SELECT to_regclass('theirs.kept') IS NOT NULL")
    await world.pool.execute("DROP SCHEMA theirs CASCADE")


async def test_a_position_beyond_the_log_is_refused(world):
    with pytest.raises(InvalidInputError, match="no position 1; its last one is 0"):
        await build_moment(world.pool, world.nats, "then", 1)
