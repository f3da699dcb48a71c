"""The archive's next partition is made ahead, and nobody waits for that: no archiver, and nobody who reads."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from projections.archive import archiver as archiving_
from projections.archive.archiver import ENSURE_PARTITION, Archiver
from tests.projections.archiving import archive_all, archiving, whole
from tests.projections.support import TIMEOUT_S, World, whole_run

NEXT = "event_log_from_10000000"
THERE = f"SELECT to_regclass('data_engine.{NEXT}') IS NOT NULL"
WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ensure_event_log_part%')
"""


@pytest.fixture
async def near_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """The next partition is to be made now."""
    monkeypatch.setattr(archiving_, "PARTITION_AHEAD", 10_000_000)
    yield world
    await world.pool.execute(f"DROP TABLE IF EXISTS data_engine.{NEXT}")


async def test_a_long_query_keeps_no_archiver_waiting(near_the_end: World) -> None:
    world = near_the_end
    last = await world.append(whole_run(1))
    async with world.pool.acquire() as long, long.transaction():
        await long.execute("SELECT count(*) FROM data_engine.event_log")
        async with archiving(world) as (reached, _):
            await reached(last)
        assert not await world.pool.fetchval(THERE)
    assert await archive_all(world) == last  # begins again, and looks again
    assert await world.pool.fetchval(THERE)
    assert await whole(world) == last


async def test_two_archivers_that_make_it_at_once(near_the_end: World) -> None:
    world = near_the_end
    async with world.pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(ENSURE_PARTITION, 10_000_000)
        making = asyncio.create_task(Archiver(world.pool, world.nats)._ensure_partition(10_000_000))
        async with asyncio.timeout(TIMEOUT_S):
            while not await world.pool.fetchval(WAITS):
                await asyncio.sleep(0.01)  # the interval between two questions
        await transaction.commit()
    await asyncio.wait_for(making, TIMEOUT_S)
    assert await world.pool.fetchval(THERE)
