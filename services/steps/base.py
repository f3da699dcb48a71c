"""The seam between the run engine and the work: a step is a function over a batch, with a config.

A step knows nothing of NATS, HTTP or Postgres. It gets the records of one batch and its validated config, and
returns the records that go on and the rejects that do not. It must be deterministic: the same records and the same
config give the same output, in the same order, in every process.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

Record = dict[str, Any]
"""One row: a JSON object. Values are what `json` gives: str, int, float, bool, None, list, dict."""


class StepConfig(BaseModel):
    """The base of every step's config model: frozen, and an unknown field is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


C = TypeVar("C", bound=StepConfig)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that did not go on, and why; an output that users can fetch, never a silent loss.

    `row` is the row's index in the step's input, from 0; `field` is the column at fault, or None for the whole row.
    """

    row: int
    field: str | None
    code: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step makes of a batch: the records that go on, in order, and the rejects."""

    records: list[Record]
    rejects: list[Reject] = field(default_factory=list)


class StepError(Exception):
    """The step cannot do this batch; the run fails with `code` and the message, and is not tried again."""

    code = "step_error"
    retryable = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class RetryableStepError(StepError):
    """The step may succeed when it is tried again (a busy service, a lost connection)."""

    code = "step_retryable"
    retryable = True


@dataclass(frozen=True, slots=True)
class Step(Generic[C]):
    """A registered step.

    `version` names the code, its libraries and its data tables: it changes when the output for some input changes.
    `has_effects` marks a step with an effect outside of its output: it gets a recorded decision of its own before
    and after, and is never folded into a checkpoint with others.
    """

    key: str
    version: str
    summary: str
    config_model: type[C]
    function: Callable[[Sequence[Record], C], StepOutput]
    has_effects: bool = False

    def config_schema(self) -> Mapping[str, Any]:
        """The JSON Schema (2020-12) of the config, as the registry and the API show it."""
        return self.config_model.model_json_schema()

    def execute(self, records: Sequence[Record], config: Mapping[str, Any]) -> StepOutput:
        """Validate `config` and run the step over one batch. Raises pydantic.ValidationError or StepError."""
        return self.function(records, self.config_model.model_validate(config))


def step(
    key: str, *, version: str, summary: str, config: type[C], has_effects: bool = False
) -> Callable[[Callable[[Sequence[Record], C], StepOutput]], Step[C]]:
    """Declare a function over a batch as the step `key`; the decorated name becomes the `Step`."""

    def declare(function: Callable[[Sequence[Record], C], StepOutput]) -> Step[C]:
        return Step(key, version, summary, config, function, has_effects)

    return declare
