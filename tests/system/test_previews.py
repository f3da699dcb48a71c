"""Previews on the running system: what each step would do with a few rows, and that nothing of it is kept."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
from nats.aio.client import Client

from cli.system import System
from events import subjects
from events.log import EventLog
from tests.system.client import Org
from tests.system.test_batches import export, uploaded

STEPS = [
    {"key": "normalize_text", "config": {"fields": ["name"], "case": "title"}},
    {"key": "normalize_email", "config": {"field": "email", "on_error": "reject"}},
    {"key": "deduplicate", "config": {"keys": [["email"]]}},
]
RECORDS = [
    {"name": "  ann SMITH", "email": "ann@Example.COM"},
    {"name": "bob", "email": "not an address"},
    {"name": "ann", "email": "ann@example.com"},
]


async def preview_answer(org: Org, *steps: dict, records: list | None = None, **more) -> httpx.Response:
    body = {"company_id": org.company_id, "steps": list(steps), "records": records or RECORDS, **more}
    return await org.post("blueprints/preview", body)


async def preview(org: Org, *steps: dict, **more) -> dict:
    answer = await preview_answer(org, *steps, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_each_step_shows_its_before_and_after_and_nothing_is_recorded(
    org: Org, log: EventLog, connection: Client
) -> None:
    before = (await log.state()).last_position
    blobs = await connection.jetstream().stream_info(subjects.BLOBS)
    made = await preview(org, *STEPS)
    assert made["succeeded"], made
    assert [step["status"] for step in made["steps"]] == ["succeeded"] * 3
    first, second, third = made["steps"]
    assert first["before"]["records"] == RECORDS
    assert [record["name"] for record in first["after"]["records"]] == ["Ann Smith", "Bob", "Ann"]
    assert second["before"] == first["after"]
    assert second["after"]["row_ids"] == [0, 2]
    assert second["rejects"] == [{"row": 1, "field": "email", "code": "invalid_email", "value": "not an address"}]
    assert third["after"]["row_ids"] == [0]
    assert third["report"]["removed"] == 1
    assert third["fields"] == ["name", "email"]
    assert all(step["duration_us"] > 0 and step["version"] for step in made["steps"])
    ours = [item async for item in log.read(before, f"events.{org.org_id}.>")]
    assert ours == [], "no event of it"
    assert (await connection.jetstream().stream_info(subjects.BLOBS)).state.messages == blobs.state.messages


async def test_a_preview_shows_what_a_run_then_does(org: Org) -> None:
    blueprint_id = await org.blueprint(*STEPS)
    made = await org.submit(blueprint_id, RECORDS)
    run = await org.ended(made)
    shown = await org.call(
        "blueprints/preview",
        {"blueprint_id": blueprint_id, "submission_id": made["submission_id"], "min_position": run["last_position"]},
    )
    page = {"run_id": made["run_id"]}
    for index, step in enumerate(shown["steps"]):
        done = await org.call("results/get", {**page, "step_index": index})
        rejected = await org.call("results/get", {**page, "step_index": index, "kind": "rejects"})
        assert (step["after"]["records"], step["rejects"]) == (done["records"], rejected["records"])
        assert step["version"] == (await org.steps(made))[index]["step_version"]


async def test_the_first_rows_of_an_uploaded_file(org: Org) -> None:
    blueprint_id = await org.blueprint(*STEPS)
    unread = await uploaded(org, blueprint_id, export(40), start_run=False)
    body = {"steps": STEPS[:1], "submission_id": unread["submission_id"], "rows": 3}
    refused = await org.post("blueprints/preview", body | {"min_position": unread["position"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_read")
    made = await uploaded(org, blueprint_id, export(40))
    run = await org.ended(made)
    body |= {"submission_id": made["submission_id"], "min_position": run["last_position"]}
    shown = await org.call("blueprints/preview", body)
    assert shown["steps"][0]["before"]["row_ids"] == [0, 1, 2]
    assert [record["name"] for record in shown["steps"][0]["after"]["records"]] == ["Ann 0", "Ann 1", "Ann 2"]


async def test_a_fault_is_shown_at_its_step_with_the_fields_there_are(org: Org) -> None:
    wrong = {"key": "normalize_email", "config": {"field": "mail"}}
    made = await preview(org, STEPS[0], wrong, STEPS[2])
    assert [step["status"] for step in made["steps"]] == ["succeeded", "failed", "not_executed"]
    assert made["steps"][1]["error"]["code"] == "unknown_field"
    assert "'email'" in made["steps"][1]["error"]["message"]
    assert made["steps"][1]["fields"] == ["name", "email"]
    assert made["steps"][2]["error"]["code"] == "after_another"
    assert not made["succeeded"]


async def test_steps_that_no_blueprint_could_have_are_refused_with_their_paths(org: Org) -> None:
    steps = [{"key": "no_such_step"}, {"key": "normalize_email", "config": {"felid": 1}}]
    refused = await org.post("blueprints/preview", {"company_id": org.company_id, "steps": steps, "records": RECORDS})
    assert refused.status_code == 422
    assert {fault["path"] for fault in refused.json()["errors"]} >= {"/steps/0/key", "/steps/1/config"}
    for body in ({"steps": STEPS}, {"records": RECORDS}, {"steps": STEPS, "blueprint_id": org.company_id}):
        refused = await org.post("blueprints/preview", {"company_id": org.company_id, **body})
        assert refused.status_code == 422, refused.text


async def test_a_step_with_effects_is_not_executed(org: Org) -> None:
    made = await preview(org, STEPS[0], {"key": "test_slow", "config": {"seconds": 0.0}}, STEPS[2])
    assert [step["status"] for step in made["steps"]] == ["succeeded", "not_executed", "not_executed"]
    assert made["steps"][1]["error"]["code"] == "has_effects"


async def test_references_are_those_of_the_company(org: Org) -> None:
    countries = await org.submit(await org.blueprint("test_count"), [{"code": "DE", "country": "Germany", "n": 0}])
    await org.ended(countries)
    config = {"run_id": countries["run_id"], "keys": {"cc": "code"}, "fields": {"country": "country"}}
    lookup = {"key": "lookup_join", "config": config}
    made = await preview(org, lookup, records=[{"cc": "DE"}])
    assert made["steps"][0]["after"]["records"][0]["country"] == "Germany", made
    other = await org.call("companies/create", {"name": "Other"})
    made = await preview(org, lookup, records=[{"cc": "DE"}], company_id=other["company_id"])
    assert made["steps"][0]["error"]["code"] == "unknown_run"


async def test_steps_that_crash_hang_or_make_too_much(org: Org) -> None:
    fields = {"out": "row.l.map(a, row.l.map(b, row.l.map(c, a + b + c)))"}
    endless = {"key": "derive", "config": {"fields": fields, "on_error": "fail"}}
    crashed, hung, garbage, cel = await asyncio.gather(
        preview(org, {"key": "test_crash"}),
        preview(org, {"key": "test_hang", "retry": {"timeout_s": 0.5}}),
        preview(org, {"key": "test_garbage"}),
        preview(org, endless, records=[{"l": list(range(500))}]),
    )
    assert crashed["steps"][0]["error"]["code"] == "step_crashed"
    assert hung["steps"][0]["error"]["code"] == "step_timeout"
    assert garbage["steps"][0]["error"]["code"] == "bad_output"
    assert cel["steps"][0]["status"] == "failed", "bounded by its own limits, or by the preview's"
    assert (await preview(org, *STEPS))["succeeded"], "the worker lives"


async def test_huge_rows_and_too_many_are_refused(org: Org) -> None:
    body = {"company_id": org.company_id, "steps": STEPS[:1]}
    large = await org.post("blueprints/preview", body | {"records": [{"name": "x" * 600_000}]})
    assert (large.status_code, large.json()["errors"][0]["path"]) == (422, "/records")
    many = await org.post("blueprints/preview", body | {"records": [{"name": "x"}] * 201})
    assert many.status_code == 422


async def test_another_tenants_submission_is_unknown(org: Org, other_org: Org) -> None:
    made = await other_org.submit(await other_org.blueprint("test_count"))
    await other_org.ended(made)
    refused = await org.post("blueprints/preview", {"steps": STEPS, "submission_id": made["submission_id"]})
    assert refused.status_code == 404
    refused = await org.post(
        "blueprints/preview", {"steps": STEPS, "records": RECORDS, "company_id": other_org.company_id}
    )
    assert refused.status_code == 404


async def test_a_worker_that_dies_meanwhile_is_a_clear_503(org: Org, system: System, tmp_path: Path) -> None:
    """The sign of life stops, and the gateway says so long before a preview's own time is over."""
    marker = tmp_path / "marker"
    os.mkfifo(marker)
    waits = {"key": "test_flaky", "config": {"marker": str(marker)}}
    asked = asyncio.create_task(preview_answer(org, waits))
    with await asyncio.to_thread(marker.open, "wb"):  # opens when the step reads it, who then waits for its end
        system.supervisor.kill("worker", signal.SIGKILL)
        answer = await asked
    assert answer.status_code == 503, answer.text
    assert "gone after 0 of 1 steps" in answer.json()["detail"]
    assert answer.headers["Retry-After"]
