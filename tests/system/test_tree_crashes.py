"""SIGKILL of what builds the trees, signs and pushes checkpoints, and of Postgres under it, at every named point."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from events.audit.checkpoint import AuditKey, SignedCheckpoint
from events.errors import UnavailableError
from events.settings import Settings
from projections.archive.archiver import Archiver
from projections.archive.trees import AFTER_COMMIT, AFTER_TREES, BEFORE_COMMIT, TreeBuilder
from projections.database import create_pool
from tests.audit.archive import START_OVER, tamper
from tests.audit.support import SECRET
from tests.system.test_archiver_crashes import PATIENCE_S, bare_system, connect, write  # noqa: F401
from tests.system.trees_that_die import AFTER_PUSH, ORIGIN, WITHIN_PUSH

POINTS = (AFTER_TREES, BEFORE_COMMIT, AFTER_COMMIT)
KEY = AuditKey.of(SECRET, ORIGIN)
ROWS = {
    "org_leaves": "SELECT * FROM data_engine.org_leaves ORDER BY org_id, leaf_index",
    "org_tiles": "SELECT * FROM data_engine.org_tiles ORDER BY org_id, level, tile_index",
    "org_trees": "SELECT org_id, size, position, peaks FROM data_engine.org_trees ORDER BY org_id",
    "head": "SELECT * FROM data_engine.org_trees_head",
}


class Roots:
    """The checkpoints that were seen, wherever: no two of one size have different roots."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], bytes] = {}

    def add(self, note: str) -> None:
        checkpoint = SignedCheckpoint.parse(note).checkpoint
        assert self.seen.setdefault((checkpoint.origin, checkpoint.size), checkpoint.root) == checkpoint.root

    async def look(self, database_url: str) -> None:
        """At those of the database."""
        async with await create_pool(Settings(_env_file=None, database_url=database_url)) as pool:
            for table in ("org_trees", "org_checkpoints"):
                for row in await pool.fetch(f"SELECT note FROM data_engine.{table}"):
                    self.add(row["note"])


async def archive(endpoints: Any, last: int) -> None:
    connection = await connect([endpoints.nats_url], "test")
    async with await create_pool(Settings(_env_file=None, database_url=endpoints.database_url)) as pool:
        await Archiver(pool, connection).run(asyncio.Event(), until_position=last)
    await connection.close()


async def trees(pool: asyncpg.Pool) -> dict[str, list[tuple[Any, ...]]]:
    return {name: [tuple(row) for row in await pool.fetch(sql)] for name, sql in ROWS.items()}


async def built(pool: asyncpg.Pool) -> dict[str, list[tuple[Any, ...]]]:
    builder = TreeBuilder(pool, KEY)
    while await builder.step():
        continue
    return await trees(pool)


async def equal_a_rebuild(database_url: str, roots: Roots) -> None:
    """What there is after all the crashes is what is built from scratch."""
    async with await create_pool(Settings(_env_file=None, database_url=database_url)) as pool:
        found = await built(pool)
        await roots.look(database_url)
        await tamper(pool, "TRUNCATE data_engine.org_leaves, data_engine.org_tiles, data_engine.org_trees", START_OVER)
        assert await built(pool) == found
        assert len(found["org_leaves"]) > 0
    await roots.look(database_url)


async def test_what_builds_signs_and_pushes_is_killed_at_every_point(bare_system, tmp_path: Path) -> None:  # noqa: F811
    endpoints, roots, file = bare_system.endpoints, Roots(), tmp_path / "pushed"
    for number, point in enumerate((*POINTS, AFTER_PUSH, WITHIN_PUSH), 1):
        await archive(endpoints, await write(bare_system, 2 * number, 2 * number + 1))
        urls = (endpoints.process_database_urls["archiver"], SECRET, str(file))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.system.trees_that_die", *urls, point
        )
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == -signal.SIGKILL
        await roots.look(endpoints.database_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.system.trees_that_die", *urls, AFTER_PUSH
    )
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == -signal.SIGKILL
    *whole, cut, last = [line for line in file.read_bytes().split(b"\n") if line]
    for line in (*whole, last):
        roots.add(orjson.loads(line)["checkpoint"])  # what was pushed twice is the same
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(cut)
    await equal_a_rebuild(endpoints.database_url, roots)


async def test_postgres_is_killed_under_it_at_every_point(bare_system) -> None:  # noqa: F811
    endpoints, roots = bare_system.endpoints, Roots()
    for number, point in enumerate(POINTS, 1):
        last = await write(bare_system, 2 * number, 2 * number + 1)
        await archive(endpoints, last)
        killed: list[str] = []
        stop = asyncio.Event()

        def kill(reached: str, point: str = point, killed: list[str] = killed) -> None:
            if reached == point and not killed:
                killed.append(reached)
                bare_system.supervisor.kill("postgres", signal.SIGKILL)

        async def told(position: int, last: int = last, stop: asyncio.Event = stop) -> None:
            if position == last:
                stop.set()

        settings = Settings(_env_file=None, database_url=endpoints.process_database_urls["archiver"])
        async with await create_pool(settings) as pool:
            builder = TreeBuilder(pool, KEY, reached=kill, told=told, idle_s=0.1, batch_max=5)
            await asyncio.wait_for(builder.run(stop), PATIENCE_S)
        assert killed == [point]
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await roots.look(endpoints.database_url)
                    break
                except UnavailableError:
                    await asyncio.sleep(0.2)  # the interval between two questions: Postgres is on its way up
    await equal_a_rebuild(endpoints.database_url, roots)
