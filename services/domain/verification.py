"""A verification: a run that executes the steps of another one again, from its recorded input, and compares. Pure.

It is executed as any run is, whatever its size, but never uses an earlier result, and is no result of its submission.
What it expects is in its first event, so that nothing it is judged by can change under it.
"""

from collections.abc import Sequence

from events.errors import NotFoundError, StateConflictError
from events.model import Event, Recorded
from events.processing import ExpectedStep, RunStarted, StepReused, StepScheduled, StepSucceeded, Verifies
from services.domain import run as runs
from services.domain.outcome import Fault, Reuse
from services.domain.run import RunState


def start(recorded_run_id: str, history: Sequence[Recorded], run_id: str) -> list[Event]:
    """Start a verification of the run with this history.

    Raises NotFoundError when there is no such run, StateConflictError unless it has succeeded.
    """
    state = runs.fold(recorded_run_id, (event for recorded in history for event in recorded.decision.events))
    if state.status == "none":
        raise NotFoundError(f"There is no run {recorded_run_id}.")
    if state.verifies is not None:
        raise StateConflictError(f"The run verifies the run {state.verifies.run_id}: verify that one.")
    if state.status != "succeeded":
        raise StateConflictError(f"The run is {state.status}; only a run that has succeeded can be verified.")
    at = {"originator_id": run_id, "originator_version": 1}
    return [
        RunStarted(
            **at,  # type: ignore[arg-type]
            company_id=state.company_id,
            submission_id=state.submission_id,
            blueprint_id=state.blueprint_id,
            plan=state.plan,
            records=state.records,
            reuse_results=False,
            verifies=Verifies(run_id=recorded_run_id, steps=_expected(history), position=history[-1].position),
        ),
        StepScheduled(**at, step_index=0, step_key=state.plan[0].key, attempt=1),  # type: ignore[arg-type]
    ]


def version_fault(state: RunState, step_index: int, attempt: int, installed: str) -> Fault | None:
    """Why a step cannot be executed as it was: another version of it is installed. None when it is the same."""
    assert state.verifies is not None
    recorded = state.verifies.steps[step_index].step_version
    if recorded == installed:
        return None
    message = (
        f"The run was executed by version {recorded!r} of {state.plan[step_index].key}; installed is {installed!r}, "
        "whose output may be another. Verify with a worker that has the recorded version."
    )
    return Fault(step_index, attempt, "version_not_installed", message, retryable=False, step_version=installed)


def taken(verified: RunState, step_index: int, attempt: int) -> Reuse:
    """The recorded result of a step with effects, in place of executing it again."""
    result = verified.results[step_index]
    return Reuse(
        step_index, attempt, result.step_version, verified.run_id, result.output, result.rejects, result.report
    )


def _expected(history: Sequence[Recorded]) -> tuple[ExpectedStep, ...]:
    """What is recorded of each step, in their order."""
    return tuple(
        ExpectedStep(
            step_version=event.step_version,
            input_digest=event.input_digest,
            output_digest=event.output.digest,
            rejects_digest=None if event.rejects is None else event.rejects.digest,
            entities_version=_entities_version(event),
            position=recorded.position,
        )
        for recorded in history
        for event in recorded.decision.events
        if isinstance(event, StepSucceeded | StepReused)
    )


def _entities_version(result: StepSucceeded | StepReused) -> int | None:
    """The version of the entity set that the step was told of, where it reports one."""
    entities = (result.report or {}).get("entities")
    version = entities.get("base_version") if isinstance(entities, dict) else None
    return version if isinstance(version, int) else None
