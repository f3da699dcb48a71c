"""From a run on the running system to a file that is verified without it."""

import asyncio

import orjson
import pytest
from nats.aio.client import Client

from cli.system import System
from events import subjects
from events.audit.checkpoint import AuditKey
from events.audit.verify import verify
from events.settings import Settings
from tests.system.client import Org


@pytest.fixture
def key(system_settings: Settings) -> AuditKey:
    assert system_settings.audit_key is not None
    return AuditKey.of(system_settings.audit_key.get_secret_value(), system_settings.audit_origin)


async def test_what_was_done_can_be_proved(system: System, org: Org, key: AuditKey, connection: Client) -> None:
    told: asyncio.Queue[int] = asyncio.Queue()

    async def receive(message: object) -> None:
        told.put_nowait(orjson.loads(message.data)["position"])  # type: ignore[attr-defined]

    subscription = await connection.subscribe(subjects.PROVED, cb=receive)
    await connection.flush()
    before = await org.call("audit/checkpoint", {"min_position": org.position})
    made = [await org.submit(await org.blueprint("test_count"), [{"n": 1}]) for _ in range(3)]
    ended = [await org.ended(one) for one in made]
    last = max(run["last_position"] for run in ended)
    async with asyncio.timeout(20):
        while await told.get() < last:
            continue
    await subscription.unsubscribe()

    after = await org.call("audit/checkpoint", {"min_position": last})
    assert after["size"] > before["size"]
    whole = await org.post("audit/export", {"min_position": last, "previous_sizes": [before["size"]]})
    lines = whole.content.splitlines(keepends=True)
    report = verify(
        lines, checkpoint=after["checkpoint"], key=key.verifier(org.org_id), previous=[before["checkpoint"]]
    )
    assert report.ok, report.finding
    assert (report.whole, report.checkpoints_compared) == (True, [before["size"], after["size"]])
    logged = await org.call("events/list", {"limit": 500})
    positions = [orjson.loads(line)["position"] for line in lines if b'"subject"' in line]
    assert positions == [item["position"] for item in logged["items"]]

    of_run = await org.post("audit/export", {"run_id": made[1]["run_id"], "previous_sizes": [before["size"]]})
    report = verify(of_run.content.splitlines(), checkpoint=before["checkpoint"], key=key.verifier())
    assert report.ok, report.finding
    assert report.decisions >= 2
    proof = await org.call("audit/inclusion", {"submission_id": made[2]["submission_id"]})
    assert {made[2]["position"], ended[2]["last_position"]} <= {item["position"] for item in proof["items"]}
