"""Submissions, their runs, waiting, results."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from events.ids import new_id
from gateway.state import Gateway
from tests.gateway.support import Service, World

RECORDS = [{"name": "Globex", "n": 1.5, "odd": "nul \x00 in a text", "deep": {"a": [None, True, 2**63]}}]


async def submit(client: httpx.AsyncClient, world: World, key: str | None = None, **fields: Any) -> httpx.Response:
    body = {"company_id": world.company_id, "blueprint_id": BLUEPRINT, "records": RECORDS, **fields}
    headers = world.admin.headers | {"Idempotency-Key": key or new_id()}
    answer = await client.post("/v1/submissions/create", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer


BLUEPRINT = new_id()


async def query(client: httpx.AsyncClient, world: World, path: str, **body: Any) -> Any:
    answer = await client.post(path, json=body, headers=world.admin.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_waits_for_the_run_and_embeds_its_results(
    client: httpx.AsyncClient, world: World, service: Service
) -> None:
    answer = await submit(client, world, wait_s=10, include_results=True)
    run = answer.json()["run"]
    assert run["status"] == "succeeded"
    assert [(step["key"], step["status"]) for step in run["steps"]] == [("first", "succeeded"), ("second", "succeeded")]
    assert run["results"] == {"rows": 1, "records": [{**RECORDS[0], "done": True}]}
    assert run["last_position"] >= run["position"]
    same = await query(client, world, "/v1/runs/get", run_id=run["run_id"], include_results=True)
    assert same == run


async def test_large_payloads(client: httpx.AsyncClient, world: World, service: Service) -> None:
    """Above the inline size they go through the blob store; above 1,000 records only the first are embedded."""
    records = [{"n": number} for number in range(1500)]
    created = (await submit(client, world, records=records, wait_s=10, include_results=True)).json()
    assert created["run"]["results"]["rows"] == 1500
    assert len(created["run"]["results"]["records"]) == 1000
    run_id = created["run_id"]
    for kind, step_index in (("output", 0), ("input", 0), ("input", 1)):
        pages = []
        cursor = None
        while True:
            wanted = {"run_id": run_id, "kind": kind, "step_index": step_index}
            page = await query(client, world, "/v1/results/get", **wanted, limit=600, cursor=cursor)
            assert page["rows"] == 1500
            pages.append(page["records"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert [len(page) for page in pages] == [600, 600, 300]
        assert [record for page in pages for record in page] == records
    rejects = await query(client, world, "/v1/results/get", run_id=run_id, kind="rejects")
    assert (rejects["rows"], rejects["records"], rejects["next_cursor"]) == (0, [], None)


async def test_a_wait_ends_with_the_run(client: httpx.AsyncClient, world: World, service: Service) -> None:
    service.hold = asyncio.Event()
    created = (await submit(client, world)).json()
    run_id, position = created["run_id"], created["position"]
    running = await query(client, world, "/v1/runs/get", run_id=run_id, min_position=position)
    assert running["status"] == "running"
    assert [step["status"] for step in running["steps"]] == ["scheduled", "pending"]
    steps = (await query(client, world, "/v1/step_results/list", run_id=run_id))["items"]
    assert [(step["status"], step["attempt"]) for step in steps] == [("scheduled", 1), ("pending", None)]
    refused = await client.post("/v1/results/get", json={"run_id": run_id}, headers=world.admin.headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_result")

    waiting = asyncio.create_task(query(client, world, "/v1/runs/get", run_id=run_id, wait_s=10))
    short = await query(client, world, "/v1/runs/get", run_id=run_id, wait_s=0.05)
    assert short["status"] == "running", "it answered when its wait was over"
    assert not waiting.done()
    began = time.monotonic()
    service.hold.set()
    assert (await waiting)["status"] == "succeeded"
    assert time.monotonic() - began < 1.5, "the signal woke it"


async def test_a_lost_signal_costs_two_seconds_at_most(
    client: httpx.AsyncClient, world: World, service: Service
) -> None:
    service.signal_ends = False
    began = time.monotonic()
    assert (await submit(client, world, wait_s=15)).json()["run"]["status"] == "succeeded"
    assert time.monotonic() - began < 6


async def test_many_waiters_of_many_runs(
    client: httpx.AsyncClient, world: World, service: Service, gateway: Gateway
) -> None:
    answers = await asyncio.gather(*(submit(client, world, wait_s=10, include_results=True) for _ in range(20)))
    assert {answer.json()["run"]["status"] for answer in answers} == {"succeeded"}
    assert len({answer.json()["run_id"] for answer in answers}) == 20
    assert not gateway.signals._runs, "no waiter is left behind"


async def test_callers_of_two_companies_in_one_query_see_their_own(
    client: httpx.AsyncClient, world: World, service: Service
) -> None:
    run_id = (await submit(client, world, wait_s=10)).json()["run_id"]
    people = [world.member, world.other_member, world.admin, world.stranger] * 5
    answers = await asyncio.gather(
        *(client.post("/v1/runs/get", json={"run_id": run_id}, headers=person.headers) for person in people)
    )
    assert [answer.status_code for answer in answers] == [200, 404, 200, 404] * 5


async def test_a_submission_without_a_run(client: httpx.AsyncClient, world: World, service: Service) -> None:
    created = (await submit(client, world, start_run=False, wait_s=5)).json()
    assert created["run_id"] is None
    assert not service.commands[-1].start_run  # type: ignore[attr-defined]


async def test_a_read_waits_for_the_position_it_is_given(
    client: httpx.AsyncClient, world: World, service: Service, gateway: Gateway
) -> None:
    position = gateway.signals.position + 100
    waiting = asyncio.create_task(query(client, world, "/v1/orgs/get", min_position=position))
    await asyncio.sleep(0)
    assert not waiting.done()
    await service.signal(position)
    await waiting
    gateway.signals.position = 0


async def test_a_read_that_is_too_far_ahead_is_told_so(
    client: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.signals.Signals.wait_position.__defaults__", (0.05,))
    answer = await client.post("/v1/orgs/get", json={"min_position": 2**62}, headers=world.admin.headers)
    assert answer.status_code == 503
    assert answer.json()["code"] == "projection_behind"
    assert isinstance(answer.json()["position"], int)
    assert answer.headers["Retry-After"]


async def test_a_reset_sets_the_position_back(service: Service, gateway: Gateway) -> None:
    for position, reset, expected in (
        (900_000, False, 900_000),
        (800_000, False, 900_000),
        (7, True, 7),
        (8, False, 8),
    ):
        heard = gateway.signals._heard
        gateway.signals.position = max(gateway.signals.position, 0) if reset else gateway.signals.position
        await service.signal(position, reset=reset)
        async with asyncio.timeout(5):
            while gateway.signals._heard == heard:
                await asyncio.sleep(0)
        assert gateway.signals.position == expected


@pytest.mark.parametrize(
    "cursor", ["", "garbage", "cDQ", "cDQy=", "cC0x", "x" * 65, "cDk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"]
)
@pytest.mark.parametrize("path", ["/v1/runs/list", "/v1/results/get"])
async def test_cursors_that_are_not_ours(cursor: str, path: str, client: httpx.AsyncClient, world: World) -> None:
    body = {"cursor": cursor} | ({"run_id": new_id()} if "results" in path else {})
    answer = await client.post(path, json=body, headers=world.admin.headers)
    if cursor == "cDQ":  # a cursor of ours in form: position 4
        assert answer.status_code in (200, 404)
    else:
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["path"] == "/cursor"


async def test_lists_are_paged_newest_first(client: httpx.AsyncClient, world: World, service: Service) -> None:
    made = [(await submit(client, world, name=f"batch {number}")).json()["submission_id"] for number in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await query(client, world, "/v1/submissions/list", limit=2, cursor=cursor)
        seen += [item["submission_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    runs = await query(client, world, "/v1/runs/list", submission_id=made[0])
    assert [run["submission_id"] for run in runs["items"]] == [made[0]]
    assert (await query(client, world, "/v1/runs/list", status="failed"))["items"] == []


async def test_the_log_of_a_submission(client: httpx.AsyncClient, world: World, service: Service) -> None:
    created = (await submit(client, world, wait_s=10)).json()
    everything = await query(client, world, "/v1/events/list", submission_id=created["submission_id"])
    topics = [event["topic"] for item in everything["items"] for event in item["events"]]
    assert topics == [
        "submission.created", "run.started", "step.scheduled", "step.succeeded", "step.succeeded", "run.succeeded",
    ]  # fmt: skip
    positions = [item["position"] for item in everything["items"]]
    assert positions == sorted(positions)
    records = everything["items"][0]["events"][0]["data"]["records"]
    assert "inline" not in records
    assert set(records) == {"digest", "size_bytes", "rows", "format"}

    paged: list[Any] = []
    after = 0
    while after is not None:
        page = await query(
            client, world, "/v1/events/list", submission_id=created["submission_id"], after_position=after, limit=1
        )
        paged += page["items"]
        after = page["next_after_position"]
    assert paged == everything["items"]
    of_run = await query(client, world, "/v1/events/list", run_id=created["run_id"])
    assert of_run["items"] == everything["items"]
    of_org = await query(client, world, "/v1/events/list")
    assert of_org["items"] == everything["items"]


async def test_the_log_of_the_org_shows_a_company_its_own(
    client: httpx.AsyncClient, world: World, service: Service
) -> None:
    await submit(client, world, wait_s=10)
    own = await client.post("/v1/events/list", json={}, headers=world.member.headers)
    assert {item["company_id"] for item in own.json()["items"]} == {world.company_id}
    other = await client.post("/v1/events/list", json={}, headers=world.other_member.headers)
    assert other.json() == {"items": [], "next_after_position": None}
    both = {"submission_id": new_id(), "run_id": new_id()}
    assert (await client.post("/v1/events/list", json=both, headers=world.admin.headers)).status_code == 422
    for name in both:
        unknown = await client.post("/v1/events/list", json={name: new_id()}, headers=world.admin.headers)
        assert unknown.status_code == 404, name
