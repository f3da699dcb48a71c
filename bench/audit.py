"""What proving the history costs: `python -m bench.audit --events 1000000 --json`.

Typical runs (bench.rebuild) are written into the archive's table as the archiver writes them. Then, each in a process
of its own, so that its memory can be read: the orgs' trees are built from it, inclusion proofs of decisions at random
are made one after another, the history of the largest org is exported, and the file is verified. All without HTTP.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import uvloop
from pydantic import SecretStr

from bench.memory import peak_bytes
from bench.meter import percentile
from bench.rebuild import START, servers, typical_payload, typical_run
from cli.auditing import verify_file
from events.archive import ArchiveHead
from events.audit import merkle
from events.audit.checkpoint import AuditKey
from events.follow import Followed
from events.ids import new_id
from events.logging import configure_logging
from events.mapper import encode_decision
from events.settings import Settings
from gateway.exports.audit import Part, export_lines
from migrations.database import migrate
from projections.archive.archiver import ENSURE_PARTITION, insert, move_head
from projections.archive.rows import rows_of
from projections.archive.trees import TreeBuilder
from projections.database import create_pool
from projections.queries import audit
from projections.queries.audit import TreeNodes
from projections.queries.reader import Reader, Scope

ORGS = 10
BATCH = 5000
PROOFS = 2000
EPOCH = "bench"
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

Figures = dict[str, Any]


def messages(events: int, payload_bytes: int) -> Iterator[tuple[Followed, int, str]]:
    """Decisions of typical runs with so many events in all: the message, its events, its org.

    The first org has half of them, the others share the rest.
    """
    chosen, payload = random.Random(7), typical_payload(payload_bytes)
    orgs, company_id, position, made = [new_id() for _ in range(ORGS)], new_id(), 0, 0
    at_ns = int(START.timestamp()) * 10**9
    while made < events:
        org_id = orgs[0] if chosen.random() < 0.5 else chosen.choice(orgs[1:])
        for decision in typical_run(org_id, company_id, payload, START + timedelta(seconds=position)):
            position += 1
            made += len(decision.events)
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
    async with await create_pool(_settings(dsn)) as pool:

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


async def build_trees(arguments: argparse.Namespace) -> Figures:
    """Build all trees, and nothing else."""
    async with await create_pool(_settings(arguments.database_url)) as pool:
        builder = TreeBuilder(pool, AuditKey.of(SECRET, "bench.example"))
        began_s, added = time.perf_counter(), 0
        while count := await builder.step():
            added += count
        return {"seconds": time.perf_counter() - began_s, "decisions": added}


async def prove(arguments: argparse.Namespace) -> Figures:
    """Inclusion proofs, one after another."""
    chosen, times_ms = random.Random(11), []
    async with await create_pool(_settings(arguments.database_url)) as pool:
        reader, scope = Reader(pool), Scope(arguments.org)
        tree = await audit.tree(reader, scope)
        positions = [
            row["position"]
            for row in await reader.rows(
                scope, "SELECT position FROM data_engine.org_leaves WHERE org_id = $1::uuid", arguments.org
            )
        ]
        for _ in range(PROOFS):
            began_s = time.perf_counter()
            leaf = await audit.leaf_at(reader, scope, chosen.choice(positions))
            assert leaf is not None
            nodes = TreeNodes(reader, scope, tree.size)
            await nodes.proofs([merkle.inclusion_ranges(leaf["leaf_index"], tree.size)])
            times_ms.append((time.perf_counter() - began_s) * 1000)
    return {"p50_ms": percentile(times_ms, 50), "p99_ms": percentile(times_ms, 99)}


async def export(arguments: argparse.Namespace) -> Figures:
    """The history of one org into a file."""

    async def allowed() -> None:
        return None

    async with await create_pool(_settings(arguments.database_url)) as pool:
        reader, scope = Reader(pool), Scope(arguments.org)
        tree = await audit.tree(reader, scope)
        part = Part({"kind": "all"}, scope, 0, tree.position, None, (0, tree.size))
        began_s = time.perf_counter()
        with Path(arguments.file).open("wb") as file:
            async for lines in export_lines(reader, tree, part, [], allowed):
                file.write(lines)
        seconds = time.perf_counter() - began_s
    assert tree.note is not None
    Path(f"{arguments.file}.note").write_text(tree.note)
    return {"seconds": seconds, "size_bytes": Path(arguments.file).stat().st_size}


async def verify(arguments: argparse.Namespace) -> Figures:
    """Verify the file, as `dex audit verify` does."""
    began_s = time.perf_counter()
    note, key = f"{arguments.file}.note", str(AuditKey.of(SECRET, "bench.example").verifier())
    report = verify_file(Path(arguments.file), note, key, [], quiet=True)
    if not report.ok:
        raise SystemExit(f"The export does not hold: {report.finding}")
    return {"seconds": time.perf_counter() - began_s, "decisions": report.decisions}


PARTS: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, Figures]]] = {
    "trees": build_trees,
    "prove": prove,
    "export": export,
    "verify": verify,
}


async def measure(arguments: argparse.Namespace) -> Figures:
    """Everything in turn."""
    async with servers(arguments) as where:
        await migrate(where.database_url)
        filled = await fill(where.database_url, arguments.events, arguments.payload_bytes)
        with tempfile.TemporaryDirectory(prefix="bench-audit") as folder:
            given = [
                "--database-url",
                where.database_url,
                "--org",
                filled["org_id"],
                "--file",
                f"{folder}/export.ndjson",
            ]
            parts = {name: await asyncio.to_thread(_in_a_process, name, given) for name in PARTS}
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


def _in_a_process(name: str, given: list[str]) -> Figures:
    command = [sys.executable, "-m", "bench.audit", "--part", name, *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: Figures = json.loads(done.stdout)
    return found


def _settings(dsn: str) -> Settings:
    return Settings(_env_file=None, database_url=SecretStr(dsn))  # type: ignore[call-arg]


def main() -> None:
    """Print the figures, as one line of JSON with --json."""
    parser = argparse.ArgumentParser(description="What proving the history costs.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--payload-bytes", type=int, default=300, help="size of each batch of records")
    parser.add_argument("--database-url", help="an empty database; an embedded server without")
    parser.add_argument("--nats-url", help="not used")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--org", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    configure_logging("warning", "text", "bench")
    if arguments.part is not None:
        found = uvloop.run(PARTS[arguments.part](arguments))
        found["peak_mb"] = round(peak_bytes(psutil.Process()) / 2**20, 1)
        print(json.dumps(found))
        return
    found = uvloop.run(measure(arguments))
    print(json.dumps(found) if arguments.json else "\n".join(f"{name:24}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
