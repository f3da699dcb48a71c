"""Runs, end to end over HTTP: what happens to a submission, whatever its steps do."""

import asyncio
import uuid
from pathlib import Path

import pytest

from services.worker.isolation import StepProcesses


async def test_a_submission_goes_through_its_run_to_its_results(org):
    blueprint = await org.blueprint("test_count", "test_count", "test_count")
    made = await org.submit(blueprint, [{"n": 0, "name": "Ä\u0000"}, {"n": 10}])
    run = await org.ended(made)
    assert run["status"] == "succeeded"
    results = await org.steps(made)
    assert [(r["status"], r["attempt"], r["input"]["rows"], r["output"]["rows"]) for r in results] == [
        ("succeeded", 1, 2, 2)
    ] * 3
    assert results[0]["output"]["digest"] == results[1]["input"]["digest"]
    rows = await org.call("results/get", {"run_id": made["run_id"]})
    assert rows["records"] == [{"n": 3, "name": "Ä\u0000"}, {"n": 13}]
    middle = await org.call("results/get", {"run_id": made["run_id"], "step_index": 0})
    assert [row["n"] for row in middle["records"]] == [1, 11]
    events = (await org.call("events/list", {"run_id": made["run_id"]}))["items"]
    topics = [event["topic"] for item in events for event in item["events"]]
    assert topics == ["submission.created", "run.started", "step.scheduled", *["step.succeeded"] * 3, "run.succeeded"]


async def test_waiting_on_create_answers_with_the_ended_run(org):
    blueprint = await org.blueprint("test_count")
    made = await org.submit(blueprint, [{"n": 1}], wait_s=30, include_results=True)
    assert made["run"]["status"] == "succeeded"
    assert made["run"]["results"]["records"] == [{"n": 2}]


