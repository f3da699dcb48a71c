"""The run: one execution attempt of a submission. Pure: no clock, no id, no I/O.

Whoever records a step's outcome records what follows from it in the same decision (design rule 4): the next step is
due, or the step is due again after its backoff, or the run has ended.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from events.administration import BlueprintStep, RetryPolicy
from events.errors import StateConflictError
from events.model import Event
from events.payload import Payload
from events.processing import (
    RunCancelled,
    RunDiverged,
    RunFailed,
    RunStarted,
    RunSucceeded,
    RunVerified,
    StepFailed,
    StepProgressed,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    SubmissionCreated,
    Verifies,
)
from events.subjects import QUICK, Lane
from services.domain.expected import Divergence, divergence
from services.domain.outcome import Done, Fault, Outcome, Reuse

BACKOFF_MAX_S = 3600.0

Status = Literal["none", "running", "succeeded", "failed", "cancelled", "verified", "diverged"]
_ENDS: dict[type[Event], Status] = {
    RunSucceeded: "succeeded", RunFailed: "failed", RunCancelled: "cancelled", RunVerified: "verified",
    RunDiverged: "diverged",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Due:
    """The one thing that a running run waits for."""

    step_index: int
    attempt: int
    not_before: datetime | None = None
    started: bool = False


@dataclass(frozen=True, slots=True)
class RunState:
    """What the history of a run says. `results` holds the results there are, one for each step from the first."""

    run_id: str
    version: int = 0
    status: Status = "none"
    company_id: str = ""
    submission_id: str = ""
    blueprint_id: str = ""
    plan: tuple[BlueprintStep, ...] = ()
    records: Payload | None = None
    results: tuple[StepSucceeded | StepReused, ...] = ()
    due: Due | None = None
    reuse_results: bool = True
    verifies: Verifies | None = None

    def input_of(self, step_index: int) -> Payload:
        """What the step reads: the submission's records, or the output of the step before it."""
        if step_index:
            return self.results[step_index - 1].output
        assert self.records is not None, "a run that has started has records"
        return self.records


def evolve(state: RunState, event: Event) -> RunState:
    """The state after one more event."""
    version = event.originator_version
    match event:
        case StepSucceeded() | StepReused():
            return replace(state, version=version, results=(*state.results, event), due=None)
        case StepScheduled():
            return replace(state, version=version, due=Due(event.step_index, event.attempt, event.not_before))
        case StepStarted() | StepProgressed():
            return replace(state, version=version, due=Due(event.step_index, event.attempt, started=True))
        case StepFailed():
            return replace(state, version=version, due=None)
        case SubmissionCreated():
            return replace(state, version=version, submission_id=event.submission_id, records=event.records)
        case RunStarted():
            return RunState(
                state.run_id,
                version,
                "running",
                event.company_id,
                event.submission_id,
                event.blueprint_id,
                event.plan,
                event.records or state.records,
                reuse_results=event.reuse_results,
                verifies=event.verifies,
            )
        case RunSucceeded() | RunFailed() | RunCancelled() | RunVerified() | RunDiverged():
            return replace(state, version=version, status=_ENDS[type(event)], due=None)
    return replace(state, version=version)


def fold(run_id: str, events: Iterable[Event]) -> RunState:
    """The state that a history gives."""
    state = RunState(run_id)
    for event in events:
        state = evolve(state, event)
    return state


def submit(
    run_id: str,
    *,
    company_id: str,
    submission_id: str,
    blueprint_id: str,
    name: str | None,
    records: Payload,
    plan: tuple[BlueprintStep, ...] | None,
    reading: BlueprintStep | None = None,
    reuse_results: bool = True,
) -> list[Event]:
    """Create a submission and, with a plan, start its first run: one decision, accepted as a whole."""
    created = SubmissionCreated(
        **_at(run_id, 1),
        submission_id=submission_id,
        company_id=company_id,
        blueprint_id=blueprint_id,
        name=name,
        records=records,
        reading=reading,
    )
    if plan is None:
        return [created]
    started = start(
        run_id,
        company_id=company_id,
        submission_id=submission_id,
        blueprint_id=blueprint_id,
        plan=plan,
        records=None,
        reuse_results=reuse_results,
    )
    return [created, *started]


