"""What others do while a generation is switched: none of them brings the old one's checkpoint back.

One that came back at position 0, in service, would hold up every query that names a position, for ever.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from events.errors import StateConflictError
from projections import rebuild as rebuilding
from projections.checkpoints import CheckpointsMovedError
from projections.generations import SWITCH
from projections.projector import Projector, projection_status
from projections.rebuild import rebuild
from projections.runs import RUNS_V1
from tests.projections.support import TIMEOUT_S, World, at_least, until, whole_run
from tests.projections.test_generations import NEW_VIEW, OLD_IN_SERVICE, _waiting_backend, building, served, shown

RUNS = 4
ASKED_MAX_S = 10.0
WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%projection_checkpoints%')
"""


@pytest.fixture
async def old(world: World) -> AsyncIterator[World]:
    """`runs_v1` is in service, and up to date."""
    await world.pool.execute(OLD_IN_SERVICE)
    await world.project(await world.append(*(whole_run(number) for number in range(1, RUNS + 1))))
    yield world
    await world.pool.execute(NEW_VIEW)


async def switched(world: World) -> None:
    """The new generation is in service, and nothing is left of the old one's checkpoint; all go on."""
    assert "runs_v1" not in {status.name for status in await projection_status(world.pool)}
    assert await served(world) == ["runs_v2"]
    await world.project(await world.append(whole_run(1000)))
    assert await shown(world) == {1}


async def test_another_one_that_builds_it_too(old: World) -> None:
    late = building(old)
    verify = late._guard.verify

    async def then_switch(checkpoints: Any) -> Any:
        state = await verify(checkpoints)
        await building(old).run()
        return state

    late._guard.verify = then_switch  # type: ignore[method-assign]
    with pytest.raises(CheckpointsMovedError):
        await asyncio.wait_for(late.run(), TIMEOUT_S)
    await switched(old)


@pytest.mark.parametrize("names", [("step_results_v1",), ("runs_v1",)])
async def test_a_rebuild_that_began_before_it(old: World, monkeypatch: pytest.MonkeyPatch, names: tuple[str]) -> None:
    finish = rebuilding._Building.finish

    async def after_the_switch(self: Any, *arguments: Any, **options: Any) -> Any:
        await building(old).run()
        return await finish(self, *arguments, **options)

    monkeypatch.setattr(rebuilding._Building, "finish", after_the_switch)
    if names == ("runs_v1",):
        with pytest.raises(StateConflictError, match="runs_v1 is no longer in service"):
            await rebuild(old.pool, old.nats, names)
    else:
        (result,) = await rebuild(old.pool, old.nats, names)
        assert result.identical
    await switched(old)


async def test_a_query_that_goes_on_and_on_holds_up_no_other(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.generations.SWITCH_RETRY_S", (0.01,))
    async with old.pool.acquire() as long, long.transaction():
        await long.execute("SELECT count(*) FROM data_engine.runs")  # whoever changes the view waits for this
        running = asyncio.create_task(building(old).run())
        await _waiting_backend(old)
        async with asyncio.timeout(ASKED_MAX_S):
            assert await shown(old) == {None}
        async with old.hints() as hints, old.projecting():
            await until(hints, at_least(await old.append(whole_run(2000))))
        (status,) = [status for status in await projection_status(old.pool) if status.name == "runs_v2"]
        assert "wait" in (status.building_message or "")
    await asyncio.wait_for(running, TIMEOUT_S)
    await switched(old)


async def test_a_projector_that_begins_in_the_middle_of_it(old: World) -> None:
    new = building(old)
    stop = asyncio.Event()
    async with old.pool.acquire() as other:
        await new._begin()
        await new._build_to(other, (await old.log.state()).last_position, lambda _: None, 1.0)
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT FROM data_engine.projection_checkpoints WHERE name LIKE 'runs_v%' FOR UPDATE")
        await other.execute(SWITCH, "runs", RUNS_V1.name, "runs_v2")
        running = asyncio.create_task(Projector(old.pool, old.nats).run(stop))
        async with asyncio.timeout(TIMEOUT_S):
            while not await old.pool.fetchval(WAITS):
                await asyncio.sleep(0.01)  # the interval between two questions
        await transaction.commit()
    async with old.hints() as hints:
        await until(hints, at_least(await old.append(whole_run(5000))))
    stop.set()
    await asyncio.wait_for(running, TIMEOUT_S)
    await switched(old)
