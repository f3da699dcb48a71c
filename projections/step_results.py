"""The read model `step_results_v1`: what is known of each step of a run.

Every event that tells of a step gives its whole row, so the last one stands. A first StepScheduled tells nothing yet:
such a step is pending, and has no row.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from events import strictjson
from events.model import Event, Recorded
from events.payload import Payload
from events.processing import RUN, StepFailed, StepProgressed, StepReused, StepSkipped, StepStarted, StepSucceeded
from projections.base import Projection, Statement, Table, rows_of_company, statements, storable
from projections.runs import RUNS

# A step's company and submission are those of its run, which the decision does not carry. A run that is not there
# leaves NULL, which the table refuses: the decision becomes a dead letter and is not lost in silence.
UPSERT = """
INSERT INTO {schema}.step_results_v1 AS t (
    run_id, step_index, org_id, company_id, submission_id, step_key, step_version, status, attempt, reused_from_run_id,
    started_at, ended_at, duration_us, input_digest, input_rows, output_digest, output_size_bytes, output_rows,
    output_inline, output_format, output_position, rejects_digest, rejects_size_bytes, rejects_rows, rejects_inline,
    rejects_format, error_code, error_message, report, chunks_done, chunks_total, position
)
SELECT g.run_id, g.step_index, g.org_id, r.company_id, r.submission_id, g.step_key, g.step_version, g.status,
       g.attempt, g.reused_from_run_id, g.started_at, g.ended_at, g.duration_us, g.input_digest, g.input_rows,
       g.output_digest, g.output_size_bytes, g.output_rows, g.output_inline, coalesce(g.output_format, 'json'),
       CASE WHEN g.output_digest IS NOT NULL THEN g.position END,
       g.rejects_digest, g.rejects_size_bytes, g.rejects_rows, g.rejects_inline, coalesce(g.rejects_format, 'json'),
       g.error_code, g.error_message, g.report, g.chunks_done, g.chunks_total, g.position
