"""Archivers for the tests, and what the archive must be at any time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson

from events import subjects
from events.archive import Archive
from events.leaf import NO_CHAIN, leaf_bytes, next_chain
from projections.archive.archiver import Archiver
from tests.projections.support import TIMEOUT_S, World

ROWS = "SELECT position, subject, body, chain FROM data_engine.event_log ORDER BY position"


@asynccontextmanager
async def archiving(world: World, *archivers: Archiver, pool: asyncpg.Pool | None = None) -> AsyncIterator[Any]:
    """Archivers that run; yields a function that waits until the archive has a position, and the last one's task."""
    archived: asyncio.Queue[int] = asyncio.Queue()

    async def receive(message: Any) -> None:
        archived.put_nowait(orjson.loads(message.data)["position"])

    async def reached(position: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while (await Archive(world.pool).head()).position < position:
                await archived.get()

    subscription = await world.nats.subscribe(subjects.ARCHIVED, cb=receive)
    await world.nats.flush()
    stop = asyncio.Event()
    running = archivers or (Archiver(pool or world.pool, world.nats),)
    tasks = [asyncio.create_task(archiver.run(stop)) for archiver in running]
    try:
        yield reached, tasks[-1]
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT_S)
        await subscription.unsubscribe()


async def archive_all(world: World) -> int:
    """Archive what the log has; the last position."""
    last = (await world.log.state()).last_position
    async with archiving(world) as (reached, _):
        await reached(last)
    return last


async def whole(world: World, pool: asyncpg.Pool | None = None) -> int:
    """Assert that the archive has each position from 1 to its head once, byte for byte, with the right chain."""
    head = await Archive(world.pool).head()
    rows = await (pool or world.pool).fetch(ROWS)
    assert [row["position"] for row in rows] == list(range(1, head.position + 1))
    chain = NO_CHAIN
    for row in rows:
        chain = next_chain(chain, leaf_bytes(row["position"], row["subject"], row["body"]))
        assert row["chain"] == chain
    assert head.chain == chain
    assert head.epoch == (await world.log.state()).epoch or not head.position
    return head.position
