"""A system from before there were lanes gets its bulk queues: no task doubled, none lost, also over a kill of NATS."""

import asyncio
import json
from dataclasses import replace

from nats.aio.client import Client

from cli import embedded
from cli.supervisor import Supervisor
from events import subjects
from events.connection import connect
from events.log import EventLog
from migrations.streams import check_streams, definitions, migrate_streams
from tests.events.test_log import decision

ORGS = [f"0f4c6d1e-9d55-4a57-8d0c-3f0f6a0b7c{n:02d}" for n in range(20)]
PATIENCE_S = 30


async def api(connection: Client, subject: str, body: dict) -> dict:
    return json.loads((await connection.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=5)).data)


async def waiting(connection: Client, stream: str) -> dict[str, int]:
    info = await api(connection, f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
    return info["state"].get("subjects") or {}


async def until_waiting(connection: Client, stream: str, count: int) -> dict[str, int]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                found = await waiting(connection, stream)
            except Exception:  # noqa: BLE001 - the server is starting again; the time limit ends this
                found = {}
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)  # the interval between two questions


async def append(log: EventLog, lane: str, orgs: list[str]) -> None:
    for number, org in enumerate(orgs):
        routed = replace(decision(org, 1), kind="run", routing=f"{lane}.clean")
        await log.append(replace(routed, aggregate_id=f"{lane}-{number}"))


async def test_a_log_from_before_gets_its_bulk_queues(home):
    home.mkdir()
    folder = embedded.DataFolder(home)
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "state.json", lambda _name, _what: None)
    await supervisor.start(embedded.nats_spec(home, config))
    connection = await connect([config.nats_url], "test")
    try:
        for name, old in definitions(replicas=1).items():
            if name != subjects.BULK_TASKS:
                assert "error" not in await api(connection, f"STREAM.CREATE.{name}", old)
        log = EventLog(connection)
        await append(log, "due", ORGS)
        before = await until_waiting(connection, subjects.TASKS, len(ORGS))
        assert await migrate_streams(connection, replicas=1) == [subjects.BULK_TASKS]
        assert await check_streams(connection, replicas=1) == []
        await append(log, "bulk", ORGS)
        bulk = await until_waiting(connection, subjects.BULK_TASKS, len(ORGS))
        assert await waiting(connection, subjects.TASKS) == before == dict.fromkeys(before, 1)
        assert set(bulk.values()) == {1}
        assert {subjects.scheduled_by(task) for task in bulk} == {
            f"events.{org}.run.bulk-{number}.1.bulk.clean" for number, org in enumerate(ORGS)
        }
        buckets = {int(task.split(".")[1]) for task in bulk}
        assert len(buckets) > 1
        assert buckets <= set(range(subjects.BULK_BUCKETS))
        supervisor.kill("nats")
        assert await until_waiting(connection, subjects.TASKS, len(ORGS)) == before
        assert await until_waiting(connection, subjects.BULK_TASKS, len(ORGS)) == bulk
    finally:
        await connection.close()
        await supervisor.stop(abruptly=True)
        folder.close()
