"""Verifications, given / when / then: a run executed again ends as verified, or where it is not what was recorded."""

from datetime import UTC, datetime

import pytest

from events.administration import BlueprintStep
from events.context import SERVICE_ACTOR
from events.errors import NotFoundError, StateConflictError
from events.model import Decision, Event, Recorded
from events.payload import Payload, describe, encode_records
from events.processing import (
    RunCancelled,
    RunDiverged,
    RunFailed,
    RunStarted,
    RunVerified,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from services.domain import run as runs
from services.domain import verification
from services.domain.run import RunState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def payload(value: int) -> Payload:
    return describe(encode_records([{"a": value}]), 1)


def done(index: int, value: int, version: str = "1", rejects: Payload | None = None, **more) -> runs.Done:
    return runs.Done(index, 1, version, NOW, 10, payload(value), rejects, **more)


def recorded(*decisions: list[Event], first_position: int = 10) -> list[Recorded]:
    return [
        Recorded(
            first_position + number,
            Decision(
                "o", "run", "r1", number + 1, "log.run", f"d{number}", NOW, SERVICE_ACTOR, tuple(events), company_id="c"
            ),
        )
        for number, events in enumerate(decisions)
    ]


def a_run(*outcomes: runs.Outcome) -> list[Recorded]:
    plan = (BlueprintStep(key="one"), BlueprintStep(key="two"), BlueprintStep(key="three"))
    begun = runs.start("r1", company_id="c", submission_id="s", blueprint_id="b", plan=plan, records=payload(0))
    decisions = [begun]
    for outcome in outcomes:
        state = runs.fold("r1", [event for decision in decisions for event in decision])
        decisions.append(runs.record(state, [outcome], NOW))
    return recorded(*decisions)


def verifying(*outcomes: runs.Outcome) -> tuple[list[Event], RunState]:
    """A verification of a run whose steps made 1, 2 and 3."""
    history = verification.start("r1", a_run(done(0, 1), done(1, 2), done(2, 3)), "v1")
    return history, runs.fold("v1", history)


def test_it_has_the_recorded_plan_records_and_digests_and_reuses_nothing():
    events, state = verifying()
    begun = events[0]
    assert isinstance(begun, RunStarted)
    assert [type(event) for event in events] == [RunStarted, StepScheduled]
    assert begun.verifies is not None
    assert [step.output_digest for step in begun.verifies.steps] == [payload(n).digest for n in (1, 2, 3)]
    assert [step.input_digest for step in begun.verifies.steps] == [payload(n).digest for n in (0, 1, 2)]
    assert [step.position for step in begun.verifies.steps] == [11, 12, 13]
    assert (begun.verifies.position, begun.records, begun.reuse_results) == (13, payload(0), False)
    assert runs.routing(events, verifies=True) == "due.one"
    assert state.due == runs.Due(0, 1)


def test_the_same_outputs_verify_the_run():
    _, state = verifying()
    events = runs.record(state, [done(0, 1), done(1, 2), done(2, 3)], NOW)
    assert [type(event) for event in events] == [StepSucceeded, StepSucceeded, StepSucceeded, RunVerified]
    assert runs.routing(events, verifies=True) == "check.verified", "no result for those who are sent results"
    ended = runs.fold("v1", [*verifying()[0], *events])
    assert (ended.status, ended.due) == ("verified", None)
    assert runs.record(ended, [done(0, 1)], NOW) == []


def test_another_output_ends_it_there():
    _, state = verifying()
    events = runs.record(state, [done(0, 1), done(1, 99), done(2, 3)], NOW)
    assert [type(event) for event in events] == [StepSucceeded, StepSucceeded, StepSkipped, RunDiverged]
    ended = events[-1]
    assert isinstance(ended, RunDiverged)
    assert (ended.step_index, ended.differs) == (1, "output")
    assert (ended.expected, ended.found) == (payload(2).digest, payload(99).digest)
    assert runs.routing(events, verifies=True) == "check.diverged"
    assert runs.fold("v1", [*verifying()[0], *events]).status == "diverged"


def test_rejects_are_compared_too():
    _, state = verifying()
    events = runs.record(state, [done(0, 1, rejects=payload(7))], NOW)
    ended = events[-1]
    assert isinstance(ended, RunDiverged)
    assert (ended.differs, ended.expected, ended.found) == ("rejects", None, payload(7).digest)


def test_a_record_that_contradicts_itself_is_found_at_the_input():
    """The recorded input of the second step is not the recorded output of the first: somebody changed the log."""
    history = a_run(done(0, 1), done(1, 2), done(2, 3))
    changed = history[2].decision.events[0].model_copy(update={"input_digest": payload(50).digest})
    tampered = recorded(
        *[list(item.decision.events) for item in history[:2]], [changed], list(history[3].decision.events)
    )
    state = runs.fold("v1", verification.start("r1", tampered, "v1"))
    ended = runs.record(state, [done(0, 1), done(1, 2)], NOW)[-1]
    assert isinstance(ended, RunDiverged)
    assert (ended.step_index, ended.differs, ended.expected) == (1, "input", payload(50).digest)


def test_a_step_with_effects_is_not_executed_again_and_not_compared():
    history = a_run(done(0, 1), done(1, 2), done(2, 3))
    verified = runs.fold("r1", [event for item in history for event in item.decision.events])
    state = runs.fold("v1", verification.start("r1", history, "v1"))
    events = runs.record(state, [verification.taken(verified, 0, 1), done(1, 2), done(2, 3)], NOW)
    assert [type(event) for event in events] == [StepReused, StepSucceeded, StepSucceeded, RunVerified]
    assert events[0].from_run_id == "r1"  # type: ignore[attr-defined]


def test_another_version_is_a_fault_that_names_both():
    _, state = verifying()
    assert verification.version_fault(state, 0, 1, "1") is None
    fault = verification.version_fault(state, 0, 1, "2")
    assert fault is not None
    assert (fault.code, fault.retryable) == ("version_not_installed", False)
    assert "'1'" in fault.message
    assert "'2'" in fault.message
    events = runs.record(state, [fault], NOW)
    assert isinstance(events[-1], RunFailed)
    assert runs.routing(events, verifies=True) == "check.failed"


def test_the_version_of_an_entity_set_is_what_the_step_was_told():
    report = {"entities": {"set": "people", "base_version": 4, "version": 5}}
    history = a_run(done(0, 1, report=report), done(1, 2), done(2, 3))
    begun = verification.start("r1", history, "v1")[0]
    assert isinstance(begun, RunStarted)
    assert begun.verifies is not None
    assert [step.entities_version for step in begun.verifies.steps] == [4, None, None]


def test_what_cannot_be_verified():
    with pytest.raises(NotFoundError):
        verification.start("r1", [], "v1")
    with pytest.raises(StateConflictError, match="running"):
        verification.start("r1", a_run(done(0, 1)), "v1")
    events, state = verifying()
    with pytest.raises(StateConflictError, match="verify that one"):
        verification.start("v1", recorded(events), "v2")
    cancelled = runs.cancel(state, None)
    assert isinstance(cancelled[-1], RunCancelled)
    assert runs.routing(cancelled, verifies=True) == "check.cancelled"
    with pytest.raises(StateConflictError, match="verify the run again"):
        runs.start_again(runs.fold("v1", [*events, *cancelled]), "v2")
