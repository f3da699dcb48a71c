"""How fast all read models are rebuilt from a log of typical runs: `python -m bench.rebuild --json --runs 5000`.

A typical run is two decisions with nine events: the submission and the run's start with its first step due; five step
results and the run's end. They are made from the real event models and appended with the version check, then
projected once by the projector and rebuilt once, which compares the two.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import uvloop
from nats.aio.client import Client

from cli import embedded
from cli.supervisor import Supervisor
from events.administration import BlueprintStep
from events.connection import connect
from events.context import Actor
from events.ids import first_run_id, new_id
from events.log import EventLog
from events.logging import configure_logging
from events.model import Decision, Event
from events.payload import Payload, describe
from events.processing import (
    RUN,
    RunStarted,
    RunSucceeded,
    StepScheduled,
    StepSucceeded,
    SubmissionCreated,
)
from events.settings import Settings
from migrations.database import migrate
from migrations.streams import migrate_streams
from projections.database import create_pool
from projections.projector import Projector
from projections.rebuild import RebuildResult, rebuild

STEP_KEYS = ("map_fields", "normalize_text", "extract_domain", "normalize_country", "deduplicate")
IN_FLIGHT = 256
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers of the benchmark are."""

    database_url: str
    nats_url: str


@asynccontextmanager
async def servers(database_url: str | None = None, nats_url: str | None = None) -> AsyncIterator[Servers]:
    """Those that are named, or fresh embedded ones that are gone afterwards."""
    if database_url and nats_url:
        yield Servers(database_url, nats_url)
        return
    with tempfile.TemporaryDirectory(prefix="bench") as folder_name:
        home = Path(folder_name)
        home.chmod(0o755)  # PostgreSQL refuses to run as root, and its own user must get through
        folder = embedded.DataFolder(home)
        config = embedded.prepare(home)
        supervisor = Supervisor(home / "run" / "state.json", lambda _name, _what: None)
        await supervisor.start(embedded.nats_spec(home, config))
        await supervisor.start(embedded.postgres_spec(home, config))
        try:
            yield Servers(config.database_url, config.nats_url)
        finally:
            await supervisor.stop()
            folder.close()


def typical_run(org_id: str, company_id: str, payload: Payload, at: datetime) -> Iterator[Decision]:
    """The two decisions of one run of five quick steps."""
    submission_id, blueprint_id, actor = new_id(), new_id(), Actor(method="service")
    run_id = first_run_id(submission_id)
    origin: dict[str, Any] = {"company_id": company_id, "blueprint_id": blueprint_id}

    def decision(kind: str, aggregate_id: str, version: int, routing: str, *events: Event) -> Decision:
        return Decision(
            org_id=org_id, kind=kind, aggregate_id=aggregate_id, version=version, routing=routing,
            decision_id=new_id(), at=at, actor=actor, events=events, company_id=company_id,
            correlation_id=submission_id,
        )  # fmt: skip

    first: dict[str, Any] = {"originator_id": run_id, "originator_version": 1}
    submitted = SubmissionCreated(**first, submission_id=submission_id, name="batch", records=payload, **origin)
    plan = tuple(BlueprintStep(key=key) for key in STEP_KEYS)
    started = RunStarted(**first, submission_id=submission_id, plan=plan, **origin)
    due = StepScheduled(**first, step_index=0, step_key=STEP_KEYS[0], attempt=1)
    yield decision(RUN, run_id, 1, f"due.{STEP_KEYS[0]}", submitted, started, due)
    second: dict[str, Any] = {"originator_id": run_id, "originator_version": 2}
    results = [
        StepSucceeded(
            **second, step_index=index, step_key=key, step_version="1", attempt=1,
            started_at=at + timedelta(milliseconds=index), duration_us=800, input_digest=payload.digest,
            input_rows=payload.rows, output=payload,
        )
        for index, key in enumerate(STEP_KEYS)
    ]  # fmt: skip
    ended = RunSucceeded(**second, output_digest=payload.digest, output_rows=payload.rows)
    yield decision(RUN, run_id, 2, "end.succeeded", *results, ended)


