"""The gateway as a process: uvicorn without its own logs and signals, stopped by the entry point."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from events.logging import get_logger
from events.settings import Settings
from gateway.app import create_app
from gateway.protocol import BoundedProtocol, Connections
from gateway.state import open_gateway

SHUTDOWN_MAX_S = 15
BACKLOG = 2048

_logger = get_logger("gateway")


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then take no more calls, let waiting ones answer, and close. Run it on uvloop."""
    async with open_gateway(settings) as gateway:
        app, proxies = behind_proxies(create_app(settings, gateway), settings)

        class Protocol(BoundedProtocol):
            """That of this server."""

        Protocol.settings, Protocol.crowd = settings, Connections(settings, proxies)
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=Protocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.http_keep_alive_s,
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


def behind_proxies(app: Any, settings: Settings) -> tuple[Any, Any]:
    """The application as trusted proxies ask it: the client is whom they name. And which addresses are such proxies."""
    if not settings.trusted_proxies:
        return app, ()
    behind = ProxyHeadersMiddleware(app, settings.trusted_proxies)
    return behind, behind.trusted_hosts


class _Server(uvicorn.Server):
    """Leaves the process's signals to the entry point."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
