"""The archiver on real servers: all that is in the log gets into the archive, in order and once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from cli.database_roles import ensure_logins
from events.archive import Archive
from events.errors import LogRewoundError
from events.mapper import decode_decision
from events.model import Recorded
from events.settings import Settings
from projections.archive.archiver import AFTER_COMMIT, AFTER_COPY, BEFORE_COMMIT, Archiver
from projections.database import create_pool
from tests.projections.archiving import archive_all, archiving, whole
from tests.projections.support import COMPANY, ORG, USER, World, an_id, make_log_anew, whole_run


@pytest.fixture
async def archiver_pool(world: World, own_servers) -> AsyncIterator[asyncpg.Pool]:
    """Connections of the archiver's own login."""
    await ensure_logins(own_servers.database_url, own_servers.logins)
    settings = Settings(_env_file=None, database_url=own_servers.database_urls["archiver"])
    async with await create_pool(settings) as pool:
        yield pool


async def test_the_archive_has_what_the_log_has_as_a_login_that_may_only_add(world, archiver_pool):
    last = await world.append(whole_run(1), whole_run(2))
    before = datetime.now(UTC)
    async with archiving(world, pool=archiver_pool) as (reached, _):
        await reached(last)
        last = await world.append(whole_run(3))
        await reached(last)
    assert await whole(world) == last
    archive = Archive(world.pool)
    found = await archive.read(0)
    recorded = [Recorded(m.position, decode_decision(m.subject, m.body)) for m in found]
    assert recorded == [r async for r in world.log.read(0)]
    assert await archive.history(ORG, "run", an_id(2)) == await world.log.history(ORG, "run", an_id(2))
    assert await archive.holds(ORG, "run", an_id(3), 1)
    assert not await archive.holds(ORG, "run", an_id(3), 99)
    assert await archive.position_at(before) == last - len(whole_run(3).recorded)
    assert await archive.position_at(datetime.now(UTC) + timedelta(minutes=1)) == last
    assert await archive.position_at(before - timedelta(days=1)) == 0
    row = await world.pool.fetchrow("SELECT * FROM data_engine.event_log WHERE position = 1")
    assert (str(row["org_id"]), row["kind"], row["aggregate_id"], row["version"]) == (ORG, "run", an_id(1), 1)
    assert (str(row["user_id"]), row["company_id"]) == (USER, None)
    assert COMPANY in row["body"].decode()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE data_engine.event_log SET subject = 'x'",
        "DELETE FROM data_engine.event_log",
        "TRUNCATE data_engine.event_log",
        "TRUNCATE data_engine.event_log_from_0",
        "DELETE FROM data_engine.event_log_from_0",
    ],
)
async def test_nobody_changes_a_row(world, archiver_pool, sql):
    await world.append(whole_run(1))
    last = await archive_all(world)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await archiver_pool.execute(sql)
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await world.pool.execute(sql)
    assert await whole(world) == last


async def test_what_is_no_decision_is_archived_too(world):
    subjects_ = ["events.x", f"events.{ORG}.run.r.notanumber.log.x", f"events.{ORG}.run.r.1.log.x"]
    bodies = [b"\xff\x00\xfe", b"[]", b'{"id": "a\\u0000b", "at": "2026-01-01", "actor": 3, "company": "no"}']
    for subject, body in zip(subjects_, bodies, strict=True):
        await world.publish(subject, body)
    last = await archive_all(world)
    assert await whole(world) == last == 3
    assert [(m.subject, m.body) for m in await Archive(world.pool).read(0)] == list(zip(subjects_, bodies, strict=True))
    assert (await world.pool.fetchval("SELECT kind FROM data_engine.event_log WHERE position = 1")) is None
    await world.append(whole_run(1))
    assert await archive_all(world) == await whole(world)


async def test_two_archivers_at_once_are_harmless(world):
    archivers = [Archiver(world.pool, world.nats), Archiver(world.pool, world.nats)]
    async with archiving(world, *archivers) as (reached, _):
        for number in range(1, 30):
            last = await world.append(whole_run(number))
        await reached(last)
    assert await whole(world) == last


class _CrashError(Exception):
    pass


@pytest.mark.parametrize("point", [AFTER_COPY, BEFORE_COMMIT, AFTER_COMMIT])
async def test_an_archiver_that_ends_anywhere_leaves_no_gap_and_no_double(world, point):
    def crash(reached: str) -> None:
        if reached == point:
            raise _CrashError

    last = await world.append(whole_run(1), whole_run(2))
    with pytest.raises(_CrashError):
        await asyncio.wait_for(Archiver(world.pool, world.nats, reached=crash).run(asyncio.Event()), 20)
    assert (await whole(world) > 0) == (point == AFTER_COMMIT)
    assert await archive_all(world) == await whole(world) == last


async def test_a_log_made_anew_stops_the_archiver(world):
    await world.append(whole_run(1))
    last = await archive_all(world)
    await make_log_anew(world.nats)
    await world.append(whole_run(7), whole_run(8), whole_run(9))
    with pytest.raises(LogRewoundError, match="the archive"):
        await asyncio.wait_for(Archiver(world.pool, world.nats).run(asyncio.Event()), 20)
    assert (await Archive(world.pool).head()).position == last
