"""What workers say to each other about the chunks of a large batch, over core NATS. Nothing of it is recorded.

A worker that directs a batch offers chunks (`chunks.offer.<step>`); one that is idle, and serves the same version of
the step, asks for a seat. Into a seat it is sent one job after the other: an operation, and where its chunk is. While
it is at a job it asks each second whether the job is still wanted; its answer names what it has stored.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from events.payload import Payload

PROTOCOL = 1
"""Workers that speak another one are left alone, as in the middle of an upgrade."""
ALIVE_EVERY_S = 1.0
SILENCE_MAX_S = 5.0
"""A helper of which nothing was heard for so long is dead, or as good as dead."""
SEAT = "seat"
"""The last token of the subject that seats are asked for at; of other subjects it is a job's id."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def encode(self) -> bytes:
        """As JSON."""
        return self.model_dump_json().encode()


class Offer(_Message):
    """A worker has chunks of this step to give away."""

    protocol: int
    worker_id: str
    step_key: str
    step_version: str


class SeatRequest(_Message):
    """A helper has a step process that is idle. Jobs for it go to the subject."""

    subject: str


class Wanted(_Message):
    """Whether the seat, or the job, is wanted."""

    wanted: bool


class Job(_Message):
    """An operation on one chunk. Columns and verdict are in the blob store; only where they are is told.

    `key_mark` tells whether the helper has the same key of the org; the key itself is not sent. The other fields are
    those of StepCall.
    """

    org_id: str
    step_key: str
    step_version: str
    op: Literal["rows", "extract", "apply"]
    config: dict[str, Any]
    names: tuple[str, ...]
    reads: tuple[str, ...] | None
    references: dict[str, Payload | None] | None
    key_mark: str
    timeout_s: float
    namespace: str
    keeps: bool
    chunk: dict[str, Any]
    verdict: tuple[str, int] | None


class JobFailure(_Message):
    """What a step failed with."""

    code: str
    message: str
    retryable: bool


class JobAnswer(_Message):
    """What a helper says of a job. `last`: it leaves its seat. `refused`: it did not do it, and somebody else may."""

    kind: Literal["alive", "done", "failed", "refused"]
    done: dict[str, Any] | None = None
    failure: JobFailure | None = None
    last: bool = False
