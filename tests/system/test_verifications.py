"""Verified execution on the running system: reproduced, or the step and the row that are not what was recorded."""

import asyncio
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.embedded import new_key
from cli.system import System
from cli.verifying import check_report, show_verification
from events import subjects
from events.audit.checkpoint import AuditKey
from events.context import SERVICE_ACTOR
from events.errors import ProofError
from events.log import EventLog, decision_id
from events.model import Decision, Event
from events.payload import Payload, describe, encode_records
from events.processing import RunSucceeded, StepSucceeded
from events.settings import Settings
from services.domain import run as runs
from services.repository import events_of
from tests.system.client import Org
from tests.system.extra_worker import extra_worker
from tests.system.test_batches import STEPS, export, uploaded
from tests.system.test_entity_sets import FIRST, MATCH, SECOND
from tests.system.test_previews import RECORDS


async def verified(org: Org, run_id: str) -> dict:
    """The verification of a run, once it has ended."""
    made = await org.call("audit/verify_run", {"run_id": run_id, "wait_s": 30})
    assert made["verification"] is not None, made
    return made["verification"]


async def a_run(org: Org, *steps: str | dict, records: list | None = None) -> dict:
    made = await org.submit(await org.blueprint(*steps), records or RECORDS)
    run = await org.ended(made)
    assert run["status"] == "succeeded", run
    return run


def verdicts(made: dict) -> list[str]:
    return [step["verdict"] for step in made["report"]["steps"]]


async def test_a_run_is_reproduced_and_is_no_result_of_its_submission(org: Org, log: EventLog) -> None:
    run = await a_run(org, *STEPS)
    made = await verified(org, run["run_id"])
    report = made["report"]
    assert (report["verdict"], made["first_row"]) == ("reproduced", None)
    assert verdicts(made) == ["reproduced"] * 3
    assert report["run_id"] == run["run_id"]
    for step in report["steps"]:
        recorded = await log.at(step["recorded_position"])
        assert recorded is not None
        assert recorded.decision.aggregate_id == run["run_id"]
        assert step["found_output_digest"] == step["output_digest"]
        assert step["found_position"] > step["recorded_position"]
    listed = await org.call("runs/list", {"submission_id": run["submission_id"]})
    assert [item["run_id"] for item in listed["items"]] == [run["run_id"]]
    every = await org.call("runs/list", {"submission_id": run["submission_id"], "include_verifications": True})
    assert [item["run_id"] for item in every["items"]] == [report["verification_run_id"], run["run_id"]]
    assert [item["verifies"] for item in every["items"]] == [run["run_id"], None]
    assert every["items"][0]["status"] == "verified"
    history = await log.history(org.org_id, "run", report["verification_run_id"])
    endings = [recorded.decision.routing for recorded in history if subjects.is_end(recorded.decision.routing)]
    assert endings == ["check.verified"], "a stream of results has no part in it"
    again = await org.call("audit/verification", {"verification_run_id": report["verification_run_id"]})
    assert again == made, "the same log gives the same report"


async def test_a_report_is_signed_and_checked_offline(
    org: Org, log: EventLog, system_settings: Settings, tmp_path: Path
) -> None:
    run = await a_run(org, *STEPS)
    made = await verified(org, run["run_id"])
    assert made["why_unsigned"] is None
    file = tmp_path / "report.json"
    file.write_text(json.dumps(made))
    assert system_settings.audit_key is not None
    key = AuditKey.of(system_settings.audit_key.get_secret_value(), system_settings.audit_origin)
    for verifier in (key.verifier(), key.verifier(org.org_id)):
        assert check_report(file, str(verifier))["verdict"] == "reproduced"
    with pytest.raises(ProofError):
        check_report(file, str(AuditKey.of(new_key(), system_settings.audit_origin).verifier()))
    altered = made | {"report": made["report"] | {"ended_at": "2020-01-01T00:00:00+00:00"}}
    file.write_text(json.dumps(altered))
    with pytest.raises(ProofError, match="altered"):
        check_report(file, str(key.verifier()))


