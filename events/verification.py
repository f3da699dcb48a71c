"""The report of a verification: made of what the log says of the verified run and of the one that verifies it. Pure.

The same histories give the same report, byte for byte (`canonical`), wherever it is made: so whoever signs it makes it
anew from a copy of the log of its own, and signs nothing that it was told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from events.errors import NotFoundError, StateConflictError
from events.model import Recorded
from events.payload import digest_of
from events.processing import (
    ExpectedStep,
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

FORMAT = "data-engine-x/verification/v1"

Result = StepSucceeded | StepReused
End = RunVerified | RunDiverged | RunFailed | RunCancelled


@dataclass(frozen=True, slots=True)
class Found:
    """A step's result and the position that it is recorded at."""

    result: Result
    position: int


def verifies_of(run_id: str, history: Sequence[Recorded]) -> Verifies:
    """What the run with this history verifies. Raises NotFoundError, and StateConflictError for any other run."""
    started = _started(run_id, history)
    if started.verifies is None:
        raise StateConflictError(f"The run {run_id} verifies no other.", code="no_verification")
    return started.verifies


def report(run_id: str, history: Sequence[Recorded], verified: Sequence[Recorded]) -> dict[str, Any]:
    """The report of the verification `run_id` with this history, of the run with the history `verified`.

    JSON of it: times RFC 3339, positions those of the log, digests SHA-256 in hexadecimal. Raises as `verifies_of`.
    """
    verifies, started = verifies_of(run_id, history), _started(run_id, history)
    recorded, found = results_of(verified), results_of(history)
    end = next(iter(_events(history, RunVerified, RunDiverged, RunFailed, RunCancelled)), None)
    failed = {item.event.step_index: item.event for item in _events(history, StepFailed) if item.event.final}
    steps = [
        _step(started, verifies, index, recorded.get(index), found.get(index), failed.get(index))
        for index in range(len(started.plan))
    ]
    return {
        "format": FORMAT,
        "org_id": history[0].decision.org_id,
        "company_id": started.company_id,
        "run_id": verifies.run_id,
        "run_position": verifies.position,
        "verification_run_id": run_id,
        "verification_position": history[-1].position,
        "started_at": history[0].decision.at.isoformat(),
        "ended_at": None if end is None else end.at.isoformat(),
        "records_digest": None if started.records is None else started.records.digest,
        "verdict": _verdict(None if end is None else end.event, steps),
        "steps": steps,
        "divergence": _divergence(None if end is None else end.event),
    }


def canonical(report: dict[str, Any]) -> bytes:
    """The report's bytes that a digest is taken of: JSON in UTF-8, keys sorted, no white space."""
    return orjson.dumps(report, option=orjson.OPT_SORT_KEYS)


def statement(report: dict[str, Any]) -> str:
    """What is signed of a report: a few lines, the last of which is the digest of all of it."""
    lines = (FORMAT, report["org_id"], report["run_id"], report["verification_run_id"], report["verdict"])
    return "\n".join((*lines, f"sha256:{digest_of(canonical(report))}", ""))


def results_of(history: Sequence[Recorded]) -> dict[int, Found]:
    """The results of a run's steps, by index."""
    items = _events(history, StepSucceeded, StepReused)
    return {item.event.step_index: Found(item.event, item.position) for item in items}


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


def _started(run_id: str, history: Sequence[Recorded]) -> RunStarted:
    found = _events(history, RunStarted)
    if not found:
        raise NotFoundError(f"There is no run {run_id}.")
    event: RunStarted = found[0].event
    return event


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
        "config_digest": digest_of(orjson.dumps(planned.config, option=orjson.OPT_SORT_KEYS)),
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


def _step_verdict(expected: ExpectedStep, result: Result | None, failed: StepFailed | None) -> str:
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


def _divergence(end: End | None) -> dict[str, Any] | None:
    if not isinstance(end, RunDiverged):
        return None
    return {"step_index": end.step_index, "differs": end.differs, "expected": end.expected, "found": end.found}
