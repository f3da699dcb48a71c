"""The five processes, each until it is told to stop: the same entry points on a laptop and in a container.

What a process consists of is imported where it is served: `dex` would wait for all of it at each command (the worker's
libraries alone are a second). `python -m cli.processes NAME` runs one without the rest of the command line.
"""

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping

import uvloop

from cli.database_roles import refuse_privileged_role
from events import metrics, tracing
from events.connection import connect
from events.errors import DataEngineError, UnavailableError
from events.health import answer_health
from events.keyring import use_keys, wrapper_of
from events.logging import configure_logging, get_logger
from events.settings import Settings

GATEWAY, COMMAND_SERVICE, WORKER = "gateway", "command-service", "worker"
PROJECTOR, ARCHIVER = "projector", "archiver"

GC_ALLOCATIONS = 20_000
STOP_WITHIN_S = 25.0
DATABASE_RETRY_S = 1.0

Serve = Callable[[Settings, asyncio.Event], Coroutine[None, None, None]]


def run_process(name: str, settings: Settings, serve: Serve) -> int:
    """Run one process with logs and signals set up; its exit code. SIGTERM and SIGINT stop it cleanly."""
    configure_logging(settings.log_level, settings.log_format, name)
    _collect_rarely()
    try:
        with metrics.serving(name, settings), tracing.exporting(name, settings):
            uvloop.run(_until_stopped(settings, serve))
    except DataEngineError as error:
        get_logger(name).error("stopped", code=error.code, reason=error.message)
        return 1
    return 0


def _collect_rarely() -> None:
    """Have the garbage collector look less often, and never at what was there at the start.

    Messages leave few cycles behind; with the defaults, collecting was 5 to 6 % of each process under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)


async def _until_stopped(settings: Settings, serve: Serve) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving, stopping = asyncio.create_task(serve(settings, stop)), asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    done, _ = await asyncio.wait({serving}, timeout=STOP_WITHIN_S)
    if not done:  # it was still starting, or something holds it
        serving.cancel()
    await serving


async def serve_commands(settings: Settings, stop: asyncio.Event) -> None:
    """The command service."""
    from services.broker import build_broker
    from services.command_service import CommandService

    service = CommandService(build_broker(settings.nats_servers, COMMAND_SERVICE), settings)
    await answer_health(await service.start(), COMMAND_SERVICE)
    get_logger("commands").info("started")
    await stop.wait()
    await service.stop()


async def serve_worker(settings: Settings, stop: asyncio.Event) -> None:
    """One worker with the steps of `settings.step_modules`."""
    from services.broker import build_broker
    from services.worker.service import Worker

    worker = Worker(settings, build_broker(settings.nats_servers, WORKER))
    await answer_health(await worker.start(), WORKER)
    await stop.wait()
    await worker.stop()


async def serve_projector(settings: Settings, stop: asyncio.Event) -> None:
    """The projector."""
    from projections.projector import run_projector

    if not await _bound_by_row_security(settings, PROJECTOR, stop):
        return
    connection = await connect(settings.nats_servers, PROJECTOR)
    use_keys(connection, wrapper_of(settings))
    try:
        await answer_health(connection, PROJECTOR)
        await run_projector(settings, connection, stop)
    finally:
        await connection.close()


async def serve_archiver(settings: Settings, stop: asyncio.Event) -> None:
    """The archiver, and beside it what makes the histories provable."""
    from projections.archive.archiver import run_archiver
    from projections.archive.proving import Proving, together

    if not await _bound_by_row_security(settings, ARCHIVER, stop):
        return
    connection = await connect(settings.nats_servers, ARCHIVER)
    use_keys(connection, wrapper_of(settings))
    try:
        await answer_health(connection, ARCHIVER)
        proving = Proving(settings, connection)
        await together(stop, run_archiver(settings, connection, stop, archived=proving.wake), proving.run(stop))
    finally:
        await connection.close()


async def serve_gateway(settings: Settings, stop: asyncio.Event) -> None:
    """The HTTP gateway."""
    from gateway.server import serve

    if not await _bound_by_row_security(settings, GATEWAY, stop):
        return
    connection = await connect(settings.nats_servers, GATEWAY)
    try:
        await answer_health(connection, GATEWAY)
        await serve(settings, stop)
    finally:
        await connection.close()


async def _bound_by_row_security(settings: Settings, name: str, stop: asyncio.Event) -> bool:
    """Whether to go on; waits for Postgres. Raises ConfigurationError when the role is more than a process may be."""
    while not stop.is_set():
        try:
            await refuse_privileged_role(settings, name)
            return True
        except UnavailableError as error:
            get_logger(name).warning("waiting_for_database", reason=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DATABASE_RETRY_S):
                    await stop.wait()
    return False


SERVE: Mapping[str, Serve] = {
    GATEWAY: serve_gateway,
    COMMAND_SERVICE: serve_commands,
    WORKER: serve_worker,
    PROJECTOR: serve_projector,
    ARCHIVER: serve_archiver,
}

if __name__ == "__main__":
    raise SystemExit(run_process(sys.argv[1], Settings(), SERVE[sys.argv[1]]))
