"""Fairness between orgs: what a small org's run waits for while another org has 1,000 runs queued.

The small org submits one run at a time, five steps of the catalogue over 20 records, and waits for its end: first on
an idle system, then while a hog with runs of the same steps has never fewer than `--backlog` of them open. The hog's
runs are `trivial` (one record), `inline` (300 records, 40 kB: on the worker's own loop) or `large` (2,000 records,
270 kB: in step processes).

    uv run python -m bench.fairness --json
"""

import argparse
import asyncio
import json
import signal
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop
from nats.aio.client import Client as Nats

from bench.meter import percentile
from cli.bootstrap import create_org
from cli.system import Endpoints, System
from events import subjects
from events.connection import connect
from events.follow import follow
from events.log import EventLog
from events.settings import Settings

SMALL_RECORDS = 20
HOG_RECORDS = {"trivial": 1, "inline": 300, "large": 2000}
SUBMITTERS = 16
WARMUP_RUNS = 20
TOO_MANY_REQUESTS = 429
WAIT_S = 30
WINDOW_S = 8.0
STEPS: list[dict[str, Any]] = [
    {"key": "map_fields", "config": {"mappings": {"company": "Company Name", "site": "Website", "hq": "HQ"}}},
    {"key": "normalize_text", "config": {"fields": ["company"]}},
    {"key": "extract_domain", "config": {"url_fields": ["site"]}},
    {"key": "normalize_country", "config": {"field": "hq"}},
    {"key": "deduplicate", "config": {"keys": [["domain", "company"]]}},
]
COUNTRIES = ("Germany", "USA", "united kingdom", "JP", "Brasil", "France", "Schweiz")


def records(run: int, count: int) -> list[dict[str, Any]]:
    """About 135 bytes each; no two runs hand in the same."""
    return [
        {
            "Company Name": f"  Globex {run} {number} Holding ",
            "Website": f"https://www.globex-{run}-{number}.example/about",
            "HQ": COUNTRIES[number % len(COUNTRIES)],
            "employees": number * 7,
        }
        for number in range(count)
    ]


