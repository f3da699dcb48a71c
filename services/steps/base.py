"""The seam between the run engine and the work: a step is a function over a batch, with a config.

A step knows nothing of NATS, HTTP or Postgres. It gets the rows of a batch and its validated config, and returns the
rows that go on and the rejects that do not. It must be deterministic: the same rows and the same config give the same
output, in the same order, in every process.

What a step needs of the batch at once is said by its body: `Rows` works on any part of it, so that chunks are done side
by side; `Exchange` needs a little of every row, such as a key; `Whole` is given the batch, chunk by chunk; `Source`
reads a file.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from services.steps.frame import Frame, RecordFrame, concatenated
from services.steps.frame import Record as Record  # part of the seam, for those who write steps


class StepConfig(BaseModel):
    """The base of every step's config model: frozen, and an unknown field is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


C = TypeVar("C", bound=StepConfig)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that did not go on, and why; an output that users can fetch, never a silent loss.

    `row` is the row's id, and in what a step over records returns the row's index in its input; both count from 0.
    `field` is the field at fault, or None for the whole row.
    """

    row: int
    field: str | None
    code: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step over records makes of them: those that go on, in order, and the rejects.

    `rows` tells for each record which row of the input it was made of, by index. Without it they are the input's rows
    but for the rejects; and where the numbers do not agree, new rows with ids from 0.
    """

    records: list[Record]
    rejects: list[Reject] = field(default_factory=list)
    rows: list[int] | None = None
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a step makes of a frame: the rows that go on, the rejects, and what else there is to tell (small JSON)."""

    frame: Frame
    rejects: list[Reject] = field(default_factory=list)
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What a step may know besides its batch and its config. Whatever it uses of it is part of its input."""

    references: Mapping[str, Frame] = field(default_factory=dict)
    """The outputs of the runs that `Step.references` names, by run id, whole."""
    tenant_key: bytes = b""
    """A secret of the org's own, for pseudonyms that nobody else can make; 32 bytes."""
    namespace: str = ""
    """Whose ids are made: the org's id and the company's; part of ids that must stay the same for ever."""


NO_CONTEXT = Context()


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


RowsFunction = Callable[[Frame, C, Context], Result]


@dataclass(frozen=True, slots=True)
class Rows(Generic[C]):
    """Each row for itself: the function gives the same for a part of a batch as for the whole of it."""

    function: RowsFunction[C]


