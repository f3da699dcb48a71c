"""Events of the work: a submission, its pipeline runs, and the step results within them."""

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from events.administration import BlueprintStep
from events.model import Event
from events.payload import Payload

SUBMISSION, RUN = "submission", "run"


class SubmissionCreated(Event):
    """A batch of records of one company was handed in.

    It stands in the history of the submission's first run (`events.ids.first_run_id`), in one decision with that
    run's start: both are accepted, or neither. Without a first run it stands there alone.
    """

    TOPIC: ClassVar[str] = "submission.created"
    submission_id: str
    company_id: str
    blueprint_id: str
    name: str | None
    records: Payload
    reading: BlueprintStep | None = None
    """The step that makes records of an uploaded file: the first of each run, before those of the blueprint."""


class ExpectedStep(BaseModel):
    """What is recorded of a step of the run that a verification executes again."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    step_version: str
    input_digest: str
    output_digest: str
    rejects_digest: str | None
    entities_version: int | None
    """Of the entity set that the step was told of: the one that a later execution is to be told of too."""
    position: int
    """Of the decision that recorded it."""


class Verifies(BaseModel):
    """The run that a verification executes again, and what is recorded of each of its steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    run_id: str
    steps: tuple[ExpectedStep, ...]
    position: int
    """Of the decision that ended the run."""


Differs = Literal["input", "output", "rejects"]


class RunStarted(Event):
    """One execution attempt of a submission began. `retry_of` is the run whose failed step this one goes on from.

    `records` is None where SubmissionCreated, with the same records, stands before it in the same decision.
    """

    TOPIC: ClassVar[str] = "run.started"
    company_id: str
    submission_id: str
    blueprint_id: str
    plan: tuple[BlueprintStep, ...]
    records: Payload | None = None
    retry_of: str | None = None
    reuse_results: bool = True
    """Whether a step's earlier result over the same input may stand for an execution."""
    verifies: Verifies | None = None
    """The run is a verification: what it makes is compared, and is no result of the submission."""


class StepScheduled(Event):
    """The step is due, at once or at `not_before`; `step_index` counts from 0, `attempt` from 1."""

    TOPIC: ClassVar[str] = "step.scheduled"
    step_index: int
    step_key: str
    attempt: int
    not_before: datetime | None = None


class StepStarted(Event):
    """A worker is at a step that takes longer than a moment; short steps are not marked."""

    TOPIC: ClassVar[str] = "step.started"
    step_index: int
    step_key: str
    attempt: int
    started_at: datetime


class StepProgressed(Event):
    """A worker has done so many of the chunks of a large batch; told now and then, never for each."""

    TOPIC: ClassVar[str] = "step.progressed"
    step_index: int
    step_key: str
    attempt: int
    started_at: datetime
    chunks_done: int
    chunks_total: int | None
    """None: nobody knows yet, as of a file that is being read."""


class StepSucceeded(Event):
    """The step's result: what it read (by digest), what it made, what it rejected, and how long it took.

    `report` is what else the step has to tell, as small JSON: a file's dialect and schema, the figures of a check.
    """

    TOPIC: ClassVar[str] = "step.succeeded"
    step_index: int
    step_key: str
    step_version: str
    attempt: int
    started_at: datetime
    duration_us: int
    input_digest: str
    input_rows: int
    output: Payload
    rejects: Payload | None = None
    report: dict[str, JsonValue] | None = None


class StepReused(Event):
    """The result of an earlier run's step stands for this one: nothing was executed."""

    TOPIC: ClassVar[str] = "step.reused"
    step_index: int
    step_key: str
    step_version: str
    from_run_id: str
    input_digest: str
    input_rows: int
    output: Payload
    rejects: Payload | None = None
    report: dict[str, JsonValue] | None = None


class StepFailed(Event):
    """An attempt failed. When it will be tried again, a StepScheduled follows in the same decision."""

    TOPIC: ClassVar[str] = "step.failed"
    step_index: int
    step_key: str
    step_version: str | None
    attempt: int
    started_at: datetime | None
    duration_us: int | None
    input_digest: str
    input_rows: int
    code: str
    message: str
    final: bool


class StepSkipped(Event):
    """The step was not executed, because the run ended before it."""

    TOPIC: ClassVar[str] = "step.skipped"
    step_index: int
    step_key: str


class RunSucceeded(Event):
    """Every step has its result. The output is that of the last step."""

    TOPIC: ClassVar[str] = "run.succeeded"
    output_digest: str
    output_rows: int


class RunVerified(Event):
    """A verification gave what was recorded, at each step that it executed."""

    TOPIC: ClassVar[str] = "run.verified"
    output_digest: str
    output_rows: int


class RunDiverged(Event):
    """A verification gave something else than was recorded: the first step that did, and by what digests."""

    TOPIC: ClassVar[str] = "run.diverged"
    step_index: int
    differs: Differs
    expected: str | None
    found: str | None


class RunFailed(Event):
    """A step failed for good, so the run did."""

    TOPIC: ClassVar[str] = "run.failed"
    step_index: int
    code: str
    message: str


class RunCancelled(Event):
    """Somebody stopped the run; its pending steps are skipped."""

    TOPIC: ClassVar[str] = "run.cancelled"
    reason: str | None
