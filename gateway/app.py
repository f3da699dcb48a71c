"""The application: its lifespan, its routers, its one table of errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from events.errors import DataEngineError, UnavailableError
from events.settings import Settings
from gateway import openapi
from gateway.answers import json_response
from gateway.middleware import RequestMiddleware
from gateway.problems import on_error
from gateway.routers import ROUTERS
from gateway.state import Gateway, open_gateway
from projections.queries.positions import projected_position

HEALTH_TIMEOUT_S = 2.0

T = TypeVar("T")


def create_app(settings: Settings, gateway: Gateway | None = None) -> FastAPI:
    """The application. It opens its own connections while it runs, unless it is given a gateway that is open."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if gateway is not None:
            yield
            return
        async with open_gateway(settings) as opened:
            app.state.gateway = opened
            yield

    app = FastAPI(
        title="data-engine-x",
        version=_version(),
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.path.removeprefix("/v1").strip("/").replace("/", "_"),
        redoc_url=None,
        # FastAPI's own spans and records have paths, queries and error messages in them; ours have none.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        openapi_tags=[{"name": str(router.tags[0]), "description": _about(router)} for router in ROUTERS],
    )
    app.state.gateway = gateway
    for router in ROUTERS:
        app.include_router(router)
    app.add_api_route(
        "/health", health, methods=["GET"], tags=["health"], response_class=Response, name="health",
        responses={200: {"content": {"application/json": {"example": HEALTH_EXAMPLE}}}, 503: {"description": "Unwell"}},
    )  # fmt: skip
    for kind in (DataEngineError, HTTPException):
        app.add_exception_handler(kind, on_error)
    app.add_middleware(RequestMiddleware, access_log=settings.access_log)
    openapi.install(app)
    return app


HEALTH_EXAMPLE: dict[str, Any] = {"status": "ok", "nats": "ok", "database": "ok", "projected_position": 42}


async def health(request: Request) -> Response:
    """Whether this process and what it needs are well; the one endpoint that is not a POST, as platforms ask."""
    gateway: Gateway = request.app.state.gateway
    # A round trip, because a connection can be open and deaf.
    log, position = await asyncio.gather(_answer(gateway.log.state()), _answer(projected_position(gateway.reader)))
    nats = "down" if log is None else "ok"
    database = "down" if position is None else "ok"
    well = nats == database == "ok" and not gateway.signals.closing
    content = {"status": "ok" if well else "unwell", "nats": nats, "database": database, "projected_position": position}
    return json_response(content, 200 if well else 503)


async def _answer(question: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            return await question
    except (UnavailableError, TimeoutError):
        return None


def _about(router: Any) -> str:
    """What the router's file says about its resource."""
    module = __import__(router.routes[0].endpoint.__module__, fromlist=["__doc__"])
    return str(module.__doc__).strip()


def _version() -> str:
    try:
        return version("data-engine-x")
    except PackageNotFoundError:
        return "0"
