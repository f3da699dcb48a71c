"""The log is cut, made anew, or restored from an older backup under a running system: all who follow it stop and say
so, nothing new is accepted, and the commands for it bring back what either copy had.
"""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.log import EventLog
from tests.audit.support import company_decision
from tests.system.rewinding import Rewindable, rewindable, until

STEP = "test_count"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Rewindable]:
    async with rewindable(tmp_path) as made:
        yield made


async def submitted(running: Rewindable, blueprint_id: str, number: int, key: str) -> dict:
    """Submit until it is accepted, as a client would."""
    body = {"company_id": running.org.company_id, "blueprint_id": blueprint_id, "records": [{"n": number}]}

    async def is_accepted() -> dict | None:
        answer = await running.org.post("submissions/create", body, key)
        assert answer.status_code in (200, 201, 202, 503), answer.text
        return answer.json() if answer.status_code in (200, 201) else None

    return await until(is_accepted)


async def refused(running: Rewindable, blueprint_id: str, what: str) -> None:
    """What is new is refused, with what happened to the log."""
    body = {"company_id": running.org.company_id, "blueprint_id": blueprint_id, "records": [{"n": 1}]}

    async def is_refused() -> bool:
        answer = await running.org.post("submissions/create", body, str(uuid.uuid4()))
        return answer.status_code == 503 and answer.json()["code"] == "log_rewound" and what in answer.json()["detail"]

    await until(is_refused)


async def test_nats_is_restored_from_an_older_backup(running: Rewindable) -> None:
    org = running.org
    blueprint_id = await org.blueprint(STEP)
    await org.ended(first := await org.submit(blueprint_id, [{"n": 1}], "first"))
    await running.quiet()
    await running.servers.save("nats")
    await org.ended(second := await submitted(running, blueprint_id, 2, "second"))
    steps = await org.steps(second)
    before = await running.quiet()

    await running.servers.put_back("nats")
    log = EventLog(running.connection)
    rival = company_decision(org.org_id, org.company_id)  # sealed; accepted before anybody looked
    await until(lambda: log.append(rival))
    for process in ("projector", "archiver"):
        await running.told(process, "log_rewound")
        assert f"is at position {before.archive.position}, and the log ends at" in running.says(process)
    await refused(running, blueprint_id, "The log was rewound and written again: at position")
    code, told = await running.dex("log", "check")
    assert (code, "log_cut" in told, "dex log restore log" in told) == (1, True, True), told

    code, told = await running.dex("log", "restore", "log")
    assert (code, "appended 1" in told, "dead letters 0" in told) == (0, True, True), told
    assert (await running.checked()).ok
    await goes_on(running, blueprint_id, first, second)
    assert await org.steps(second) == steps
    assert [r.decision.decision_id for r in await log.history(org.org_id, "company", rival.aggregate_id)] == [
        rival.decision_id
    ]


async def goes_on(running: Rewindable, blueprint_id: str, *earlier: dict) -> None:
    """What was accepted is there, once; what is new is done; and both copies are whole."""
    org = running.org
    third = await submitted(running, blueprint_id, 3, "third")

    async def is_read() -> dict | None:
        answer = await org.post(
            "runs/get", {"run_id": third["run_id"], "wait_s": 30, "min_position": third["position"]}
        )
        return answer.json() if answer.status_code == 200 and answer.json()["status"] != "running" else None

    assert (await until(is_read))["status"] == "succeeded"
    for number, made in enumerate(earlier, 1):
        assert (await org.ended(made))["status"] == "succeeded"
        again = await org.submit(blueprint_id, [{"n": number}], ("first", "second")[number - 1])
        assert (again["run_id"], again["position"]) == (made["run_id"], made["position"])
        listed = await org.call("events/list", {"run_id": made["run_id"], "limit": 500})
        versions = [item["version"] for item in listed["items"]]
        assert versions == list(range(1, len(versions) + 1))
    assert third["position"] > earlier[-1]["position"]
    assert (await running.quiet()).ok
