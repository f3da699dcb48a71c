"""The read model of runs: a run, what it waits for now, and how it ended.

What a run waits for follows from its last decision alone, so a decision's outcome replaces the one before it.

`runs_v2` has the rows that a run read and gave; `runs_v1` is the generation before it, kept in service where it is
until its successor is built.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from events.model import Decision, Event, Recorded
from events.payload import Payload
from events.processing import (
    RUN,
    RunCancelled,
    RunDiverged,
    RunFailed,
    RunStarted,
    RunSucceeded,
    RunVerified,
    StepReused,
    StepScheduled,
    StepStarted,
    StepSucceeded,
    SubmissionCreated,
)
from projections.base import Projection, Statement, Table, rows_of_company, statements, storable

Columns = tuple[tuple[str, str], ...]
"""Names and types."""

KEY: Columns = (("run_id", "uuid"), ("org_id", "uuid"))
CHANGING_V1: Columns = (
    ("status", "text"), ("current_step", "integer"), ("current_attempt", "integer"), ("not_before", "timestamptz"),
    ("error_step", "integer"), ("error_code", "text"), ("error_message", "text"), ("ended_at", "timestamptz"),
    ("last_position", "bigint"),
)  # fmt: skip
CHANGING_V2: Columns = (*CHANGING_V1, ("output_rows", "bigint"), ("input_rows", "bigint"))
# A step's key holds no comma, so the list travels as one text.
ORIGIN: Columns = (
    ("company_id", "uuid"), ("submission_id", "uuid"), ("blueprint_id", "uuid"), ("retry_of", "uuid"),
    ("created_by", "uuid"), ("started_at", "timestamptz"), ("position", "bigint"), ("step_keys", "text"),
)  # fmt: skip
KEEPS_KNOWN = {"input_rows"}
"""What a decision that says nothing of it leaves as it is."""


def _given(columns: Columns) -> str:
    arrays = ", ".join(f"${number}::{kind}[]" for number, (_, kind) in enumerate(columns, 1))
    return f"unnest({arrays}) AS g ({', '.join(name for name, _ in columns)})"


def _set(changing: Columns, new: str) -> str:
    return ", ".join(
        f"{name} = coalesce({new}.{name}, t.{name})" if name in KEEPS_KNOWN else f"{name} = {new}.{name}"
        for name, _ in changing
    )


def _upsert(table: str, changing: Columns) -> str:
    columns = (*KEY, *changing, *ORIGIN)
    names = ", ".join(name for name, _ in columns)
    values = names.replace("step_keys", "string_to_array(step_keys, ',')")
    return (
        f"INSERT INTO {{schema}}.{table} AS t ({names}) SELECT {values} FROM {_given(columns)} "
        f"ON CONFLICT (run_id) DO UPDATE SET {_set(changing, 'excluded')} "
        "WHERE t.org_id = excluded.org_id AND t.last_position <= excluded.last_position"
    )


def _change(table: str, changing: Columns) -> str:
    return f"""
