"""The run's decider, given / when / then."""

from datetime import UTC, datetime, timedelta

import pytest

from events.administration import BlueprintStep, RetryPolicy
from events.errors import StateConflictError
from events.payload import describe, encode_records
from events.processing import (
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    StepFailed,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from services.domain import run as runs

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECORDS = describe(encode_records([{"a": 1}]), 1)
OUTPUT = describe(encode_records([{"a": 2}]), 1)


def plan(*keys: str, **retry: float) -> tuple[BlueprintStep, ...]:
    return tuple(BlueprintStep(key=key, retry=RetryPolicy.model_validate(retry)) for key in keys)


def started(steps=None):
    return runs.start(
        "r1", company_id="c1", submission_id="s1", blueprint_id="b1", plan=steps or plan("one", "two"), records=RECORDS
    )


def done(index: int, attempt: int = 1) -> runs.Done:
    return runs.Done(index, attempt, "1", NOW, 10, OUTPUT)


def fault(index: int, attempt: int = 1, *, retryable: bool = False) -> runs.Fault:
    return runs.Fault(index, attempt, "broken", "it broke", retryable)


def given(*events):
    return runs.fold("r1", [event for part in events for event in part])


def kinds(events):
    return [type(event) for event in events]


def test_a_new_run_has_its_first_step_due():
    events = started()
    assert kinds(events) == [RunStarted, StepScheduled]
    assert given(events).due == runs.Due(0, 1)
    assert runs.routing(events) == "due.one"


def test_a_step_that_succeeds_makes_the_next_one_due():
    events = runs.record(given(started()), [done(0)], NOW)
    assert kinds(events) == [StepSucceeded, StepScheduled]
    assert events[0].input_digest == RECORDS.digest
    assert runs.routing(events) == "due.two"


def test_the_last_step_ends_the_run():
    first = runs.record(given(started()), [done(0)], NOW)
    events = runs.record(given(started(), first), [done(1)], NOW)
    assert kinds(events) == [StepSucceeded, RunSucceeded]
    assert events[0].input_digest == OUTPUT.digest
    assert given(started(), first, events).status == "succeeded"
    assert runs.routing(events) == "end.succeeded"


def test_several_steps_are_recorded_in_one_decision():
    events = runs.record(given(started()), [done(0), done(1)], NOW)
    assert kinds(events) == [StepSucceeded, StepSucceeded, RunSucceeded]
    assert {event.originator_version for event in events} == {2}


def test_a_failed_step_ends_the_run_and_skips_the_rest():
    events = runs.record(given(started(plan("one", "two", "three"))), [done(0), fault(1)], NOW)
    assert kinds(events) == [StepSucceeded, StepFailed, StepSkipped, RunFailed]
    assert events[1].final
    assert runs.routing(events) == "end.failed"


def test_a_retryable_failure_is_due_again_after_its_backoff():
    steps = plan("one", attempts=3, backoff_s=2)
    first = runs.record(given(started(steps)), [fault(0, retryable=True)], NOW)
    assert kinds(first) == [StepFailed, StepScheduled]
    assert not first[0].final
    assert first[1].not_before == NOW + timedelta(seconds=2)
    second = runs.record(given(started(steps), first), [fault(0, 2, retryable=True)], NOW)
    assert second[1].not_before == NOW + timedelta(seconds=4)
    third = runs.record(given(started(steps), first, second), [fault(0, 3, retryable=True)], NOW)
    assert kinds(third) == [StepFailed, RunFailed]


@pytest.mark.parametrize("late", [done(0), done(1), done(0, attempt=2), fault(0)])
def test_what_the_run_no_longer_waits_for_records_nothing(late):
    ended = runs.record(given(started()), [done(0), done(1)], NOW)
    assert runs.record(given(started(), ended), [late], NOW) == []


def test_an_outcome_of_another_attempt_records_nothing():
    assert runs.record(given(started()), [done(0, attempt=2)], NOW) == []


def test_cancelling_skips_the_pending_steps_and_nothing_is_recorded_after_it():
    first = runs.record(given(started()), [done(0)], NOW)
    events = runs.cancel(given(started(), first), "wrong file")
    assert kinds(events) == [StepSkipped, RunCancelled]
    assert events[0].step_index == 1
    cancelled = given(started(), first, events)
    assert cancelled.status == "cancelled"
    assert runs.record(cancelled, [done(1)], NOW) == []
    assert runs.mark_started(cancelled, 1, 1, NOW) == []
    assert runs.cancel(cancelled, None) == []


def test_an_ended_run_cannot_be_cancelled():
    ended = runs.record(given(started()), [done(0), done(1)], NOW)
    with pytest.raises(StateConflictError, match="succeeded"):
        runs.cancel(given(started(), ended), None)


def test_a_long_step_is_marked_started_once():
    state = given(started())
    events = runs.mark_started(state, 0, 1, NOW)
    assert kinds(events) == [StepStarted]
    marked = given(started(), events)
    assert runs.mark_started(marked, 0, 1, NOW) == []
    assert kinds(runs.record(marked, [done(0)], NOW)) == [StepSucceeded, StepScheduled]


def test_a_retried_run_reuses_what_the_failed_one_had():
    failed = given(started(), runs.record(given(started()), [done(0), fault(1)], NOW))
    events = runs.start_again(failed, "r2")
    assert kinds(events) == [RunStarted, StepReused, StepScheduled]
    assert events[0].retry_of == "r1"
    assert events[1].from_run_id == "r1"
    assert (events[2].step_index, events[2].attempt) == (1, 1)
    again = runs.fold("r2", events)
    assert again.input_of(1) == OUTPUT
    third = runs.start_again(runs.fold("r2", [*events, *runs.record(again, [fault(1)], NOW)]), "r3")
    assert third[1].from_run_id == "r1", "the run that executed it, not the one that reused it"


def test_a_running_or_succeeded_run_cannot_be_retried():
    with pytest.raises(StateConflictError, match="running"):
        runs.start_again(given(started()), "r2")
    ended = runs.record(given(started()), [done(0), done(1)], NOW)
    with pytest.raises(StateConflictError, match="succeeded"):
        runs.start_again(given(started(), ended), "r2")


@pytest.mark.parametrize("attempt", range(1, 21))
def test_backoff_grows_and_is_bounded(attempt):
    retry = RetryPolicy(attempts=20, backoff_s=1.5)
    assert 1.5 <= runs.backoff_s(retry, attempt) <= runs.BACKOFF_MAX_S
    assert runs.backoff_s(retry, attempt) <= runs.backoff_s(retry, attempt + 1)