async def test_a_large_batch_is_reproduced(org: Org) -> None:
    made = await uploaded(org, await org.blueprint(*STEPS), export())
    run = await org.ended(made)
    assert run["status"] == "succeeded", run
    found = await verified(org, run["run_id"])
    assert found["report"]["verdict"] == "reproduced", found
    assert found["report"]["steps"][0]["key"] == "read_file"
    steps = await org.steps(
        {"run_id": found["report"]["verification_run_id"]}, found["report"]["verification_position"]
    )
    assert [step["reused_from_run_id"] for step in steps] == [None] * 4, "everything was executed"


async def test_what_reused_results_is_executed_for_all_that(org: Org) -> None:
    first = await a_run(org, *STEPS)
    made = await org.call("runs/create", {"submission_id": first["submission_id"]})
    again = await org.ended(made)
    assert (await org.steps(made))[0]["reused_from_run_id"] == first["run_id"]
    found = await verified(org, again["run_id"])
    assert verdicts(found) == ["reproduced"] * 3


async def test_a_step_that_is_not_deterministic_is_named_with_its_first_row(org: Org) -> None:
    run = await a_run(org, STEPS[0], "test_nonce", "test_count")
    made = await verified(org, run["run_id"])
    assert made["report"]["verdict"] == "diverged"
    assert verdicts(made) == ["reproduced", "diverged", "not_executed"]
    assert made["report"]["divergence"]["step_index"] == 1
    assert made["first_row"]["rows"] == {"added": 0, "removed": 0, "changed": 3}
    row = made["first_row"]["row"]
    assert (row["row_id"], row["change"], list(row["fields"])) == (0, "changed", ["nonce"])
    recorded = await org.call("results/get", {"run_id": run["run_id"], "step_index": 1})
    assert row["fields"]["nonce"]["before"] == recorded["records"][0]["nonce"]
    assert row["fields"]["nonce"]["after"] != row["fields"]["nonce"]["before"]
    refused = await org.post("runs/retry", {"run_id": made["report"]["verification_run_id"]})
    assert refused.status_code == 409


async def test_two_verifications_at_once_agree(org: Org) -> None:
    run = await a_run(org, *STEPS)
    one, two = await asyncio.gather(verified(org, run["run_id"]), verified(org, run["run_id"]))
    assert one["report"]["verification_run_id"] != two["report"]["verification_run_id"]
    assert verdicts(one) == verdicts(two) == ["reproduced"] * 3


async def test_a_repeated_command_is_the_same_verification(org: Org) -> None:
    run = await a_run(org, *STEPS)
    body = {"run_id": run["run_id"], "wait_s": 30}
    first = await org.call("audit/verify_run", body, "audit-1")
    again = await org.call("audit/verify_run", body, "audit-1")
    assert first | {"repeated": True} == again


async def test_steps_with_effects_are_not_executed_again(org: Org) -> None:
    run = await a_run(org, STEPS[0], {"key": "test_slow", "config": {"seconds": 0.0}}, "test_count")
    made = await verified(org, run["run_id"])
    assert verdicts(made) == ["reproduced", "not_verified_has_effects", "reproduced"]
    assert made["report"]["verdict"] == "reproduced"
    only = await a_run(org, {"key": "test_slow", "config": {"seconds": 0.0}})
    assert (await verified(org, only["run_id"]))["report"]["verdict"] == "not_verified"


