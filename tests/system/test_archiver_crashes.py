"""SIGKILL of the archiver, and of Postgres under it, at every named point: no gap and no double in the archive."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from cli.system import System
from events.connection import connect
from events.errors import UnavailableError
from events.log import EventLog
from events.settings import Settings
from projections.archive.archiver import AFTER_COMMIT, AFTER_COPY, BEFORE_COMMIT, Archiver
from projections.archive.check import CheckResult, check
from projections.database import create_pool
from tests.projections.support import whole_run

POINTS = (AFTER_COPY, BEFORE_COMMIT, AFTER_COMMIT)
PATIENCE_S = 90


@pytest.fixture
async def bare_system(home) -> AsyncIterator[System]:
    """Embedded servers without a process of ours."""
    running = System(Settings(_env_file=None, home=home, port=0), lambda _name, _what: None)
    await running.start(processes=())
    yield running
    await running.stop(abruptly=True)


async def write(system: System, *numbers: int) -> int:
    """Runs into the log; the last position."""
    connection = await connect([system.endpoints.nats_url], "test")
    for number in numbers:
        for recorded in whole_run(number).recorded:
            position = (await EventLog(connection).append(recorded.decision)).position
    await connection.close()
    return position


async def checked(system: System) -> CheckResult:
    """What `dex log check` finds."""
    endpoints = system.endpoints
    connection = await connect([endpoints.nats_url], "test")
    settings = Settings(_env_file=None, database_url=endpoints.database_url)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with await create_pool(settings) as pool:
                    found = await check(pool, connection)
                break
            except UnavailableError:
                await asyncio.sleep(0.2)  # the interval between two questions: Postgres is on its way up
    await connection.close()
    return found


async def test_the_archiver_is_killed_at_every_point(bare_system):
    endpoints, archived = bare_system.endpoints, 0
    for number, point in enumerate(POINTS, 1):
        last = await write(bare_system, 2 * number, 2 * number + 1)
        urls = (endpoints.process_nats_urls["archiver"], endpoints.process_database_urls["archiver"])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.system.archiver_that_dies", *urls, point, stdout=asyncio.subprocess.DEVNULL
        )
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == -signal.SIGKILL
        found = await checked(bare_system)
        assert found.ok, found.faults
        assert (found.archived > archived) == (point == AFTER_COMMIT)
        assert found.archived + found.not_archived == last
        archived = found.archived


async def test_postgres_is_killed_at_every_point(bare_system):
    endpoints = bare_system.endpoints
    connection = await connect([endpoints.process_nats_urls["archiver"]], "test")
    settings = Settings(_env_file=None, database_url=endpoints.process_database_urls["archiver"])
    for number, point in enumerate(POINTS, 1):
        last = await write(bare_system, 2 * number, 2 * number + 1)
        killed: list[str] = []

        def kill(reached: str, point: str = point, killed: list[str] = killed) -> None:
            if reached == point and not killed:
                killed.append(reached)
                bare_system.supervisor.kill("postgres", signal.SIGKILL)

        async with await create_pool(settings) as pool:
            archiving = Archiver(pool, connection, reached=kill).run(asyncio.Event(), until_position=last)
            await asyncio.wait_for(archiving, PATIENCE_S)
            assert killed == [point]
        found = await checked(bare_system)  # through a pool of its own: Postgres may still be on its way up
        assert found.ok, found.faults
        assert found.archive.position == found.archived == found.compared == last
    await connection.close()