FROM unnest(
    $1::uuid[], $2::integer[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::integer[],
    $9::uuid[], $10::timestamptz[], $11::timestamptz[], $12::bigint[], $13::text[], $14::bigint[], $15::text[],
    $16::bigint[], $17::bigint[], $18::boolean[], $19::text[], $20::text[], $21::bigint[], $22::bigint[],
    $23::boolean[], $24::text[], $25::text[], $26::text[], $27::text[], $28::integer[], $29::integer[]
) AS g (
    run_id, step_index, org_id, position, step_key, step_version, status, attempt, reused_from_run_id, started_at,
    ended_at, duration_us, input_digest, input_rows, output_digest, output_size_bytes, output_rows, output_inline,
    output_format, rejects_digest, rejects_size_bytes, rejects_rows, rejects_inline, rejects_format, error_code,
    error_message, report, chunks_done, chunks_total
)
LEFT JOIN {schema}.runs r ON r.run_id = g.run_id AND r.org_id = g.org_id
ON CONFLICT (run_id, step_index) DO UPDATE
SET step_key = excluded.step_key, step_version = excluded.step_version, status = excluded.status,
    attempt = excluded.attempt, reused_from_run_id = excluded.reused_from_run_id, started_at = excluded.started_at,
    ended_at = excluded.ended_at, duration_us = excluded.duration_us, input_digest = excluded.input_digest,
    input_rows = excluded.input_rows, output_digest = excluded.output_digest,
    output_size_bytes = excluded.output_size_bytes, output_rows = excluded.output_rows,
    output_inline = excluded.output_inline, output_format = excluded.output_format,
    output_position = excluded.output_position,
    rejects_digest = excluded.rejects_digest, rejects_size_bytes = excluded.rejects_size_bytes,
    rejects_rows = excluded.rejects_rows, rejects_inline = excluded.rejects_inline,
    rejects_format = excluded.rejects_format, error_code = excluded.error_code,
    error_message = excluded.error_message, report = excluded.report, chunks_done = excluded.chunks_done,
    chunks_total = excluded.chunks_total, position = excluded.position
WHERE t.org_id = excluded.org_id AND t.position <= excluded.position
"""

Row = tuple[Any, ...]
Known = Callable[[Any, Recorded], Row]

_NO_OUTPUT: Row = (None, None, None, None, None)
_NO_ERROR: Row = (None, None)
_NO_REPORT: Row = (None, None, None)


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """The last row of each step that the batch tells of."""
    rows: dict[tuple[str, int], Row] = {}
    for recorded in batch:
        decision = recorded.decision
        run_id, org_id, position = decision.aggregate_id, decision.org_id, recorded.position
        for event in decision.events:
            if known := _KNOWN.get(type(event)):
                index = event.step_index  # type: ignore[attr-defined]
                rows[run_id, index] = (run_id, index, org_id, position, *known(event, recorded))
    return statements(Statement.of(UPSERT, rows.values()))


def _started(event: StepStarted, _: Recorded) -> Row:
    return (
        event.step_key, None, "running", event.attempt, None, event.started_at, None, None, None, None,
        *_NO_OUTPUT, *_NO_OUTPUT, *_NO_ERROR, *_NO_REPORT,
    )  # fmt: skip


def _progressed(event: StepProgressed, _: Recorded) -> Row:
    return (
        event.step_key, None, "running", event.attempt, None, event.started_at, None, None, None, None,
        *_NO_OUTPUT, *_NO_OUTPUT, *_NO_ERROR, None, event.chunks_done, event.chunks_total,
    )  # fmt: skip


def _succeeded(event: StepSucceeded, _: Recorded) -> Row:
    return (
        event.step_key, event.step_version, "succeeded", event.attempt, None, event.started_at,
        event.started_at + timedelta(microseconds=event.duration_us), event.duration_us, event.input_digest,
        event.input_rows, *_reference(event.output), *_reference(event.rejects), *_NO_ERROR,
        _report(event.report), None, None,
    )  # fmt: skip


def _reused(event: StepReused, _: Recorded) -> Row:
    """Nothing was executed: no attempt of this run's own, no times."""
    return (
        event.step_key, event.step_version, "succeeded", 0, event.from_run_id, None, None, None, event.input_digest,
        event.input_rows, *_reference(event.output), *_reference(event.rejects), *_NO_ERROR,
        _report(event.report), None, None,
    )  # fmt: skip


def _failed(event: StepFailed, recorded: Recorded) -> Row:
    ended_at = recorded.decision.at
    if event.started_at is not None and event.duration_us is not None:
        ended_at = event.started_at + timedelta(microseconds=event.duration_us)
    return (
        event.step_key, event.step_version, "failed" if event.final else "retrying", event.attempt, None,
        event.started_at, ended_at, event.duration_us, event.input_digest, event.input_rows, *_NO_OUTPUT,
        *_NO_OUTPUT, storable(event.code), storable(event.message), *_NO_REPORT,
    )  # fmt: skip


def _skipped(event: StepSkipped, _: Recorded) -> Row:
    return (
        event.step_key, None, "skipped", 0, None, None, None, None, None, None, *_NO_OUTPUT, *_NO_OUTPUT, *_NO_ERROR,
        *_NO_REPORT,
    )  # fmt: skip


def _reference(payload: Payload | None) -> Row:
    """Digest, size, rows, whether the payload is in the log itself, and its format."""
    if payload is None:
        return _NO_OUTPUT
    return payload.digest, payload.size_bytes, payload.rows, payload.inline is not None, payload.format


def _report(report: dict[str, Any] | None) -> str | None:
    return None if report is None else storable(strictjson.dumps(report).decode())


_KNOWN: dict[type[Event], Known] = {
    StepStarted: _started,
    StepProgressed: _progressed,
    StepSucceeded: _succeeded,
    StepReused: _reused,
    StepFailed: _failed,
    StepSkipped: _skipped,
}

STEP_RESULTS = Projection(
    name="step_results_v1",
    kind=RUN,
    tables=(Table("step_results_v1", ("run_id", "step_index")),),
    fold=fold,
    requires=(RUNS.view,),
    erase=(rows_of_company("step_results_v1"),),
)