async def test_what_is_not_there_to_be_verified(org: Org, other_org: Org) -> None:
    theirs = await a_run(other_org, "test_count")
    for endpoint, body in (
        ("audit/verify_run", {"run_id": theirs["run_id"]}),
        ("audit/verification", {"verification_run_id": theirs["run_id"]}),
    ):
        assert (await org.post(endpoint, body)).status_code == 404
    failed = await org.ended(await org.submit(await org.blueprint("test_reject_all")))
    refused = await org.post("audit/verify_run", {"run_id": failed["run_id"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "state_conflict")
    mine = await a_run(org, "test_count")
    plain = await org.post("audit/verification", {"verification_run_id": mine["run_id"]})
    assert (plain.status_code, plain.json()["code"]) == (409, "no_verification")


async def rewritten(org: Org, log: EventLog, run_id: str, change: dict[int, dict]) -> str:
    """A run as a forged log would have it: another one's history, with other facts in some of its step results."""
    forged = decision_id()
    state = runs.RunState(forged)
    history = await log.history(org.org_id, "run", run_id)
    events = [event for event in events_of(history) if not type(event).__name__.startswith("Submission")]
    events = [event.model_copy(update={"originator_id": forged}) for event in events]
    records = runs.fold(run_id, events_of(history)).records
    made: list[list[Event]] = [[], []]
    for event in events:
        update: dict = {"originator_version": 1 if event.originator_version == 1 else 2}
        if isinstance(event, StepSucceeded):
            update |= change.get(event.step_index, {})
        if hasattr(event, "records"):
            update |= {"records": change.get(-1, {}).get("records", records)}
        made[update["originator_version"] - 1].append(event.model_copy(update=update))
    for version, part in enumerate(made, 1):
        state = runs.fold(forged, [event for listed in made[:version] for event in listed])
        decision = Decision(
            org.org_id, "run", forged, version, "log.run", decision_id(), datetime.now(UTC), SERVICE_ACTOR,
            tuple(part), state.company_id, None, state.submission_id,
        )  # fmt: skip
        await log.append(decision)
    assert isinstance(made[1][-1], RunSucceeded)
    return forged


def records_payload(*records: dict) -> Payload:
    return describe(encode_records(list(records)), len(records))


async def test_a_recorded_output_that_was_changed_is_found_with_its_row(org: Org, log: EventLog) -> None:
    run = await a_run(org, *STEPS)
    results = [event for event in events_of(await log.history(org.org_id, "run", run["run_id"]))
               if isinstance(event, StepSucceeded)]  # fmt: skip
    changed = records_payload(
        {"name": "Ann Smith", "email": "ann@Example.COM"},
        {"name": "Robert", "email": "not an address"},
        {"name": "Ann", "email": "ann@example.com"},
    )
    forged = await rewritten(org, log, run["run_id"], {0: {"output": changed}, 1: {"input_digest": changed.digest}})
    made = await verified(org, forged)
    assert verdicts(made) == ["diverged", "not_executed", "not_executed"]
    assert made["report"]["divergence"] == {
        "step_index": 0, "differs": "output", "expected": changed.digest, "found": results[0].output.digest,
    }  # fmt: skip
    assert made["first_row"]["row"] == {
        "row_id": 1, "change": "changed", "fields": {"name": {"before": "Robert", "after": "Bob"}},
    }  # fmt: skip

    other = results[0].output.model_copy(update={"digest": "0" * 64})
    forged = await rewritten(org, log, run["run_id"], {0: {"output": other}})
    made = await verified(org, forged)
    assert made["report"]["divergence"]["expected"] == "0" * 64
    assert "not those that the recorded digest is of" in made["first_row"]["why_no_row"]

    forged = await rewritten(org, log, run["run_id"], {1: {"input_digest": "1" * 64}})
    made = await verified(org, forged)
    assert verdicts(made) == ["reproduced", "diverged", "not_executed"]
    assert (made["report"]["divergence"]["differs"], made["first_row"]["row"]) == ("input", None)


async def test_an_input_that_was_changed_under_its_digest_is_found(org: Org, log: EventLog) -> None:
    run = await a_run(org, *STEPS)
    records = runs.fold(run["run_id"], events_of(await log.history(org.org_id, "run", run["run_id"]))).records
    assert records is not None
    assert records.inline is not None
    altered = records.model_copy(update={"inline": records.inline.replace("bob", "rob")})
    forged = await rewritten(org, log, run["run_id"], {-1: {"records": altered}})
    made = await verified(org, forged)
    assert made["report"]["verdict"] == "failed"
    assert "input_altered" in made["report"]["steps"][0]["reason"]


@pytest.mark.parametrize("large", [False, True])
async def test_records_that_are_gone_are_found_and_waited_for_by_nobody(org: Org, log: EventLog, large: bool) -> None:
    if large:
        run = await org.ended(await uploaded(org, await org.blueprint(*STEPS), export()))
    else:
        run = await a_run(org, *STEPS)
    records = runs.fold(run["run_id"], events_of(await log.history(org.org_id, "run", run["run_id"]))).records
    assert records is not None
    gone = records.model_copy(update={"inline": None, "digest": "1" * 64})
    made = await verified(org, await rewritten(org, log, run["run_id"], {-1: {"records": gone}}))
    assert made["report"]["verdict"] == "failed"
    assert made["report"]["steps"][0]["verdict"] == "failed"
    assert made["report"]["steps"][0]["reason"].startswith("payload_lost: What was recorded is not there")


async def test_another_version_of_a_step_is_said_to_be_missing(org: Org, log: EventLog) -> None:
    run = await a_run(org, *STEPS)
    forged = await rewritten(org, log, run["run_id"], {1: {"step_version": "0.9"}})
    made = await verified(org, forged)
    assert verdicts(made) == ["reproduced", "version_not_installed", "not_executed"]
    assert made["report"]["verdict"] == "not_verified"
    assert "'0.9'" in made["report"]["steps"][1]["reason"]


V1 = '''
from services.steps.base import StepConfig, StepOutput, step

class NoConfig(StepConfig):
    """Nothing to set."""

@step("custom_mark", version="1", summary="Marks rows.", config=NoConfig)
def mark(records, config):
    return StepOutput([{**record, "mark": 1} for record in records])
'''


async def test_a_worker_with_a_newer_version_does_not_pass_for_the_older_one(
    org: Org, system: System, system_settings: Settings, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, version in zip(folders, ("1", "2"), strict=True):
        folder.mkdir()
        (folder / "marking_steps.py").write_text(V1.replace('version="1"', f'version="{version}"'))
    async with extra_worker(system, system_settings, folders[0], "--module", "marking_steps"):
        run = await a_run(org, "custom_mark")
    async with extra_worker(system, system_settings, folders[1], "--module", "marking_steps"):
        made = await verified(org, run["run_id"])
    assert verdicts(made) == ["version_not_installed"]
    assert "recorded version" in made["report"]["steps"][0]["reason"]


async def test_an_entity_set_is_taken_as_it_was_and_taught_nothing(org: Org, log: EventLog) -> None:
    """A later batch changed the set; the earlier run is executed against what was known then."""
    blueprint = await org.blueprint(MATCH)
    first = await org.ended(await org.submit(blueprint, FIRST))
    second = await org.ended(await org.submit(blueprint, SECOND))
    assert first["status"] == second["status"] == "succeeded", (first, second)
    before = len([item async for item in log.read(0, f"events.{org.org_id}.entities.>")])
    for run in (first, second):
        made = await verified(org, run["run_id"])
        assert made["report"]["verdict"] == "reproduced", made
    assert len([item async for item in log.read(0, f"events.{org.org_id}.entities.>")]) == before


async def test_a_worker_that_dies_meanwhile_costs_time_only(org: Org, system: System, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    waits = {"key": "test_flaky", "config": {"marker": str(marker), "failures": 0}}
    run = await a_run(org, STEPS[0], waits, "test_count")
    marker.unlink()
    os.mkfifo(marker)
    asked = asyncio.create_task(org.call("audit/verify_run", {"run_id": run["run_id"], "wait_s": 60}))
    with await asyncio.to_thread(marker.open, "wb"):  # opens when the step reads it, who then waits for its end
        system.supervisor.kill("worker", signal.SIGKILL)
        marker.unlink()
    made = (await asked)["verification"]
    assert verdicts(made) == ["reproduced"] * 3


async def test_what_dex_shows_of_a_divergence(org: Org, capsys: pytest.CaptureFixture[str]) -> None:
    made = await verified(org, (await a_run(org, "test_count", "test_nonce"))["run_id"])
    show_verification(made)
    shown = capsys.readouterr().out
    assert "diverged" in shown
    assert "Step 2 differs in its output" in shown
    assert "First row that differs: 0 (changed)" in shown