def typical_payload(size_bytes: int) -> Payload:
    """Some records of companies with this many bytes in all."""
    record = {"company_name": "Example Holding AG", "domain": "example.com", "country_code": "CH", "employees": 1200}
    count = max(1, size_bytes // len(orjson.dumps(record)))
    return describe(orjson.dumps([record] * count), count)


async def fill(connection: Client, runs: int, payload: Payload) -> tuple[int, int]:
    """Append the decisions of `runs` runs, many at a time; how many decisions and events that were."""
    log, gate = EventLog(connection), asyncio.Semaphore(IN_FLIGHT)
    org_id, company_id, counts = new_id(), new_id(), [0, 0]

    async def append_run(number: int) -> None:
        async with gate:
            for decision in typical_run(org_id, company_id, payload, START + timedelta(seconds=number)):
                await log.append(decision)
                counts[0] += 1
                counts[1] += len(decision.events)

    await asyncio.gather(*(append_run(number) for number in range(runs)))
    return counts[0], counts[1]


async def project_once(settings: Settings, connection: Client, position: int) -> float:
    """Run the projector until it has reached a position; the seconds that took."""
    stop, reached = asyncio.Event(), asyncio.Event()

    async def on_projected(message: Any) -> None:
        if orjson.loads(message.data)["position"] >= position:
            reached.set()

    subscription = await connection.subscribe("signals.projected", cb=on_projected)
    async with await create_pool(settings) as pool:
        began_s = time.perf_counter()
        projecting = asyncio.create_task(Projector(pool, connection, settings.projector_batch).run(stop))
        waiting = asyncio.create_task(reached.wait())
        await asyncio.wait({projecting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        seconds = time.perf_counter() - began_s
        stop.set()
        waiting.cancel()
        await projecting
    await subscription.unsubscribe()
    return seconds


def figures(decisions: int, events: int, projector_s: float, results: list[RebuildResult]) -> dict[str, Any]:
    """What the benchmark says. The rate is that of the building; `seconds` has the comparison in it too."""
    build_s, seconds = results[0].build_seconds, results[0].seconds
    return {
        "events": events,
        "decisions": decisions,
        "seconds": round(seconds, 3),
        "build_seconds": round(build_s, 3),
        "events_per_s": round(events / build_s),
        "decisions_per_s": round(decisions / build_s),
        "projector_events_per_s": round(events / projector_s),
        "identical": all(result.identical for result in results),
        "rows": sum(result.rows for result in results),
        "dead_letters": sum(result.dead_letters for result in results),
    }


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fill a log, project it, rebuild from it."""
    async with servers(arguments.database_url, arguments.nats_url) as where:
        await migrate(where.database_url)
        settings = Settings(  # type: ignore[call-arg]
            _env_file=None,
            nats_url=where.nats_url,  # type: ignore[arg-type]
            database_url=where.database_url,  # type: ignore[arg-type]
        )
        connection = await connect(settings.nats_servers, "bench")
        try:
            await migrate_streams(connection, replicas=1)
            decisions, events = await fill(connection, arguments.runs, typical_payload(arguments.payload_bytes))
            last = (await EventLog(connection).state()).last_position
            if last != decisions:
                raise SystemExit(f"The log had {last - decisions} decisions before; give the benchmark a fresh one.")
            projector_s = await project_once(settings, connection, last)
            async with await create_pool(settings) as pool:
                results = await rebuild(pool, connection)
            return figures(decisions, events, projector_s, results)
        finally:
            await connection.close()


def main() -> None:
    """Print the figures, as one line of JSON with --json."""
    parser = argparse.ArgumentParser(description="How fast all read models are rebuilt from the log.")
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--payload-bytes", type=int, default=1000, help="size of each batch of records")
    parser.add_argument("--database-url", help="an empty database, with --nats-url; embedded servers without")
    parser.add_argument("--nats-url")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure_logging("warning", "text", "bench")
    found = uvloop.run(measure(arguments))
    print(json.dumps(found) if arguments.json else "\n".join(f"{name:24}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