class Org:
    """An org with a company and the blueprint of the five steps, over HTTP."""

    def __init__(self, org_id: str, http: aiohttp.ClientSession) -> None:
        self.org_id = org_id
        self.http = http
        self._ids: dict[str, str] = {}

    @classmethod
    async def make(cls, endpoints: Endpoints, name: str) -> "Org":
        """A fresh one."""
        made = await create_org([endpoints.nats_url], endpoints.database_url, name, f"{uuid.uuid4()}@example.com")
        headers = {"Authorization": f"Bearer {made.token}", "Content-Type": "application/json"}
        org = cls(made.org_id, aiohttp.ClientSession(endpoints.gateway_url, headers=headers))
        company = await org.post("companies/create", {"name": name})
        blueprint = await org.post("blueprints/create", {"name": "clean", "steps": STEPS})
        org._ids = {"company_id": company["company_id"], "blueprint_id": blueprint["blueprint_id"]}
        return org

    async def post(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call, again after the pause that a limit asks for."""
        while True:
            async with self.http.post(f"/v1/{endpoint}", data=orjson.dumps(body)) as response:
                answer: dict[str, Any] = await response.json()
                if response.status != TOO_MANY_REQUESTS:
                    assert response.status < 300, (response.status, answer)
                    return answer
            await asyncio.sleep(answer["retry_after_s"])  # as the gateway asked

    async def submit(self, run: int, count: int, wait_s: float = 0) -> dict[str, Any]:
        """Submit one run of `count` records."""
        body = {**self._ids, "records": records(run, count), "wait_s": wait_s}
        return await self.post("submissions/create", body)

    async def run_one(self, run: int) -> float:
        """Submit a small run and wait for its end; milliseconds."""
        began = time.perf_counter()
        made = await self.submit(run, SMALL_RECORDS, WAIT_S)
        status = made["run"]["status"]
        while status == "running":
            status = (await self.post("runs/get", {"run_id": made["run_id"], "wait_s": WAIT_S}))["status"]
        assert status == "succeeded", status
        return (time.perf_counter() - began) * 1000


class Hog:
    """Keeps `backlog` runs of one org open: the next one is submitted when another has ended."""

    def __init__(self, org: Org, nats: Nats, kind: str, backlog: int) -> None:
        self._org = org
        self._nats = nats
        self._records = HOG_RECORDS[kind]
        self._target = backlog + SUBMITTERS + backlog // 20
        self._room = asyncio.Event()
        self._submitted = 0
        self._accepted = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.ended = 0
        self.fewest = backlog

    async def fill(self, after: int) -> None:
        """Fill the backlog while nobody works it off; returns when it is there, and keeps it filled from then on."""
        self._tasks = [asyncio.create_task(self._count_ends(after))]
        self._tasks += [asyncio.create_task(self._submit()) for _ in range(SUBMITTERS)]
        while self.open < self._target - SUBMITTERS:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.05)  # the interval at which a growing backlog is looked at
        self.fewest = self.open

    async def work(self, runs: int) -> None:
        """Wait until so many runs have ended: the step processes are there then."""
        goal = self.ended + runs
        while self.ended < goal:
            self._room.clear()
            await self._room.wait()

    async def stop(self) -> None:
        """Submit no more."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    @property
    def open(self) -> int:
        """Runs that were accepted and have not ended."""
        return max(0, self._accepted - self.ended)

    async def _submit(self) -> None:
        while True:
            while self._submitted - self.ended >= self._target:
                self._room.clear()
                await self._room.wait()
            self._submitted += 1
            await self._org.submit(self._submitted, self._records)
            self._accepted += 1

    async def _count_ends(self, after: int) -> None:
        ends = f"events.{self._org.org_id}.run.*.*.end.*"
        async for batch in follow(self._nats, subjects.EVENTS, [ends], after):
            self.ended += len(batch)
            self.fewest = min(self.fewest, self.open)
            self._room.set()


async def timed_runs(org: Org, runs: int, budget_s: float, at_least_s: float = 0) -> list[float]:
    """Milliseconds of `runs` small runs, one at a time: more within `at_least_s`, fewer (but one) after `budget_s`."""
    began = time.perf_counter()
    found: list[float] = []
    while (
        not found or (used_s := time.perf_counter() - began) < at_least_s or (len(found) < runs and used_s < budget_s)
    ):
        found.append(await org.run_one(len(found)))
    return found


async def measure(arguments: argparse.Namespace, kind: str, home: Path) -> dict[str, Any]:
    """Start a system of its own, measure the small org idle and beside the hog."""
    modules = ("services.steps.catalogue",)
    settings = Settings(home=home, port=0, step_modules=modules, log_level="warning")
    system = System(settings, lambda _name, _what: None)
    endpoints = await system.start()
    nats = await connect([endpoints.nats_url], "bench")
    orgs: list[Org] = []
    try:
        small, large = await Org.make(endpoints, "Small"), await Org.make(endpoints, "Hog")
        orgs = [small, large]
        await timed_runs(small, WARMUP_RUNS, arguments.budget_s)
        idle = await timed_runs(small, arguments.n, arguments.budget_s)
        hog = Hog(large, nats, kind, arguments.backlog)
        system.supervisor.kill("worker", signal.SIGSTOP)  # else trivial runs end as fast as they come
        await hog.fill((await EventLog(nats).state()).last_position)
        system.supervisor.kill("worker", signal.SIGCONT)
        await hog.work(WARMUP_RUNS)
        ended, began = hog.ended, time.perf_counter()
        loaded = await timed_runs(small, arguments.n, arguments.budget_s, WINDOW_S)
        seconds = time.perf_counter() - began
        hog_rate = (hog.ended - ended) / seconds
        await hog.stop()
    finally:
        for org in orgs:
            await org.http.close()
        await nats.close()
        await system.stop()
    return report(kind, idle, loaded) | {"backlog_min": hog.fewest, "hog_runs_per_s": round(hog_rate, 1)}


def report(kind: str, idle: list[float], loaded: list[float]) -> dict[str, Any]:
    """The figures of one kind of hog."""
    figures: dict[str, Any] = {"hog": kind}
    for name, found in (("idle", idle), ("loaded", loaded)):
        figures |= {
            f"{name}_n": len(found),
            f"{name}_p50_ms": round(percentile(found, 50), 2),
            f"{name}_p99_ms": round(percentile(found, 99), 2),
        }
    figures["p50_times_idle"] = round(figures["loaded_p50_ms"] / figures["idle_p50_ms"], 1)
    figures["p99_times_idle_p50"] = round(figures["loaded_p99_ms"] / figures["idle_p50_ms"], 1)
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hog", choices=[*HOG_RECORDS, "all"], default="all", help="the other org's runs")
    parser.add_argument("--n", type=int, default=200, help="measured runs of the small org, idle and loaded")
    parser.add_argument("--backlog", type=int, default=1000, help="runs of the other org that are open all the time")
    parser.add_argument("--budget-s", type=float, default=60.0, help="a phase ends after this time, with fewer runs")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each kind of hog")
    arguments = parser.parse_args()
    for kind in HOG_RECORDS if arguments.hog == "all" else [arguments.hog]:
        with tempfile.TemporaryDirectory(prefix="dex-bench-") as folder:
            figures = uvloop.run(measure(arguments, kind, Path(folder)))
        print(json.dumps(figures) if arguments.json else "\n".join(f"{k:<20} {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
