"""What a step process does with chunks: bytes in, step, bytes out. Every failure is a value (execution.Failure).

An operation reads one chunk (`rows`, `extract`, `apply`), or asks for its input piece by piece (`combine`, `whole`,
`source`), and answers with one message or with many; the last one says `done`. `sample` runs a whole step over one
chunk, for a preview.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from events.batch import EncodedChunk, EncodedColumn, decode_chunk, encoded_ids
from services.steps.base import Context, Exchange, Reject, Result, Rows, Source, Step, StepError, Whole, one_result
from services.steps.frame import CHUNK_ROWS, ColumnFrame, Frame, concatenated
from services.worker.execution import failure_of
from services.worker.registry import Registry
from services.worker.wire import ChunkResult, Frames, Task, read_chunk

_NOTHING = ColumnFrame({}, pa.array([], pa.int64()))
"""What a set that nobody has put anything into is read as."""

SAMPLE_OUTPUT_MAX_BYTES = 16 * 1024 * 1024
"""Of what a step makes of the rows of a preview, as columns."""

Message = tuple[dict[str, Any], Frames]
Ask = Callable[[], Message | None]
"""Asks the worker for the next piece of the input; None at its end."""


def converse(steps: Registry, head: dict[str, Any], frames: Sequence[bytes], ask: Ask) -> Iterator[Message]:
    """Do what a worker asks; the messages for it, of which the last is `done` or `failure`."""
    step = steps.get(head["step"])
    if step is None:
        text = f"This worker does not serve {head['step']!r}."
        yield {"failure": {"code": "step_unknown", "message": text, "retryable": True}}, []
        return
    try:
        yield from _operations[head["op"]](step, head, frames, ask)
        yield {"done": True}, []
    except Exception as error:  # noqa: BLE001 - a step is foreign code: whatever it raises is its result
        yield {"failure": asdict(failure_of(step.key, error))}, []


def _prepared(step: Step[Any], head: dict[str, Any], frames: Sequence[bytes]) -> tuple[Task, Any, Context, Frames]:
    task, rest = Task.read(head, frames)
    references: dict[str, Frame] = {
        run_id: concatenated(frame_of(chunk, task.reference_names[run_id]) for chunk in chunks) if chunks else _NOTHING
        for run_id, chunks in task.references.items()
    }
    config = step.config_model.model_validate(task.config)
    return task, config, Context(references, task.tenant_key, task.namespace), list(rest)


def _rows(step: Step[Any], head: dict[str, Any], frames: Sequence[bytes], _: Ask) -> Iterator[Message]:
    assert isinstance(step.body, Rows)
    task, config, context, rest = _prepared(step, head, frames)
    frame = frame_of(read_chunk(head["chunk"], rest), task.names)
    yield answer_of(step.body.function(frame, config, context), frame, partial=head["partial"])


def _extract(step: Step[Any], head: dict[str, Any], frames: Sequence[bytes], _: Ask) -> Iterator[Message]:
    assert isinstance(step.body, Exchange)
    task, config, context, rest = _prepared(step, head, frames)
    frame = frame_of(read_chunk(head["chunk"], rest), task.names)
    yield {"table": True}, [table_bytes(step.body.extract(frame, config, context))]


def _combine(step: Step[Any], head: dict[str, Any], frames: Sequence[bytes], ask: Ask) -> Iterator[Message]:
    assert isinstance(step.body, Exchange)
    task, config, context, _ = _prepared(step, head, frames)
    tables = [read_table(piece[0]) for _, piece in iter(ask, None)]
    verdicts, report = step.body.combine(tables, config, context)
    kept = step.body.keep(tables, verdicts, config, context) if task.keeps and step.body.keep is not None else {}
    del tables
    for verdict in verdicts:
        yield {"table": True}, [table_bytes(verdict)]
    for name, frame in kept.items():
        for first in range(0, max(len(frame), 1), CHUNK_ROWS):
            message, columns = answer_of(Result(frame.take(range(first, min(first + CHUNK_ROWS, len(frame))))))
            yield {**message, "kept": name}, columns
    yield {"report": report}, []


def _apply(step: Step[Any], head: dict[str, Any], frames: Sequence[bytes], _: Ask) -> Iterator[Message]:
    assert isinstance(step.body, Exchange)
    task, config, context, rest = _prepared(step, head, frames)
    frame = frame_of(read_chunk(head["chunk"], rest[1:]), task.names)
    yield answer_of(step.body.apply(frame, read_table(rest[0]), config, context), frame, partial=head["partial"])


def _whole(step: Step[Any], head: dict[str, Any], frames: Sequence[bytes], ask: Ask) -> Iterator[Message]:
    assert isinstance(step.body, Whole)
    task, config, context, _ = _prepared(step, head, frames)
    inputs = (frame_of(read_chunk(piece["chunk"], more), task.names) for piece, more in iter(ask, None))
    for result in step.body.function(inputs, config, context):
        yield answer_of(result)


def _source(step: Step[Any], head: dict[str, Any], frames: Sequence[bytes], ask: Ask) -> Iterator[Message]:
    assert isinstance(step.body, Source)
    _, config, context, _ = _prepared(step, head, frames)
    parts = (more[0] for _, more in iter(ask, None))
    for result in step.body.function(parts, config, context):
        yield answer_of(result)


def _sample(step: Step[Any], head: dict[str, Any], frames: Sequence[bytes], _: Ask) -> Iterator[Message]:
    """A whole step, of any body, over a few rows; the answer is bounded, for it is held at once."""
    task, config, context, rest = _prepared(step, head, frames)
    frame = frame_of(read_chunk(head["chunk"], rest), task.names)
    message, more = answer_of(one_result(step.run([frame], config, context), frame))
    size_bytes = sum(map(len, more))
    if size_bytes > SAMPLE_OUTPUT_MAX_BYTES:
        raise StepError(
            f"Of these rows the step makes {size_bytes:,} bytes; a preview holds {SAMPLE_OUTPUT_MAX_BYTES:,} at most. "
            "Preview fewer rows.",
            code="output_too_large",
        )
    yield message, more


_operations: dict[str, Callable[[Step[Any], dict[str, Any], Sequence[bytes], Ask], Iterator[Message]]] = {
    "rows": _rows,
    "extract": _extract,
    "combine": _combine,
    "apply": _apply,
    "whole": _whole,
    "source": _source,
    "sample": _sample,
}


def frame_of(chunk: EncodedChunk, names: Sequence[str]) -> ColumnFrame:
    """The chunk as a frame: what the worker left out, because the step does not read it, has no values there."""
    columns, ids = decode_chunk(chunk, names)
    return ColumnFrame(columns, ids)


def answer_of(result: Result, source: ColumnFrame | None = None, *, partial: bool = False) -> Message:
    """A result as a message. A column that is the source's own is named, and not sent.

    `partial`: the source has only the columns that the step said it reads, so that it cannot give other rows.
    """
    frame = result.frame
    if not isinstance(frame, ColumnFrame):
        frame = ColumnFrame.of_records(frame.records(), frame.row_ids())
    whole = source is not None and frame.ids is source.ids
    if partial and not whole:
        raise StepError("The step dropped rows, and did not say that it takes whole ones.", code="bad_output")
    known = {id(column): name for name, column in source.columns.items()} if source is not None and whole else {}
    kept = {name: known[id(column)] for name, column in frame.columns.items() if id(column) in known}
    made = {name: EncodedColumn.of(column) for name, column in frame.columns.items() if name not in kept}
    first_id, ids = encoded_ids(frame.ids)
    output = EncodedChunk(len(frame), made, first_id, ids)
    rejects = _rejects(result.rejects) if result.rejects else None
    report = None if result.report is None else dict(result.report)
    head, frames = ChunkResult(frame.names, kept, output, rejects, report).frames()
    return {"result": head}, frames


def _rejects(rejects: Sequence[Reject]) -> EncodedChunk:
    frame = ColumnFrame.of_records([asdict(reject) for reject in rejects], [reject.row for reject in rejects])
    first_id, ids = encoded_ids(frame.ids)
    columns = {name: EncodedColumn.of(column) for name, column in frame.columns.items()}
    return EncodedChunk(len(frame), columns, first_id, ids)


def table_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_table(data: bytes) -> pa.Table:
    """The inverse of `table_bytes`."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()
