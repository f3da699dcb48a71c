"""What a gateway asks of a worker for a preview, and the messages that answer it, over core NATS. Nothing is recorded.

An answer is several messages: `alive` now and then, a `step` for each step as it is done, and `end`; or `refused`.
Whoever waits hears within `SILENCE_MAX_S` that the worker is still there, or knows that it is not.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from events.administration import BlueprintStep

ROWS_MAX = 200
"""Of a sample."""
SAMPLE_MAX_BYTES = 512 * 1024
"""Of a sample, as JSON."""
SHOWN_ROWS_MAX = 1000
"""Of what a step makes, which may be more rows than it was given."""
SHOWN_MAX_BYTES = 4 * 1024 * 1024
"""Of what all steps make, as JSON: each has the same share of it."""
TIMEOUT_S = 30.0
"""For all steps together, with the wait for a step process."""
STEP_TIMEOUT_S = 10.0
"""For one step; less where its blueprint says less."""
ALIVE_EVERY_S = 1.0
SILENCE_MAX_S = 5.0

Status = Literal["succeeded", "failed", "not_executed"]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class PreviewRequest(_Message):
    """Run these steps on this sample, as a run of this company would."""

    org_id: str
    company_id: str
    steps: tuple[BlueprintStep, ...]
    records: list[dict[str, Any]]
    row_ids: list[int]
    request_id: str | None = None


class PreviewRows(_Message):
    """Rows of a step's output, or its rejects; `rows` counts all, of which `records` are the first."""

    rows: int
    row_ids: list[int]
    records: list[dict[str, Any]]


class PreviewError(_Message):
    """Why a step failed, or was not executed."""

    code: str
    message: str


class PreviewStep(_Message):
    """What one step did with what the step before it made. `fields` are those of its input, in order."""

    index: int
    key: str
    version: str | None
    status: Status
    fields: list[str]
    duration_us: int | None = None
    output: PreviewRows | None = None
    rejects: list[dict[str, Any]] | None = None
    report: dict[str, Any] | None = None
    error: PreviewError | None = None


class PreviewMessage(_Message):
    """One message of an answer. `refused` is the wire form of a RejectedError (events.errors.rejection_to_json)."""

    kind: Literal["alive", "step", "end", "refused", "unavailable"]
    step: PreviewStep | None = None
    refused: Annotated[dict[str, Any] | None, Field(description="The wire form of a RejectedError.")] = None
    message: str | None = None
