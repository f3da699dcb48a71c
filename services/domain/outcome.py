"""What a worker reports of one attempt at one step."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from events.payload import Payload


@dataclass(frozen=True, slots=True)
class Done:
    """A worker's report: the step made this."""

    step_index: int
    attempt: int
    step_version: str
    started_at: datetime
    duration_us: int
    output: Payload
    rejects: Payload | None = None
    report: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Reuse:
    """A worker's report: an earlier run's step did the same with the same input, and this was its result."""

    step_index: int
    attempt: int
    step_version: str
    from_run_id: str
    output: Payload
    rejects: Payload | None = None
    report: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A worker's report: this attempt failed."""

    step_index: int
    attempt: int
    code: str
    message: str
    retryable: bool
    step_version: str | None = None
    started_at: datetime | None = None
    duration_us: int | None = None


Outcome = Done | Reuse | Fault
