"""The report of a verification: made of what the log says of the verified run and of the one that verifies it.

It names, for each step, what was recorded and what was found; where they differ, the first row that does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from events.errors import DataEngineError, NotFoundError, StateConflictError, UnavailableError
from events.log import EventLog
from events.model import Recorded
from events.payload import Payload
from events.processing import (
    RUN,
    Differs,
    RunCancelled,
    RunDiverged,
    RunFailed,
    RunStarted,
    RunVerified,
    StepFailed,
    StepReused,
    StepSucceeded,
    Verifies,
)
from gateway.commands import digest_of
from gateway.exports.diff import compare
from gateway.payloads import Kind, Payloads, Reference

FORMAT = "data-engine-x/verification/v1"

Result = StepSucceeded | StepReused
End = RunVerified | RunDiverged | RunFailed | RunCancelled


@dataclass(frozen=True, slots=True)
class Found:
    """A step's result and the position that it is recorded at."""

    result: Result
    position: int


async def report(log: EventLog, payloads: Payloads, org_id: str, run_id: str) -> dict[str, Any]:
    """The report of a verification, as it is now. Raises NotFoundError, StateConflictError, UnavailableError."""
    history = await log.history(org_id, RUN, run_id)
    started = next(iter(_events(history, RunStarted)), None)
    if started is None:
        raise NotFoundError(f"There is no run {run_id}.")
    verifies = started.event.verifies
    if verifies is None:
        raise StateConflictError(f"The run {run_id} verifies no other.", code="no_verification")
    verified = _results(await log.history(org_id, RUN, verifies.run_id))
    found = _results(history)
    end = next(iter(_events(history, RunVerified, RunDiverged, RunFailed, RunCancelled)), None)
    failed = {item.event.step_index: item.event for item in _events(history, StepFailed) if item.event.final}
    steps = [
        _step(started.event, verifies, index, verified.get(index), found.get(index), failed.get(index))
        for index in range(len(started.event.plan))
    ]
    verdict = _verdict(None if end is None else end.event, steps)
    made: dict[str, Any] = {
        "format": FORMAT,
        "org_id": org_id,
        "company_id": started.event.company_id,
        "run_id": verifies.run_id,
        "run_position": verifies.position,
        "verification_run_id": run_id,
        "verification_position": history[-1].position,
        "started_at": history[0].decision.at,
        "ended_at": None if end is None else end.at,
        "records_digest": started.event.records.digest if started.event.records else None,
        "verdict": verdict,
        "steps": steps,
        "divergence": None,
    }
    if end is not None and isinstance(end.event, RunDiverged):
        made["divergence"] = await _divergence(payloads, org_id, end.event, verified, found)
    return made


@dataclass(frozen=True, slots=True)
class _Item:
    event: Any
    position: int
    at: datetime


def _events(history: Sequence[Recorded], *kinds: type) -> list[_Item]:
    return [
        _Item(event, recorded.position, recorded.decision.at)
        for recorded in history
        for event in recorded.decision.events
        if isinstance(event, kinds)
    ]


def _results(history: Sequence[Recorded]) -> dict[int, Found]:
    """The results of a run's steps, by index."""
    items = _events(history, StepSucceeded, StepReused)
    return {item.event.step_index: Found(item.event, item.position) for item in items}


def _step(
    started: RunStarted,
    verifies: Verifies,
    index: int,
    recorded: Found | None,
    found: Found | None,
    failed: StepFailed | None,
) -> dict[str, Any]:
    """One step: what was recorded of it, what was found, and what follows."""
    expected, planned = verifies.steps[index], started.plan[index]
    result = None if found is None else found.result
    rejects = None if result is None or result.rejects is None else result.rejects.digest
    return {
        "index": index,
        "key": planned.key,
        "step_version": expected.step_version,
        "config_digest": digest_of(planned.config),
        "input_digest": expected.input_digest,
        "output_digest": expected.output_digest,
        "rejects_digest": expected.rejects_digest,
        "recorded_position": expected.position,
        "recorded_rows": None if recorded is None else recorded.result.output.rows,
        "found_output_digest": None if result is None else result.output.digest,
        "found_rejects_digest": rejects,
        "found_position": None if found is None else found.position,
        "verdict": _step_verdict(expected, result, failed),
        "reason": None if failed is None else f"{failed.code}: {failed.message}",
    }


def _step_verdict(expected: Any, result: Result | None, failed: StepFailed | None) -> str:
    if failed is not None:
        return "version_not_installed" if failed.code == "version_not_installed" else "failed"
    if result is None:
        return "not_executed"
    if isinstance(result, StepReused):
        return "not_verified_has_effects"
    rejects = None if result.rejects is None else result.rejects.digest
    was = (expected.input_digest, expected.output_digest, expected.rejects_digest)
    return "reproduced" if (result.input_digest, result.output.digest, rejects) == was else "diverged"


def _verdict(end: End | None, steps: Sequence[dict[str, Any]]) -> str:
    """Of the whole run. What has effects was not verified, and a run of which that is all is not reproduced."""
    match end:
        case None:
            return "running"
        case RunVerified():
            executed = any(step["verdict"] == "reproduced" for step in steps)
            return "reproduced" if executed else "not_verified"
        case RunDiverged():
            return "diverged"
        case RunFailed(code="version_not_installed") | RunCancelled():
            return "not_verified"
    return "failed"


async def _divergence(
    payloads: Payloads, org_id: str, end: RunDiverged, recorded: dict[int, Found], found: dict[int, Found]
) -> dict[str, Any]:
    """Where the run is not what was recorded, down to the first row that differs, if that can be told."""
    index = end.step_index
    told: dict[str, Any] = {
        "step_index": index, "differs": end.differs, "expected": end.expected, "found": end.found, "row": None,
        "rows": None, "why_no_row": None,
    }  # fmt: skip
    before = _reference(org_id, recorded.get(index), end.differs)
    after = _reference(org_id, found.get(index), end.differs)
    if before is None or after is None:
        told["why_no_row"] = "One of the two has no rows there: the digests tell all."
        return told
    try:
        difference = await compare(payloads, before, after, 0, 1)
    except UnavailableError:
        raise
    except (DataEngineError, ValueError, KeyError) as error:
        message = error.message if isinstance(error, DataEngineError) else repr(error)
        told["why_no_row"] = f"The rows cannot be compared: {message}"
        return told
    told["rows"] = dict(difference.counts)
    if difference.items:
        told["row"] = difference.items[0]
    else:
        told["why_no_row"] = "Every row has the same values; their order or their encoding differs."
    return told


def _reference(org_id: str, found: Found | None, differs: Differs) -> Reference | None:
    """Where the rows are that differ; inputs are compared as the outputs that they are of."""
    if found is None or differs == "input":
        return None
    kind: Kind = "rejects" if differs == "rejects" else "output"
    payload: Payload | None = found.result.rejects if kind == "rejects" else found.result.output
    if payload is None:
        return None
    return Reference(
        org_id, payload.digest, payload.size_bytes, payload.inline is not None, found.position,
        found.result.step_index, kind, payload.format,
    )  # fmt: skip
