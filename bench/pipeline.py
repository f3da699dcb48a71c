"""The work of the comparison with other engines, through our HTTP API, with durable defaults on.

W1: one run of five trivial steps over 20 small records, submitted and waited for, one at a time: p50 and p99 in ms.
W2: N such runs, K in flight, to the end of the last: step executions a second.

    uv run python -m bench.pipeline --work W2 --n 2000 --inflight 64 --json
"""

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from bench.meter import Meter, percentile, processor_ms
from cli.bootstrap import create_org
from cli.system import System
from events.connection import connect
from events.log import EventLog
from events.settings import Settings

STEPS = 5
RECORDS = 20
WARMUP_RUNS = 50
WAIT_S = 30

RunOne = Callable[[int], Awaitable[None]]


def payload(number: int) -> dict[str, Any]:
    """About 1 kB: the same that the other engines get."""
    return {
        "run": number,
        "records": [{"id": j, "name": f"rec-{number}-{j}", "value": j * 1.5} for j in range(RECORDS)],
    }


def check(result: dict[str, Any], number: int) -> None:
    """Raises AssertionError when a run's output is not what five steps make of its input."""
    assert result["run"] == number, result
    assert len(result["records"]) == RECORDS, result
    assert all(result[f"s{k}"] == k * RECORDS for k in range(1, STEPS + 1)), result


class Client:
    """The HTTP client: submits a run and waits for its output."""

    def __init__(self, http: aiohttp.ClientSession, awaiting: str) -> None:
        self._http = http
        self._awaiting = awaiting
        self._ids: dict[str, str] = {}

    async def post(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call."""
        async with self._http.post(f"/v1/{endpoint}", json=body) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status < 300, (response.status, answer)
            return answer

    async def prepare(self) -> None:
        """A company, and the blueprint of the five steps."""
        company = await self.post("companies/create", {"name": "Bench"})
        steps = [{"key": f"bench_s{k}"} for k in range(1, STEPS + 1)]
        blueprint = await self.post("blueprints/create", {"name": "bench", "steps": steps})
        self._ids = {"company_id": company["company_id"], "blueprint_id": blueprint["blueprint_id"]}

    async def run_one(self, number: int) -> None:
        """Submit, wait for the end, check the output."""
        body: dict[str, Any] = {**self._ids, "records": [payload(number)]}
        if self._awaiting == "create":
            body |= {"wait_s": WAIT_S, "include_results": True}
            run = (await self.post("submissions/create", body))["run"]
        else:
            made = await self.post("submissions/create", body)
            run = await self.post("runs/get", {"run_id": made["run_id"], "wait_s": WAIT_S, "include_results": True})
        assert run["status"] == "succeeded", run
        check(run["results"]["records"][0], number)


async def drive(run_one: RunOne, runs: int, inflight: int) -> tuple[Meter, list[float]]:
    """Run `runs` of them, `inflight` at a time; the window and each one's seconds."""
    latencies: list[float] = []
    numbers = iter(range(runs))

    async def client() -> None:
        for number in numbers:
            began = time.perf_counter()
            await run_one(number)
            latencies.append(time.perf_counter() - began)

    with Meter() as meter:
        await asyncio.gather(*(client() for _ in range(inflight)))
    return meter, latencies


@asynccontextmanager
async def running(home: Path, awaiting: str, *, encrypted: bool = True) -> AsyncIterator[tuple[Client, System]]:
    """A system of its own, with a client that has an org, a company and the blueprint."""
    settings = Settings(home=home, port=0, step_modules=("bench.steps",), log_level="warning")
    system = System(settings, lambda _name, _what: None, makes_keys=encrypted)
    endpoints = await system.start()
    try:
        org = await create_org([endpoints.nats_url], endpoints.database_url, "Bench", f"{uuid.uuid4()}@example.com")
        headers = {"Authorization": f"Bearer {org.token}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(endpoints.gateway_url, connector=connector, headers=headers) as http:
            client = Client(http, awaiting)
            await client.prepare()
            yield client, system
    finally:
        await system.stop()


async def measure(arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Start a system, drive it, and gather the figures."""
    async with running(home, arguments.awaiting, encrypted=not arguments.plain) as (client, system):
        assert system.endpoints is not None
        nats = await connect([system.endpoints.nats_url], "bench")
        try:
            inflight = 1 if arguments.work == "W1" else arguments.inflight
            await drive(client.run_one, max(WARMUP_RUNS, inflight * 4), inflight)
            sessions = {name: running.pid for name, running in system.supervisor.processes.items()}
            before, used = (await EventLog(nats).state()).last_position, processor_ms(sessions)
            meter, latencies = await drive(client.run_one, arguments.n, inflight)
            appended = (await EventLog(nats).state()).last_position - before
            processor = {name: now - used[name] for name, now in processor_ms(sessions).items()}
        finally:
            await nats.close()
    figures = report(arguments, meter, latencies, appended)
    return figures | {"cpu_ms_per_run": {name: round(ms / arguments.n, 2) for name, ms in processor.items()}}


def report(arguments: argparse.Namespace, meter: Meter, latencies: list[float], appended: int) -> dict[str, Any]:
    """The figures of one measurement."""
    figures: dict[str, Any] = {"peer": "data-engine-x", "work": arguments.work, "n": arguments.n}
    if arguments.plain:
        figures["encrypted"] = False
    milliseconds = [latency * 1000 for latency in latencies]
    figures |= {
        "inflight": 1 if arguments.work == "W1" else arguments.inflight,
        "p50_ms": round(percentile(milliseconds, 50), 2),
        "p99_ms": round(percentile(milliseconds, 99), 2),
    }
    if arguments.work == "W2":
        figures |= {
            "steps_per_s": round(arguments.n * STEPS / meter.seconds, 1),
            "runs_per_s": round(arguments.n / meter.seconds, 1),
        }
    return figures | {"log_messages_per_run": round(appended / arguments.n, 2)} | meter.fields(arguments.n)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["W1", "W2"], required=True)
    parser.add_argument("--n", type=int, default=1000, help="measured runs")
    parser.add_argument("--inflight", type=int, default=64, help="W2 only")
    parser.add_argument("--awaiting", choices=["create", "get"], default="create", help="which call waits for the end")
    parser.add_argument("--plain", action="store_true", help="without encryption, to see what it costs")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dex-bench-") as folder:
        figures = uvloop.run(measure(arguments, Path(folder)))
    print(json.dumps(figures) if arguments.json else "\n".join(f"{k:<22} {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