WITH given AS (SELECT * FROM {_given((*KEY, *changing))}), changed AS (
    UPDATE {{schema}}.{table} t SET {_set(changing, "g")} FROM given g
    WHERE t.run_id = g.run_id AND t.org_id = g.org_id AND t.last_position <= g.last_position
)
SELECT g.run_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {{schema}}.{table} t WHERE t.run_id = g.run_id AND t.org_id = g.org_id)
"""


class Outcome(NamedTuple):
    """Where a run stands after a decision: key and changing columns, in the order of both statements."""

    run_id: str
    org_id: str
    status: str
    current_step: int | None = None
    current_attempt: int | None = None
    not_before: datetime | None = None
    error_step: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    ended_at: datetime | None = None
    last_position: int = 0
    output_rows: int | None = None
    input_rows: int | None = None


def _generation(table: str, changing: Columns) -> Projection:
    upsert, change = _upsert(table, changing), _change(table, changing)
    width = len(KEY) + len(changing)

    def fold(batch: Sequence[Recorded]) -> list[Statement]:
        """Whole rows of the runs started in the batch, as it leaves them; the outcome of the others."""
        started, outcomes = _outcomes(batch)
        rows = ((*outcomes[run_id][:width], *origin) for run_id, origin in started.items())
        changed = (outcome[:width] for run_id, outcome in outcomes.items() if run_id not in started)
        return statements(Statement.of(upsert, rows), Statement.of(change, changed))

    return Projection(
        name=table, kind=RUN, tables=(Table(table, ("run_id",)),), fold=fold, erase=(rows_of_company(table),)
    )


def _outcomes(batch: Sequence[Recorded]) -> tuple[dict[str, tuple[object, ...]], dict[str, Outcome]]:
    """The origin of each run that started in the batch, and where the batch leaves each run that it tells of."""
    started: dict[str, tuple[object, ...]] = {}
    outcomes: dict[str, Outcome] = {}
    for recorded in batch:
        decision = recorded.decision
        events = (
            decision.events[1:] if isinstance(next(iter(decision.events), None), SubmissionCreated) else decision.events
        )
        if not events:
            continue  # a submission that starts no run
        run_id = decision.aggregate_id
        known = outcomes[run_id].input_rows if run_id in outcomes else None
        outcome = outcome_of(recorded)
        outcomes[run_id] = outcome if outcome.input_rows is not None else outcome._replace(input_rows=known)
        if isinstance(events[0], RunStarted):
            started[run_id] = _origin(events[0], decision, recorded.position)
    return started, outcomes


def outcome_of(recorded: Recorded) -> Outcome:
    """Where the decision leaves its run: its last event that tells says so."""
    decision = recorded.decision
    outcome = _running(recorded)
    for event in reversed(decision.events):
        if rule := _RULES.get(type(event)):
            outcome = rule(event, recorded)
            break
    return outcome._replace(input_rows=_input_rows(decision))


def _input_rows(decision: Decision) -> int | None:
    """The rows that a run begins with, in a decision that tells: handed in, or read of a file by its first step."""
    for event in decision.events:
        if isinstance(event, StepSucceeded | StepReused) and event.step_index == 0:
            return event.input_rows or event.output.rows
    for event in decision.events:
        records: Payload | None = event.records if isinstance(event, SubmissionCreated | RunStarted) else None
        if records is not None and records.format != "file":
            return records.rows
    return None


def _running(
    recorded: Recorded, step: int | None = None, attempt: int | None = None, not_before: datetime | None = None
) -> Outcome:
    decision = recorded.decision
    return Outcome(
        decision.aggregate_id, decision.org_id, "running", step, attempt, not_before, last_position=recorded.position
    )


def _scheduled(event: StepScheduled, recorded: Recorded) -> Outcome:
    return _running(recorded, event.step_index, event.attempt, event.not_before)


def _step_started(event: StepStarted, recorded: Recorded) -> Outcome:
    return _running(recorded, event.step_index, event.attempt)


def _ended(recorded: Recorded, status: str) -> Outcome:
    decision = recorded.decision
    return Outcome(
        decision.aggregate_id, decision.org_id, status, ended_at=decision.at, last_position=recorded.position
    )


def _succeeded(event: RunSucceeded, recorded: Recorded) -> Outcome:
    return _ended(recorded, "succeeded")._replace(output_rows=event.output_rows)


def _verified(event: RunVerified, recorded: Recorded) -> Outcome:
    return _ended(recorded, "verified")._replace(output_rows=event.output_rows)


def _diverged(event: RunDiverged, recorded: Recorded) -> Outcome:
    message = f"The {event.differs} is not what was recorded: {event.expected} then, {event.found} now."
    return _ended(recorded, "diverged")._replace(
        error_step=event.step_index, error_code="diverged", error_message=storable(message)
    )


def _cancelled(_: RunCancelled, recorded: Recorded) -> Outcome:
    return _ended(recorded, "cancelled")


def _failed(event: RunFailed, recorded: Recorded) -> Outcome:
    return _ended(recorded, "failed")._replace(
        error_step=event.step_index, error_code=storable(event.code), error_message=storable(event.message)
    )


def _origin(event: RunStarted, decision: Decision, position: int) -> tuple[object, ...]:
    """The columns that never change after the start."""
    return (
        event.company_id,
        event.submission_id,
        event.blueprint_id,
        event.retry_of,
        decision.actor.user_id,
        decision.at,
        position,
        ",".join([step.key for step in event.plan]),
    )


_RULES: dict[type[Event], Callable[[Any, Recorded], Outcome]] = {
    StepScheduled: _scheduled,
    StepStarted: _step_started,
    RunSucceeded: _succeeded,
    RunVerified: _verified,
    RunDiverged: _diverged,
    RunCancelled: _cancelled,
    RunFailed: _failed,
}


RUNS_V1 = _generation("runs_v1", CHANGING_V1)
RUNS = _generation("runs_v2", CHANGING_V2)
