"""One more `dex worker` beside those of the system under test, with options and a folder of its own."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cli.supervisor import ProcessSpec, Supervisor
from cli.system import System
from events.connection import connect
from events.health import ask_health
from events.settings import Settings

_IN_FOLDER = "import os, sys; os.chdir(sys.argv.pop(1)); from cli.main import main; main()"


@asynccontextmanager
async def extra_worker(system: System, settings: Settings, folder: Path, *options: str) -> AsyncIterator[None]:
    """`dex worker OPTIONS`, begun in `folder`, from when it answers until the block ends."""
    assert system.endpoints is not None
    environment = system.endpoints.for_process(settings, "worker").as_environment()
    environment["DATA_ENGINE_STEP_MODULES"] = "services.steps.catalogue"
    argv = [sys.executable, "-c", _IN_FOLDER, str(folder), "worker", *options]
    connection = await connect([system.endpoints.nats_url], "test")
    before = {alive.pid for alive in await ask_health(connection, 2, process="worker", enough=1)}

    async def serves() -> None:
        alive = await ask_health(connection, 0.3, process="worker")
        if not {one.pid for one in alive} - before:
            raise ConnectionError("The worker does not answer yet.")

    supervisor = Supervisor(folder / "state.json", lambda _name, _what: None)
    spec = ProcessSpec("extra-worker", argv, folder / "worker.log", env={**os.environ, **environment}, ready=serves)
    try:
        await supervisor.start(spec)
        yield
    finally:
        await supervisor.stop()
        await connection.close()
