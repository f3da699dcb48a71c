"""A large batch done by two worker processes, of which either may be killed at any moment."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cli.system import System
from events.connection import connect
from events.health import ask_health
from events.keyring import use_keys
from events.keys import MasterKeys
from events.settings import Settings
from services.ingest.config import CHUNK_ROWS
from tests.conftest import SYSTEM_MASTER_KEYS
from tests.system.client import Org
from tests.system.test_batches import uploaded

CHUNKS = 12
FIRSTS = {str(number * CHUNK_ROWS) for number in range(CHUNKS)}
FILE = "n\n" + "".join(f"{n}\n" for n in range(CHUNKS * CHUNK_ROWS))


@asynccontextmanager
async def worker(system: System, settings: Settings, folder: Path) -> AsyncIterator[int]:
    """A `dex worker` of the test's own, which serves one step that nobody else serves; its process id."""
    assert system.endpoints is not None
    environment = system.endpoints.for_process(settings, "worker").as_environment()
    environment["DATA_ENGINE_STEP_MODULES"] = "tests.system.fleet_steps"
    connection = await connect([system.endpoints.nats_url], "test")
    use_keys(connection, MasterKeys(SYSTEM_MASTER_KEYS))
    with (folder / "worker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli.main", "worker", env={**os.environ, **environment}, stdout=log, stderr=log
        )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            while process.pid not in {alive.pid for alive in await ask_health(connection, 0.3, process="worker")}:
                assert process.returncode is None, (folder / "worker.log").read_text()
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await connection.close()


class Told:
    """The file in which the step tells where its chunks are done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def workers(self) -> set[int]:
        return {int(line[0]) for line in self.lines()}

    def chunks(self) -> Counter[str]:
        return Counter(line[2] for line in self.lines())

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until the file says so, which nobody tells of."""
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.02)


async def begin(org: Org, told: Told, hold: Path | None = None) -> dict:
    config = {"told": str(told.path), "hold": str(hold or ""), "held_from": 4 * CHUNK_ROWS}
    return await uploaded(org, await org.blueprint({"key": "test_fleet", "config": config}), FILE)


async def digest_of(org: Org, made: dict) -> str:
    run = await org.ended(made, wait_s=60)
    assert run["status"] == "succeeded", run
    return (await org.steps(made, run["last_position"]))[1]["output"]["digest"]


async def test_two_workers_do_a_batch_and_either_may_be_killed(system, system_settings, org, tmp_path):
    first, second, third = (Told(tmp_path / name) for name in ("first", "second", "third"))
    hold = tmp_path / "hold"
    async with worker(system, system_settings, tmp_path) as director:
        alone = await digest_of(org, await begin(org, first))
        assert first.workers() == {director}
        assert first.chunks() == dict.fromkeys(FIRSTS, 1)

        hold.touch()
        made = await begin(org, second, hold)
        await second.until(lambda: len(second.lines()) > 4)
        async with worker(system, system_settings, tmp_path) as helper:
            await second.until(lambda: helper in second.workers())
            os.kill(helper, signal.SIGKILL)
            hold.unlink()
            assert await digest_of(org, made) == alone
        assert second.workers() == {director, helper}
        assert second.chunks().keys() == FIRSTS

        hold.touch()
        made = await begin(org, third, hold)
        await third.until(lambda: len(third.lines()) > 4)
        async with worker(system, system_settings, tmp_path) as other:
            await third.until(lambda: other in third.workers())
            os.kill(director, signal.SIGKILL)
            hold.unlink()
            assert await digest_of(org, made) == alone
            assert third.workers() == {director, other}
            assert third.chunks().keys() == FIRSTS
            done_before = {str(number * CHUNK_ROWS) for number in range(4)}
            assert {third.chunks()[first] for first in done_before} == {1}, "what was done is not done again"
