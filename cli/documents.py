"""Documents made from the code, and the health check of one process."""

import socket
from typing import Any

import orjson

from events.connection import connect
from events.health import ask_health
from events.settings import Settings
from services.broker import build_broker
from services.command_service import CommandService
from services.worker.service import Worker

HEALTH_WITHIN_S = 2.0


def asyncapi(settings: Settings) -> str:
    """The AsyncAPI 3 document of the command service and of a worker with the catalogue's steps, as JSON."""
    from faststream.specification import AsyncAPI

    broker = build_broker(["nats://localhost:4222"], "dex")
    CommandService(broker, settings)
    Worker(settings, broker)
    specification = AsyncAPI(broker, title="data-engine-x", version="0.1.0")
    return specification.to_specification().to_json()


def openapi(settings: Settings) -> str:
    """The OpenAPI 3.1 document of the gateway, as JSON."""
    from gateway.app import create_app

    document: dict[str, Any] = create_app(settings).openapi()
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def permissions() -> str:
    """Who may do what, as the Markdown table of docs/security.md."""
    from gateway.permissions import matrix

    return "\n".join(matrix())


async def is_healthy(settings: Settings, process: str) -> bool:
    """Whether that process answers on this host."""
    connection = await connect(settings.nats_servers, "dex")
    try:
        alive = await ask_health(connection, HEALTH_WITHIN_S, process=process)
        return any(answer.host == socket.gethostname() for answer in alive)
    finally:
        await connection.close()
