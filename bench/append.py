"""Log append and replay, beside the eventsourcing library's own recorder on Postgres, on the same machine.

Both store the same events, one aggregate a stream, each append a decision of one event with its version check, both
durable (`sync_interval: always`; fsync and synchronous_commit on). Ours is appended one at a time and 64 in flight;
the library's recorder is synchronous, one at a time and in 64-fold batches of different aggregates as its API allows.

    uv run python -m bench.append --events 5000 --json
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import uvloop
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from cli import embedded
from cli.supervisor import Supervisor
from events.administration import ORG, OrgRenamed
from events.connection import connect
from events.context import PLATFORM_ACTOR
from events.follow import Followed, follow
from events.log import EventLog
from events.mapper import MAPPER, decode_decision
from events.model import Decision
from events.subjects import EVENTS
from migrations.streams import migrate_streams

INFLIGHT = 64
NAME = "x" * 200


def decision(aggregate_id: str, version: int) -> Decision:
    """A decision of one event of about 200 bytes."""
    event = OrgRenamed(originator_id=aggregate_id, originator_version=version, name=NAME)
    return Decision(
        org_id=aggregate_id,
        kind=ORG,
        aggregate_id=aggregate_id,
        version=version,
        routing="log.org",
        decision_id=str(uuid4()),
        at=datetime.now(UTC),
        actor=PLATFORM_ACTOR,
        events=(event,),
    )


async def ours(url: str, count: int) -> dict[str, float]:
    """Appends a second, alone and with 64 in flight, and replayed events a second."""
    connection = await connect([url], "bench")
    await migrate_streams(connection, replicas=1)
    log = EventLog(connection)
    began = time.perf_counter()
    for _ in range(count // 4):
        await log.append(decision(str(uuid4()), 1))
    alone = (count // 4) / (time.perf_counter() - began)
    left = iter(range(count))

    async def appender() -> None:
        for _ in left:
            await log.append(decision(str(uuid4()), 1))

    began = time.perf_counter()
    await asyncio.gather(*(appender() for _ in range(INFLIGHT)))
    together = count / (time.perf_counter() - began)
    began, replayed, last = time.perf_counter(), 0, (await log.state()).last_position
    following = cast(AsyncGenerator[list[Followed], None], follow(connection, EVENTS, ["events.>"], after=0))
    async with aclosing(following) as batches:
        async for batch in batches:
            replayed += sum(len(decode_decision(message.subject, message.body).events) for message in batch)
            if batch[-1].position >= last:
                break
    replay = replayed / (time.perf_counter() - began)
    await connection.close()
    return {"append_alone_per_s": alone, "append_64_in_flight_per_s": together, "replay_per_s": replay}


def library(url: str, count: int) -> dict[str, float]:
    """The same for eventsourcing's recorder on Postgres."""
    parts = urlsplit(url)
    datastore = PostgresDatastore(
        dbname=parts.path[1:], host=parts.hostname or "", port=str(parts.port), user=parts.username or "",
        password=parts.password or "",
    )  # fmt: skip
    recorder = PostgresApplicationRecorder(datastore, events_table_name="bench_events")
    recorder.create_table()
    began = time.perf_counter()
    for _ in range(count // 4):
        recorder.insert_events([_stored()])
    alone = (count // 4) / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(count // INFLIGHT):
        recorder.insert_events([_stored() for _ in range(INFLIGHT)])
    together = (count // INFLIGHT) * INFLIGHT / (time.perf_counter() - began)
    began, replayed, position = time.perf_counter(), 0, 0
    while page := recorder.select_notifications(start=position + 1, limit=1000):
        replayed += len([MAPPER.to_domain_event(notification) for notification in page])
        position = page[-1].id
    replay = replayed / (time.perf_counter() - began)
    datastore.close()
    return {"append_alone_per_s": alone, "append_batches_of_64_per_s": together, "replay_per_s": replay}


def _stored() -> StoredEvent:
    stored = MAPPER.to_stored_event(decision(str(uuid4()), 1).events[0])
    return StoredEvent(UUID(str(stored.originator_id)), 1, stored.topic, stored.state)


async def measure(count: int, home: Path) -> dict[str, Any]:
    """Start both servers, measure one after the other."""
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "run" / "state.json", lambda _name, _what: None)
    await supervisor.start(embedded.nats_spec(home, config))
    await supervisor.start(embedded.postgres_spec(home, config))
    try:
        mine = await ours(config.nats_url, count)
        theirs = await asyncio.to_thread(library, config.database_url, count)
    finally:
        await supervisor.stop()
    return {
        "events": count,
        "cores": os.cpu_count(),
        "ours": {name: round(figure) for name, figure in mine.items()},
        "eventsourcing_postgres": {name: round(figure) for name, figure in theirs.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dex-bench-") as folder:
        figures = uvloop.run(measure(options.events, Path(folder)))
    print(json.dumps(figures, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
