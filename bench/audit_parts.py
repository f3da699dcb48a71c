"""The parts of bench.audit, each run in a process of its own so that its memory can be read: `python -m
bench.audit_parts PART …` prints one line of JSON.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import uvloop
from pydantic import SecretStr

from bench.memory import peak_bytes
from bench.meter import percentile
from cli.auditing import verify_file
from events.audit import merkle
from events.audit.checkpoint import AuditKey
from events.connection import connect
from events.log import EventLog
from events.logging import configure_logging
from events.settings import Settings
from gateway.exports.audit import Part, export_lines
from projections.archive.archiver import Archiver
from projections.archive.check import check
from projections.archive.trees import TreeBuilder
from projections.database import create_pool
from projections.queries import audit
from projections.queries.audit import TreeNodes
from projections.queries.reader import Reader, Scope

PROOFS = 2000
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

Figures = dict[str, Any]


def settings_of(dsn: str) -> Settings:
    """Settings that name a database, and nothing else."""
    return Settings(_env_file=None, database_url=SecretStr(dsn))  # type: ignore[call-arg]


async def archive(arguments: argparse.Namespace) -> Figures:
    """Archive a log that is there already, then compare the two copies."""
    connection = await connect([arguments.nats_url], "bench")
    try:
        last = (await EventLog(connection).state()).last_position
        async with await create_pool(settings_of(arguments.database_url)) as pool:
            began_s = time.perf_counter()
            await Archiver(pool, connection).run(asyncio.Event(), until_position=last)
            archived_s = time.perf_counter()
            found = await check(pool, connection)
            checked_s = time.perf_counter()
    finally:
        await connection.close()
    if not found.ok or found.compared != last:
        raise SystemExit(f"The archive is not the log: {found.faults}")
    return {"decisions": last, "seconds": archived_s - began_s, "check_seconds": checked_s - archived_s}


async def build_trees(arguments: argparse.Namespace) -> Figures:
    """Build all trees, and nothing else."""
    async with await create_pool(settings_of(arguments.database_url)) as pool:
        builder = TreeBuilder(pool, AuditKey.of(SECRET, "bench.example"))
        began_s, added = time.perf_counter(), 0
        while count := await builder.step():
            added += count
        return {"seconds": time.perf_counter() - began_s, "decisions": added}


async def prove(arguments: argparse.Namespace) -> Figures:
    """Inclusion proofs, one after another."""
    chosen, times_ms = random.Random(11), []
    async with await create_pool(settings_of(arguments.database_url)) as pool:
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

    async with await create_pool(settings_of(arguments.database_url)) as pool:
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
    "archive": archive,
    "trees": build_trees,
    "prove": prove,
    "export": export,
    "verify": verify,
}


def main() -> None:
    """One part, whose figures are printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--nats-url", help="archive only")
    parser.add_argument("--org", help="whose history")
    parser.add_argument("--file", help="of the export")
    arguments = parser.parse_args()
    configure_logging("warning", "text", "bench")
    found = uvloop.run(PARTS[arguments.part](arguments))
    found["peak_mb"] = round(peak_bytes(psutil.Process()) / 2**20, 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
