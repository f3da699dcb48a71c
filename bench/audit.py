"""What keeping and proving the history costs: `python -m bench.audit --events 1000000 --json`.

A log of typical runs (bench.rebuild) is archived, as after a long pause, and compared with the archive. Then typical
runs are written into an archive's table as the archiver writes them; the orgs' trees are built from it, inclusion
proofs of decisions at random are made one after another, the history of the largest org is exported, and the file is
verified: without HTTP, each in a process of its own, so that its memory can be read. Last, over HTTP: `as_of` against
plain queries (bench.as_of), and bench.pipeline with encryption and without, in turn.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta

import uvloop

from bench.audit_parts import Figures, settings_of
from bench.rebuild import START, servers, typical_payload, typical_run
from bench.rebuild import fill as fill_log
from events.archive import ArchiveHead
from events.connection import connect
from events.follow import Followed
from events.ids import new_id
from events.logging import configure_logging
from events.mapper import encode_decision
from migrations.database import migrate
from migrations.streams import migrate_streams
from projections.archive.archiver import ENSURE_PARTITION, insert, move_head
from projections.archive.rows import rows_of
from projections.database import create_pool

ORGS = 10
BATCH = 5000
EPOCH = "bench"
EVENTS_PER_RUN = 9
PAIRS = 3


def messages(events: int, payload_bytes: int) -> Iterator[tuple[Followed, int, str]]:
    """Decisions of typical runs, until the first org has so many events: the message, its events, its org.

    The other orgs have about as many among them.
    """
    chosen, payload = random.Random(7), typical_payload(payload_bytes)
    orgs, company_id, position, made = [new_id() for _ in range(ORGS)], new_id(), 0, 0
    at_ns = int(START.timestamp()) * 10**9
    while made < events:
        org_id = orgs[0] if chosen.random() < 0.5 else chosen.choice(orgs[1:])
        for decision in typical_run(org_id, company_id, payload, START + timedelta(seconds=position)):
            position += 1
            made += len(decision.events) if org_id == orgs[0] else 0
            place = f"{decision.kind}.{decision.aggregate_id}.{decision.version}.{decision.routing}"
            subject = f"events.{org_id}.{place}"
            body = encode_decision(decision)
            yield (
                Followed(position, subject, body, pending=0, recorded_ns=at_ns + position),
                len(decision.events),
                org_id,
            )


async def fill(dsn: str, events: int, payload_bytes: int) -> Figures:
    """Write the archive; how much that was, and the largest org."""
    counts: dict[str, int] = {}
    made: dict[str, int] = {}
    batch: list[Followed] = []
    size_bytes, head = 0, ArchiveHead(EPOCH)
    async with await create_pool(settings_of(dsn)) as pool:

        async def write(head: ArchiveHead) -> ArchiveHead:
            rows, chain = rows_of(batch, head.chain)
            after = ArchiveHead(EPOCH, batch[-1].position, chain)
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(ENSURE_PARTITION, after.position)
                await move_head(connection, head, after)
                await insert(connection, rows)
            batch.clear()
            return after

        for message, count, org_id in messages(events, payload_bytes):
            batch.append(message)
            size_bytes += len(message.body)
            counts[org_id] = counts.get(org_id, 0) + 1
            made[org_id] = made.get(org_id, 0) + count
            if len(batch) == BATCH:
                head = await write(head)
        if batch:
            head = await write(head)
        await pool.execute("ANALYZE data_engine.event_log")
    largest = max(counts, key=lambda org_id: counts[org_id])
    return {
        "events": sum(made.values()),
        "decisions": head.position,
        "body_bytes_mean": round(size_bytes / head.position),
        "org_id": largest,
        "org_events": made[largest],
        "org_decisions": counts[largest],
    }


async def archived(arguments: argparse.Namespace) -> Figures:
    """A log in NATS, archived as after a long pause, and checked."""
    async with servers() as where:
        await migrate(where.database_url)
        connection = await connect([where.nats_url], "bench")
        try:
            await migrate_streams(connection, replicas=1)
            payload = typical_payload(arguments.payload_bytes)
            _, events = await fill_log(connection, arguments.log_events // EVENTS_PER_RUN, payload)
        finally:
            await connection.close()
        given = ["--database-url", where.database_url, "--nats-url", where.nats_url]
        found = await asyncio.to_thread(in_a_process, "bench.audit_parts", "archive", *given)
    return {
        "archive_events_per_s": round(events / found["seconds"]),
        "archive_decisions_per_s": round(found["decisions"] / found["seconds"]),
        "check_decisions_per_s": round(found["decisions"] / found["check_seconds"]),
        "archive_peak_mb": found["peak_mb"],
    }


async def proved(arguments: argparse.Namespace) -> Figures:
    """Trees, inclusion proofs, export and verification."""
    async with servers() as where:
        await migrate(where.database_url)
        filled = await fill(where.database_url, arguments.events, arguments.payload_bytes)
        with tempfile.TemporaryDirectory(prefix="bench-audit") as folder:
            given = ["--database-url", where.database_url, "--org", filled["org_id"]]
            given += ["--file", f"{folder}/export.ndjson"]
            parts = {
                name: await asyncio.to_thread(in_a_process, "bench.audit_parts", name, *given)
                for name in ("trees", "prove", "export", "verify")
            }
    trees, exported, verified = parts["trees"], parts["export"], parts["verify"]
    rate, org_rate = filled["events"] / filled["decisions"], filled["org_events"] / filled["org_decisions"]
    return {
        **{name: value for name, value in filled.items() if name != "org_id"},
        "tree_events_per_s": round(trees["decisions"] * rate / trees["seconds"]),
        "tree_decisions_per_s": round(trees["decisions"] / trees["seconds"]),
        "inclusion_p50_ms": round(parts["prove"]["p50_ms"], 2),
        "inclusion_p99_ms": round(parts["prove"]["p99_ms"], 2),
        "export_events_per_s": round(filled["org_events"] / exported["seconds"]),
        "export_mb": round(exported["size_bytes"] / 1e6, 1),
        "verify_events_per_s": round(verified["decisions"] * org_rate / verified["seconds"]),
        "verify_decisions_per_s": round(verified["decisions"] / verified["seconds"]),
        "peak_mb": {name: part["peak_mb"] for name, part in parts.items()},
    }


def encryption(runs: int) -> Figures:
    """bench.pipeline with encryption and without, in turn: step executions a second of each, medians of PAIRS."""
    rates: dict[str, list[float]] = {"encrypted": [], "plain": []}
    for _ in range(PAIRS):
        for name, flag in (("encrypted", []), ("plain", ["--plain"])):
            given = ["--work", "W2", "--n", str(runs), "--json", *flag]
            rates[name].append(in_a_process("bench.pipeline", *given)["steps_per_s"])
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    return {
        "steps_per_s": rates,
        "encrypted_to_plain": round(medians["encrypted"] / medians["plain"], 3),
    }


async def measure(arguments: argparse.Namespace) -> Figures:
    """Everything in turn."""
    return {
        **await archived(arguments),
        **await proved(arguments),
        "as_of": await asyncio.to_thread(in_a_process, "bench.as_of", "--runs", str(arguments.runs), "--json"),
        **await asyncio.to_thread(encryption, 3 * arguments.runs),
    }


def in_a_process(module: str, *given: str) -> Figures:
    """What a benchmark prints, which has its memory for itself."""
    done = subprocess.run([sys.executable, "-m", module, *given], stdout=subprocess.PIPE, check=True)
    found: Figures = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the figures, as one line of JSON with --json."""
    parser = argparse.ArgumentParser(description="What keeping and proving the history costs.")
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="of the org that is exported, in an archive of twice"
    )
    parser.add_argument("--log-events", type=int, default=300_000, help="in the log that is archived")
    parser.add_argument(
        "--runs", type=int, default=500, help="asked `as_of`; three times as many with and without keys"
    )
    parser.add_argument("--payload-bytes", type=int, default=300, help="size of each batch of records")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure_logging("warning", "text", "bench")
    found = uvloop.run(measure(arguments))
    print(json.dumps(found) if arguments.json else "\n".join(f"{name:24}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