async def test_pages_of_results(org):
    blueprint = await org.blueprint("test_count")
    made = await org.submit(blueprint, [{"n": n} for n in range(25)])
    await org.ended(made)
    found, cursor = [], None
    while True:
        page = await org.call("results/get", {"run_id": made["run_id"], "limit": 10, "cursor": cursor})
        found += [row["n"] for row in page["records"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == list(range(1, 26))


async def test_large_batches_go_through_blobs_and_step_processes(org):
    blueprint = await org.blueprint("test_count", "test_count")
    records = [{"n": n, "text": "x" * 100} for n in range(5000)]
    made = await org.submit(blueprint, records)
    assert (await org.ended(made))["status"] == "succeeded"
    output = (await org.steps(made))[-1]["output"]
    assert output["rows"] == 5000
    assert not output["inline"]
    rows = await org.call("results/get", {"run_id": made["run_id"], "limit": 1000})
    assert rows["records"][:2] == [{"n": 2, "text": "x" * 100}, {"n": 3, "text": "x" * 100}]


async def test_a_failing_step_ends_the_run_and_the_retry_reuses_what_there_is(org, tmp_path):
    flaky = {
        "key": "test_flaky",
        "config": {"marker": str(tmp_path / "attempts"), "failures": 1},
        "retry": {"attempts": 1},
    }
    blueprint = await org.blueprint("test_count", flaky, "test_count")
    made = await org.submit(blueprint)
    run = await org.ended(made)
    assert run["status"] == "failed"
    assert run["error"]["code"] == "busy"
    assert [r["status"] for r in await org.steps(made)] == ["succeeded", "failed", "skipped"]
    retried = await org.call("runs/retry", {"run_id": made["run_id"]})
    assert (await org.ended(retried))["status"] == "succeeded"
    results = await org.steps(retried)
    assert results[0]["reused_from_run_id"] == made["run_id"]
    assert [r["status"] for r in results] == ["succeeded"] * 3
    assert (await org.post("runs/retry", {"run_id": retried["run_id"]})).status_code == 409


async def test_retryable_errors_are_tried_again_with_backoff(org, tmp_path):
    marker = tmp_path / "attempts"
    flaky = {
        "key": "test_flaky",
        "config": {"marker": str(marker), "failures": 2},
        "retry": {"attempts": 3, "backoff_s": 0.2},
    }
    made = await org.submit(await org.blueprint(flaky, "test_count"))
    assert (await org.ended(made))["status"] == "succeeded"
    assert (await org.steps(made))[0]["attempt"] == 3
    assert len(marker.read_bytes()) == 3


@pytest.mark.parametrize(
    ("step", "code", "said"),
    [
        ("test_crash", "step_crashed", "SIGSEGV"),
        ("test_greedy", "out_of_memory", "memory"),
        ("test_reject_all", "refused", "not this"),
        ("test_garbage", "bad_output", "list of objects"),
    ],
)
async def test_a_step_that_breaks_fails_with_its_reason_and_takes_no_other_run_with_it(org, step, code, said):
    broken = await org.blueprint({"key": step, "retry": {"attempts": 1}}, "test_count")
    good = await org.blueprint("test_count", "test_count")
    bad = await org.submit(broken)
    others = await asyncio.gather(*(org.submit(good, [{"n": n}]) for n in range(20)))
    run = await org.ended(bad)
    assert (run["status"], run["error"]["code"]) == ("failed", code)
    assert said in run["error"]["message"]
    assert {(await org.ended(made))["status"] for made in others} == {"succeeded"}


async def test_a_step_that_never_ends_is_stopped_at_its_time_limit(org):
    hanging = {"key": "test_hang", "retry": {"attempts": 1, "timeout_s": 1}}
    run = await org.ended(await org.submit(await org.blueprint(hanging)))
    assert (run["status"], run["error"]["code"]) == ("failed", "step_timeout")


async def test_a_cancelled_run_skips_what_is_pending_and_records_nothing_after(org):
    slow = {"key": "test_slow", "config": {"seconds": 1.5}}
    made = await org.submit(await org.blueprint("test_count", slow, "test_count"))
    while (await org.steps(made))[1]["status"] != "running":
        await org.call("runs/get", {"run_id": made["run_id"], "wait_s": 0.1})
    cancelled = await org.call("runs/cancel", {"run_id": made["run_id"], "reason": "wrong file"})
    run = await org.ended({"run_id": made["run_id"], "position": cancelled["position"]})
    assert run["status"] == "cancelled"
    assert [r["status"] for r in await org.steps(made, cancelled["position"])] == ["succeeded", "skipped", "skipped"]
    # the step in flight ends while another slow run goes by; the history of the cancelled one stays as it is
    await org.ended(await org.submit(await org.blueprint(slow, slow)))
    events = (await org.call("events/list", {"run_id": made["run_id"]}))["items"]
    assert events[-1]["position"] == cancelled["position"]
    again = await org.call("runs/cancel", {"run_id": made["run_id"]})
    assert again["position"] == cancelled["position"]


async def test_the_same_key_gives_the_first_answer_for_ever(org):
    blueprint = await org.blueprint("test_count")
    key = str(uuid.uuid4())
    answers = await asyncio.gather(*(org.submit(blueprint, [{"n": 1}], key=key) for _ in range(20)))
    assert len({(a["submission_id"], a["run_id"], a["position"]) for a in answers}) == 1
    await org.ended(answers[0])
    await org.call("blueprints/archive", {"blueprint_id": blueprint})
    late = await org.submit(blueprint, [{"n": 1}], key=key)
    assert late["run_id"] == answers[0]["run_id"]
    other = await org.post(
        "submissions/create",
        {"company_id": org.company_id, "blueprint_id": blueprint, "records": [{"n": 2}]},
        key,
    )
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    runs = await org.call("runs/list", {"submission_id": late["submission_id"]})
    assert len(runs["items"]) == 1


async def test_an_archived_blueprint_starts_no_run(org):
    blueprint = await org.blueprint("test_count")
    await org.call("blueprints/archive", {"blueprint_id": blueprint})
    body = {"company_id": org.company_id, "blueprint_id": blueprint, "records": [{}]}
    response = await org.post("submissions/create", body)
    assert response.status_code == 409, response.text


async def test_every_fault_of_a_blueprint_at_once_with_its_path(org):
    steps = [
        {"key": "map_fields", "config": {"mappings": 5, "nonsense": 1}},
        {"key": "no_such_step"},
        {"key": "deduplicate", "config": {"keys": []}},
    ]
    response = await org.post("blueprints/create", {"name": "bad", "steps": steps})
    assert response.status_code == 422
    paths = {fault["path"] for fault in response.json()["errors"]}
    assert {"/steps/0/config/mappings", "/steps/1/key", "/steps/2/config/keys"} <= paths
    assert any(
        path.startswith("/steps/0/config") and "nonsense" in fault["message"]
        for fault in response.json()["errors"]
        for path in [fault["path"]]
    )


async def test_you_read_what_you_wrote(org):
    for _ in range(10):
        made = await org.submit(await org.blueprint("test_count"))
        found = await org.call(
            "submissions/get", {"submission_id": made["submission_id"], "min_position": made["position"]}
        )
        assert found["submission_id"] == made["submission_id"]


async def test_another_tenants_things_are_as_if_they_were_not(org, other_org):
    made = await org.submit(await org.blueprint("test_count"))
    await org.ended(made)
    for endpoint, field, mine in (
        ("runs/get", "run_id", made["run_id"]),
        ("runs/cancel", "run_id", made["run_id"]),
        ("runs/retry", "run_id", made["run_id"]),
        ("step_results/list", "run_id", made["run_id"]),
        ("results/get", "run_id", made["run_id"]),
        ("events/list", "run_id", made["run_id"]),
        ("submissions/get", "submission_id", made["submission_id"]),
        ("companies/get", "company_id", org.company_id),
    ):
        foreign = await other_org.post(endpoint, {field: mine})
        unknown = await other_org.post(endpoint, {field: str(uuid.uuid4())})
        assert (foreign.status_code, unknown.status_code) == (404, 404), endpoint
        ours, theirs = foreign.json(), unknown.json()
        assert ours.keys() == theirs.keys()
        assert {ours[k] for k in ("type", "title", "code")} == {theirs[k] for k in ("type", "title", "code")}
    body = {"company_id": org.company_id, "blueprint_id": await other_org.blueprint("test_count"), "records": [{}]}
    assert (await other_org.post("submissions/create", body)).status_code == 404
    assert (await other_org.call("runs/list"))["items"] == []


async def test_without_its_service_a_command_is_deferred_and_done_later(org, system):
    blueprint = await org.blueprint("test_count")
    keeper = system.supervisor.processes["command-service"]
    keeper.process.send_signal(19)  # SIGSTOP: it is there and does not answer
    body = {"company_id": org.company_id, "blueprint_id": blueprint, "records": [{"n": 1}]}
    key = str(uuid.uuid4())
    try:
        deferred = await org.post("submissions/create", body, key)
    finally:
        keeper.process.send_signal(18)  # SIGCONT
    assert deferred.status_code == 202, deferred.text
    assert deferred.json()["status"] == "deferred"
    answer = await org.call("submissions/create", body, key)
    assert answer["run_id"] == deferred.json()["run_id"]
    assert (await org.ended(answer))["status"] == "succeeded"
    assert len((await org.call("runs/list"))["items"]) == 1


async def test_a_worker_that_is_told_to_stop_hands_its_work_back(org, system):
    slow = {"key": "test_slow", "config": {"seconds": 1.0}}
    blueprint = await org.blueprint(slow, "test_count")
    made = await org.submit(blueprint)
    while (await org.steps(made))[0]["status"] == "scheduled":
        await org.call("runs/get", {"run_id": made["run_id"], "wait_s": 0.1})
    system.supervisor.processes["worker"].process.send_signal(15)
    later = await org.submit(blueprint)
    assert (await org.ended(made))["status"] == "succeeded"
    assert (await org.ended(later))["status"] == "succeeded"


async def test_a_step_process_knows_no_password_of_ours(monkeypatch):
    monkeypatch.setenv("DATA_ENGINE_NATS_URL", "nats://worker:secret@host")
    processes = StepProcesses(1, ("tests.system.faulty_steps",), 512 * 1024 * 1024)
    process = await processes._take()
    try:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        process.kill()
        await process.wait()
    assert b"PATH=" in environment
    assert b"DATA_ENGINE_" not in environment