@dataclass(frozen=True, slots=True)
class Exchange(Generic[C]):
    """A barrier that needs a little of every row.

    `extract` runs on each chunk and gives a table with a row for each of the chunk's. `combine` gets all of them, in
    order, and gives a verdict (a table of any shape) for each chunk, and a report. `apply` runs on each chunk with its
    verdict. The middle one is all that happens at one place: it holds what `extract` gave. `extracts` are the fields
    that `extract` looks at; None: all of them.

    `keep`, where there is one, gives what the step keeps for later batches beside its output, by name. It is called
    after `combine`, at the same place, with what `extract` and `combine` gave, and is kept together with the result.
    """

    extract: Callable[[Frame, C, Context], pa.Table]
    combine: Callable[[Sequence[pa.Table], C, Context], tuple[list[pa.Table], Mapping[str, Any] | None]]
    apply: Callable[[Frame, pa.Table, C, Context], Result]
    keep: Callable[[Sequence[pa.Table], Sequence[pa.Table], C, Context], Mapping[str, Frame]] | None = None
    extracts: Callable[[C], Sequence[str] | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Whole(Generic[C]):
    """A barrier that is given every chunk in turn, at one place, and gives chunks of its own, in turn."""

    function: Callable[[Iterable[Frame], C, Context], Iterator[Result]]


@dataclass(frozen=True, slots=True)
class Source(Generic[C]):
    """The first step of a run over an upload: it is given the file's bytes, part by part, and gives chunks, in turn.

    It must not depend on where one part ends and the next begins.
    """

    function: Callable[[Iterator[bytes], C, Context], Iterator[Result]]


@dataclass(frozen=True, slots=True)
class Example:
    """A documented case, which is also a test: these records with this config give this."""

    title: str
    config: Mapping[str, Any]
    records: Sequence[Record]
    output: Sequence[Record]
    rejects: Sequence[Reject] = ()
    references: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    """The outputs of earlier runs, by run id, for a step that reads them."""


@dataclass(frozen=True, slots=True)
class Step(Generic[C]):
    """A registered step.

    `version` names the code, its libraries and its data tables: it changes when the output for some input changes.
    `has_effects` marks a step with an effect outside of its output: it gets a recorded decision of its own before
    and after, is never folded into a checkpoint with others, and never replaced by an earlier result. `isolated` marks
    one that never runs on a worker's own loop, however small its batch is; `uses_tenant_key` one that is told the org's
    key.
    `reads` gives the fields that the step looks at, each of which the batch must have; None: it takes whole rows, as
    whoever drops rows must. `references` gives the ids of the runs whose output it reads too. `holds` says of a barrier
    what it keeps in memory.
    """

    key: str
    version: str
    summary: str
    config_model: type[C]
    body: Rows[C] | Exchange[C] | Whole[C] | Source[C]
    has_effects: bool = False
    isolated: bool = False
    uses_tenant_key: bool = False
    reads: Callable[[C], Sequence[str] | None] = lambda _: None
    references: Callable[[C], Sequence[str]] = lambda _: ()
    examples: Sequence[Example] = ()
    holds: str = ""

    @property
    def kind(self) -> Literal["rows", "exchange", "whole", "source"]:
        """What it needs of a batch at once."""
        return _KINDS[type(self.body)]

    def config_schema(self) -> Mapping[str, Any]:
        """The JSON Schema (2020-12) of the config, as the registry and the API show it."""
        return self.config_model.model_json_schema()

    def run(self, frames: Sequence[Frame], config: C, context: Context = NO_CONTEXT) -> Iterator[Result]:
        """Run the step over a batch here, chunk by chunk. Raises StepError."""
        match self.body:
            case Rows(function):
                for frame in frames:
                    yield function(frame, config, context)
            case Exchange(extract, combine, apply, _):
                verdicts, report = combine([extract(frame, config, context) for frame in frames], config, context)
                for frame, verdict in zip(frames, verdicts, strict=True):
                    yield replace(apply(frame, verdict, config, context), report=report)
            case Whole(function):
                yield from function(frames, config, context)
            case Source():
                raise StepError(f"{self.key} reads a file, and not the output of another step.", code="needs_file")

    def execute(
        self,
        records: Sequence[Record],
        config: Mapping[str, Any],
        context: Context = NO_CONTEXT,
        ids: Sequence[int] | None = None,
    ) -> StepOutput:
        """Validate `config` and run the step over a few records. Raises pydantic.ValidationError or StepError."""
        frame = RecordFrame(records, ids)
        result = one_result(self.run([frame], self.config_model.model_validate(config), context), frame)
        return StepOutput(result.frame.records(), result.rejects, result.frame.row_ids(), result.report)


_KINDS: Mapping[type, Literal["rows", "exchange", "whole", "source"]] = {
    Rows: "rows",
    Exchange: "exchange",
    Whole: "whole",
    Source: "source",
}


def one_result(results: Iterable[Result], like: Frame) -> Result:
    """All results in one, of the same sort of frame as `like`. The report is the last one that there is."""
    found = list(results)
    frame = concatenated([result.frame for result in found]) if found else like.take([])
    rejects = [reject for result in found for reject in result.rejects]
    reports = [result.report for result in found if result.report is not None]
    return Result(frame, rejects, reports[-1] if reports else None)


def frame_step(
    key: str, *, version: str, summary: str, config: type[C], **more: Any
) -> Callable[[RowsFunction[C]], Step[C]]:
    """Declare a function over frames as the step `key`, row-wise; `more` are further fields of Step."""

    def declare(function: RowsFunction[C]) -> Step[C]:
        return Step(key, version, summary, config, Rows(function), **more)

    return declare


def step(
    key: str, *, version: str, summary: str, config: type[C], whole: bool = False, **more: Any
) -> Callable[[Callable[[Sequence[Record], C], StepOutput]], Step[C]]:
    """Declare a function over records as the step `key`; the decorated name becomes the `Step`.

    It must treat each record for itself, or say `whole`: then it gets all of a batch at once, which it holds. `more`
    are further fields of Step.
    """

    def declare(function: Callable[[Sequence[Record], C], StepOutput]) -> Step[C]:
        def over_frame(frame: Frame, config: C, context: Context) -> Result:  # noqa: ARG001 - records need no context
            return framed(frame, function(frame.records(), config))

        def over_all(frames: Iterable[Frame], config: C, context: Context) -> Iterator[Result]:
            yield over_frame(concatenated(frames), config, context)

        return Step(key, version, summary, config, Whole(over_all) if whole else Rows(over_frame), **more)

    return declare


def framed(frame: Frame, output: StepOutput) -> Result:
    """What a function over records returned, as rows with ids."""
    if not all(type(record) is dict for record in output.records):
        raise StepError("The step returned something other than a list of objects.", code="bad_output")
    ids = frame.row_ids()
    rejected = {reject.row for reject in output.rejects}
    if output.rows is not None:
        kept = [ids[row] for row in output.rows]
    else:
        kept = [row_id for row, row_id in enumerate(ids) if row not in rejected] if rejected else ids
    if len(kept) != len(output.records):
        kept = list(range(len(output.records)))
    try:
        made = frame.of(output.records, kept)
        rejects = [replace(reject, row=ids[reject.row]) for reject in output.rejects]
    except (IndexError, TypeError, UnicodeEncodeError) as error:
        raise StepError(f"The step returned what no batch can hold: {error}", code="bad_output") from error
    return Result(made, rejects, output.report)