def start(
    run_id: str,
    *,
    company_id: str,
    submission_id: str,
    blueprint_id: str,
    plan: tuple[BlueprintStep, ...],
    records: Payload | None,
    reuse_results: bool = True,
) -> list[Event]:
    """Start a run: its first step is due. `records` is None when its submission is created in the same decision."""
    at = _at(run_id, 1)
    return [
        RunStarted(
            **at,
            company_id=company_id,
            submission_id=submission_id,
            blueprint_id=blueprint_id,
            plan=plan,
            records=records,
            reuse_results=reuse_results,
        ),
        StepScheduled(**at, step_index=0, step_key=plan[0].key, attempt=1),
    ]


def start_again(state: RunState, run_id: str) -> list[Event]:
    """Start a run that goes on from the step at which `state` failed or was cancelled, reusing what it has.

    Raises StateConflictError when that run is still running or has succeeded.
    """
    if state.verifies is not None:
        raise StateConflictError("A verification is not retried; verify the run again.")
    if state.status not in ("failed", "cancelled"):
        raise StateConflictError(f"The run is {state.status}; only a failed or cancelled run can be retried.")
    assert state.records is not None
    at = _at(run_id, 1)
    first = len(state.results)
    started = RunStarted(
        **at,
        company_id=state.company_id,
        submission_id=state.submission_id,
        blueprint_id=state.blueprint_id,
        plan=state.plan,
        records=state.records,
        retry_of=state.run_id,
        reuse_results=state.reuse_results,
    )
    reused = [
        StepReused(
            **at,
            step_index=result.step_index,
            step_key=result.step_key,
            step_version=result.step_version,
            from_run_id=result.from_run_id if isinstance(result, StepReused) else state.run_id,
            input_digest=result.input_digest,
            input_rows=result.input_rows,
            output=result.output,
            rejects=result.rejects,
            report=result.report,
        )
        for result in state.results
    ]
    return [started, *reused, StepScheduled(**at, step_index=first, step_key=state.plan[first].key, attempt=1)]


def mark_started(state: RunState, step_index: int, attempt: int, started_at: datetime) -> list[Event]:
    """A worker is at a longer step. Nothing when the run no longer waits for it, or it was marked before."""
    if not awaits(state, step_index, attempt) or (state.due is not None and state.due.started):
        return []
    return [
        StepStarted(
            **_at(state.run_id, state.version + 1),
            step_index=step_index,
            step_key=state.plan[step_index].key,
            attempt=attempt,
            started_at=started_at,
        )
    ]


def progressed(
    state: RunState, step_index: int, attempt: int, started_at: datetime, chunks_done: int, chunks_total: int | None
) -> list[Event]:
    """A worker is so far with a large batch. Nothing when the run no longer waits for it."""
    if not awaits(state, step_index, attempt):
        return []
    return [
        StepProgressed(
            **_at(state.run_id, state.version + 1),
            step_index=step_index,
            step_key=state.plan[step_index].key,
            attempt=attempt,
            started_at=started_at,
            chunks_done=chunks_done,
            chunks_total=chunks_total,
        )
    ]


def awaits(state: RunState, step_index: int, attempt: int) -> bool:
    """Whether this very attempt of this step is what the run waits for."""
    return state.due is not None and (state.due.step_index, state.due.attempt) == (step_index, attempt)


def record(state: RunState, outcomes: Sequence[Outcome], now: datetime) -> list[Event]:
    """Record the outcomes of one or more consecutive steps, and what follows from the last of them.

    Nothing when the run does not wait for the first of them: it was recorded before, cancelled, or retried.
    """
    if not outcomes or not awaits(state, outcomes[0].step_index, outcomes[0].attempt):
        return []
    version = state.version + 1
    events: list[Event] = []
    for outcome in outcomes:
        if isinstance(outcome, Fault):
            return events + _failed(state, outcome, version, now)
        succeeded = (
            _reused(state, outcome, version) if isinstance(outcome, Reuse) else _succeeded(state, outcome, version)
        )
        events.append(succeeded)
        state = evolve(state, succeeded)
        if (found := divergence(state.verifies, succeeded)) is not None:
            return [*events, *_diverged(state, found, version)]
    return events + _go_on(state, version)


def cancel(state: RunState, reason: str | None) -> list[Event]:
    """Stop a run and skip its pending steps. Nothing when it is cancelled already.

    Raises StateConflictError when it has succeeded or failed.
    """
    if state.status == "cancelled":
        return []
    if state.status != "running":
        raise StateConflictError(f"The run has {state.status} and cannot be cancelled.")
    version = state.version + 1
    cancelled = RunCancelled(originator_id=state.run_id, originator_version=version, reason=reason)
    return [*_skip_from(state, len(state.results), version), cancelled]


