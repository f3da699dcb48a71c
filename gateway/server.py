"""The gateway as a process: uvicorn without its own logs and signals, stopped by the entry point."""

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn

from events.logging import get_logger
from events.settings import Settings
from gateway.app import create_app
from gateway.protocol import BoundedProtocol
from gateway.state import open_gateway

SHUTDOWN_MAX_S = 15
KEEP_ALIVE_S = 65
BACKLOG = 2048

_logger = get_logger("gateway")


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then take no more calls, let waiting ones answer, and close. Run it on uvloop."""
    async with open_gateway(settings) as gateway:
        config = uvicorn.Config(
            create_app(settings, gateway),
            host=settings.host,
            port=settings.port,
            http=BoundedProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_MAX_S,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        stopping = asyncio.create_task(stop.wait())
        _logger.info("gateway_starts", host=settings.host, port=settings.port)
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        gateway.signals.release()
        server.should_exit = True
        stopping.cancel()
        await serving
        _logger.info("gateway_stopped")


class _Server(uvicorn.Server):
    """Leaves the process's signals to the entry point."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
