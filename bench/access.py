"""What authentication and row-level security cost a request: the ratio against a gateway without both, in one run.

Two gateways serve the same system: one as it is, and one for which everybody is the same caller and which reads as the
owner of the tables, outside any scope. They are asked in turns, one request at a time, for queries and commands.

    uv run python -m bench.access --n 1000 --json
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import uvicorn
import uvloop
from starlette.datastructures import Headers

from bench.meter import percentile
from cli.bootstrap import create_org
from cli.embedded import free_port
from cli.supervisor import ProcessSpec
from cli.system import Endpoints, System
from events.context import AuthContext
from events.settings import Settings
from gateway.app import create_app
from gateway.auth import Authenticator, Caller
from gateway.run_view import RunLoader
from gateway.state import open_gateway
from projections.queries.reader import Reader, Row, Scope

WARMUP = 100


class _OpenReader(Reader):
    """Reads outside any scope and transaction."""

    async def _scoped(self, scope: Scope, sql: str, arguments: tuple[Any, ...], mode: str = "") -> list[Row]:
        del scope, mode
        return await self._unscoped(sql, arguments)


class _OpenAuthenticator(Authenticator):
    """Everybody is the same caller."""

    caller: Caller

    async def authenticate(self, headers: Headers, request_id: str, address: str) -> Caller:
        del headers, request_id, address
        return self.caller


async def serve_open(org_id: str, user_id: str) -> None:
    """The gateway without both locks, until it is told to end; settings from the environment."""
    settings = Settings()
    async with open_gateway(settings) as gateway:
        reader = _OpenReader(gateway.reader._pool)
        auth = AuthContext(org_id=org_id, user_id=user_id, role="org_admin", auth_method="api_token")
        authenticator = _OpenAuthenticator(settings, reader, gateway.authenticator._admit, gateway.limiter)
        authenticator.caller = Caller(auth, Scope(org_id), True)
        opened = dataclasses.replace(gateway, reader=reader, authenticator=authenticator, runs=RunLoader(reader))
        config = uvicorn.Config(
            create_app(settings, opened), port=settings.port, http="httptools", access_log=False, log_config=None
        )
        await uvicorn.Server(config).serve()


async def start_open(system: System, settings: Settings, endpoints: Endpoints, org_id: str, user_id: str) -> str:
    """A gateway without the locks beside the system's own; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def ready() -> None:
        async with httpx.AsyncClient() as http:
            (await http.get(f"{url}/health")).raise_for_status()

    environment = endpoints.applied_to(settings).as_environment() | {"DATA_ENGINE_PORT": str(port)}
    argv = [sys.executable, "-m", "bench.access", "--serve-open", f"{org_id},{user_id}"]
    spec = ProcessSpec("open", argv, settings.home / "logs" / "open.log", env=environment, ready=ready)
    await system.supervisor.start(spec)
    return url


async def measure(count: int, home: Path) -> dict[str, Any]:
    """Start a system, ask both gateways in turns, and gather the figures."""
    settings = Settings(home=home, port=0, step_modules=("bench.steps",), log_level="warning")
    system = System(settings, lambda _name, _what: None)
    endpoints = await system.start()
    try:
        org = await create_org([endpoints.nats_url], endpoints.database_url, "Bench", f"{uuid.uuid4()}@example.com")
        url = await start_open(system, settings, endpoints, org.org_id, org.user_id)
        headers = {"Authorization": f"Bearer {org.token}"}
        async with (
            aiohttp.ClientSession(endpoints.gateway_url, headers=headers) as locked,
            aiohttp.ClientSession(url, headers=headers) as unlocked,
        ):
            calls = await _calls(locked)
            figures: dict[str, Any] = {}
            for name, (path, body) in calls.items():
                figures[name] = await _compare(locked, unlocked, path, body, count)
            fresh = [(await _post(locked, "tokens/create", _token(org.user_id)))["token"] for _ in range(50)]
            figures["first_use_of_a_token"] = await _first_uses(locked, fresh)
    finally:
        await system.stop()
    return {"n": count, "cores": os.cpu_count(), "p50_ms": figures}


def _token(user_id: str) -> dict[str, Any]:
    return {"user_id": user_id, "name": "bench"}


async def _calls(http: aiohttp.ClientSession) -> dict[str, tuple[str, dict[str, Any]]]:
    """A query of one run, a list, and a command."""
    company = await _post(http, "companies/create", {"name": "Bench"})
    blueprint = await _post(http, "blueprints/create", {"name": "b", "steps": [{"key": "bench_s1"}]})
    ids = {"company_id": company["company_id"], "blueprint_id": blueprint["blueprint_id"]}
    made = await _post(http, "submissions/create", {**ids, "records": [{"run": 1, "records": []}], "wait_s": 30})
    return {
        "runs/get": ("runs/get", {"run_id": made["run_id"]}),
        "runs/list": ("runs/list", {"limit": 20}),
        "companies/create": ("companies/create", {"name": "One more"}),
    }


async def _post(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with http.post(f"/v1/{path}", json=body) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status < 300, (response.status, answer)
        return answer


async def _compare(
    locked: aiohttp.ClientSession, unlocked: aiohttp.ClientSession, path: str, body: dict[str, Any], count: int
) -> dict[str, float]:
    times: dict[aiohttp.ClientSession, list[float]] = {locked: [], unlocked: []}
    for number in range(WARMUP + count):
        for http, taken in times.items():
            began = time.perf_counter()
            await _post(http, path, body)
            if number >= WARMUP:
                taken.append((time.perf_counter() - began) * 1000)
    on, off = (percentile(taken, 50) for taken in times.values())
    return {"on": round(on, 3), "off": round(off, 3), "added": round(on - off, 3), "ratio": round(on / off, 3)}


async def _first_uses(http: aiohttp.ClientSession, tokens: list[str]) -> float:
    """The first request of each of these tokens: its look-up is in no memory."""
    taken = []
    for token in tokens:
        began = time.perf_counter()
        async with http.post("/v1/orgs/get", json={}, headers={"Authorization": f"Bearer {token}"}) as response:
            assert response.status == 200, await response.text()
        taken.append((time.perf_counter() - began) * 1000)
    return round(percentile(taken, 50), 3)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="measured requests of each kind and gateway")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--serve-open", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_open:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor ends it
        org_id, _, user_id = arguments.serve_open.partition(",")
        uvloop.run(serve_open(org_id, user_id))
        return
    with tempfile.TemporaryDirectory(prefix="dex-bench-") as folder:
        figures = uvloop.run(measure(arguments.n, Path(folder)))
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, found in figures["p50_ms"].items():
        print(f"{name:<24} {found}")


if __name__ == "__main__":
    main()