def routing(events: Sequence[Event], lane: Lane = QUICK, *, verifies: bool = False) -> str:
    """The routing tokens of a decision: what its last event means to those who listen; a task goes to its lane.

    The end of a verification is for those who wait for it, and for none of those who are sent results.
    """
    last = events[-1]
    if isinstance(last, StepScheduled):
        return f"{lane}.{last.step_key}"
    if (status := _ENDS.get(type(last))) is not None:
        return f"{'check' if verifies else 'end'}.{status}"
    return "log.submission" if isinstance(last, SubmissionCreated) else "log.run"


def backoff_s(retry: RetryPolicy, failed_attempt: int) -> float:
    """Seconds before the attempt after `failed_attempt`: doubled each time, bounded."""
    return min(BACKOFF_MAX_S, retry.backoff_s * 2.0 ** (failed_attempt - 1))


def _at(run_id: str, version: int) -> dict[str, Any]:
    return {"originator_id": run_id, "originator_version": version}


def _succeeded(state: RunState, done: Done, version: int) -> StepSucceeded:
    return StepSucceeded(
        **_result(state, done, version), attempt=done.attempt, started_at=done.started_at, duration_us=done.duration_us
    )


def _reused(state: RunState, reuse: Reuse, version: int) -> StepReused:
    return StepReused(**_result(state, reuse, version), from_run_id=reuse.from_run_id)


def _result(state: RunState, outcome: Done | Reuse, version: int) -> dict[str, Any]:
    source = state.input_of(outcome.step_index)
    return {
        **_at(state.run_id, version),
        "step_index": outcome.step_index,
        "step_key": state.plan[outcome.step_index].key,
        "step_version": outcome.step_version,
        "input_digest": source.digest,
        "input_rows": source.rows,
        "output": outcome.output,
        "rejects": outcome.rejects,
        "report": outcome.report,
    }


def _go_on(state: RunState, version: int) -> list[Event]:
    """What follows when every step so far has its result."""
    at = _at(state.run_id, version)
    following = len(state.results)
    if following < len(state.plan):
        return [StepScheduled(**at, step_index=following, step_key=state.plan[following].key, attempt=1)]
    output = state.results[-1].output
    ended = RunSucceeded if state.verifies is None else RunVerified
    return [ended(**at, output_digest=output.digest, output_rows=output.rows)]


def _diverged(state: RunState, found: Divergence, version: int) -> list[Event]:
    """A verification ends at the first result that is not what was recorded."""
    index = len(state.results) - 1
    ended = RunDiverged(
        **_at(state.run_id, version), step_index=index, differs=found.what, expected=found.expected, found=found.found
    )
    return [*_skip_from(state, index + 1, version), ended]


def _failed(state: RunState, fault: Fault, version: int, now: datetime) -> list[Event]:
    """The failed attempt, and either the next attempt or the end of the run (fail-fast)."""
    step = state.plan[fault.step_index]
    final = not fault.retryable or fault.attempt >= step.retry.attempts
    source = state.input_of(fault.step_index)
    at = _at(state.run_id, version)
    failed = StepFailed(
        **at,
        step_index=fault.step_index,
        step_key=step.key,
        step_version=fault.step_version,
        attempt=fault.attempt,
        started_at=fault.started_at,
        duration_us=fault.duration_us,
        input_digest=source.digest,
        input_rows=source.rows,
        code=fault.code,
        message=fault.message,
        final=final,
    )
    if final:
        ended = RunFailed(**at, step_index=fault.step_index, code=fault.code, message=fault.message)
        return [failed, *_skip_from(state, fault.step_index + 1, version), ended]
    not_before = now + timedelta(seconds=backoff_s(step.retry, fault.attempt))
    again = StepScheduled(
        **at, step_index=fault.step_index, step_key=step.key, attempt=fault.attempt + 1, not_before=not_before
    )
    return [failed, again]


def _skip_from(state: RunState, first: int, version: int) -> list[Event]:
    return [
        StepSkipped(**_at(state.run_id, version), step_index=index, step_key=state.plan[index].key)
        for index in range(first, len(state.plan))
    ]
