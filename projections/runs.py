"""The read model `runs_v1`: a run, what it waits for now, and how it ended.

What a run waits for follows from its last decision alone, so a decision's outcome replaces the one before it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from events.model import Decision, Event, Recorded
from events.processing import (
    RUN,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    StepScheduled,
    StepStarted,
)
from projections.base import Projection, Statement, Table, statements, storable

UPSERT = """
INSERT INTO {schema}.runs_v1 AS t (
    run_id, org_id, status, current_step, current_attempt, not_before, error_step, error_code, error_message, ended_at,
    last_position, company_id, submission_id, blueprint_id, retry_of, created_by, started_at, position, step_keys
)
SELECT run_id, org_id, status, current_step, current_attempt, not_before, error_step, error_code, error_message,
       ended_at, last_position, company_id, submission_id, blueprint_id, retry_of, created_by, started_at, position,
       string_to_array(step_keys, ',')
FROM unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::integer[], $6::timestamptz[], $7::integer[], $8::text[],
    $9::text[], $10::timestamptz[], $11::bigint[], $12::uuid[], $13::uuid[], $14::uuid[], $15::uuid[], $16::uuid[],
    $17::timestamptz[], $18::bigint[], $19::text[]
) AS g (
    run_id, org_id, status, current_step, current_attempt, not_before, error_step, error_code, error_message, ended_at,
    last_position, company_id, submission_id, blueprint_id, retry_of, created_by, started_at, position, step_keys
)
ON CONFLICT (run_id) DO UPDATE
SET status = excluded.status, current_step = excluded.current_step, current_attempt = excluded.current_attempt,
    not_before = excluded.not_before, error_step = excluded.error_step, error_code = excluded.error_code,
    error_message = excluded.error_message, ended_at = excluded.ended_at, last_position = excluded.last_position
WHERE t.org_id = excluded.org_id AND t.last_position <= excluded.last_position
"""

CHANGE = """
WITH given AS (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::integer[], $6::timestamptz[], $7::integer[],
        $8::text[], $9::text[], $10::timestamptz[], $11::bigint[]
    ) AS g (
        run_id, org_id, status, current_step, current_attempt, not_before, error_step, error_code, error_message,
        ended_at, last_position
    )
), changed AS (
    UPDATE {schema}.runs_v1 t
    SET status = g.status, current_step = g.current_step, current_attempt = g.current_attempt,
        not_before = g.not_before, error_step = g.error_step, error_code = g.error_code,
        error_message = g.error_message, ended_at = g.ended_at, last_position = g.last_position
    FROM given g
    WHERE t.run_id = g.run_id AND t.org_id = g.org_id AND t.last_position <= g.last_position
)
SELECT g.run_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {schema}.runs_v1 t WHERE t.run_id = g.run_id AND t.org_id = g.org_id)
"""


class Outcome(NamedTuple):
    """Where a run stands after a decision: the columns that change, in the order of both statements."""

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


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Whole rows of the runs started in the batch, as it leaves them; the outcome of the others."""
    started: dict[str, tuple[object, ...]] = {}
    outcomes: dict[str, Outcome] = {}
    for recorded in batch:
        decision = recorded.decision
        outcomes[decision.aggregate_id] = outcome_of(recorded)
        first = decision.events[0]
        if isinstance(first, RunStarted):
            started[decision.aggregate_id] = _origin(first, decision, recorded.position)
    rows = ((*outcomes[run_id], *origin) for run_id, origin in started.items())
    return [
        *statements(Statement.of(UPSERT, rows)),
        *_changes(outcome for run_id, outcome in outcomes.items() if run_id not in started),
    ]


def outcome_of(recorded: Recorded) -> Outcome:
    """Where the decision leaves its run."""
    decision, position = recorded.decision, recorded.position
    run_id, org_id = decision.aggregate_id, decision.org_id
    waiting: Event | None = None
    for event in decision.events:
        match event:
            case StepScheduled() | StepStarted():
                waiting = event
            case RunSucceeded():
                return Outcome(run_id, org_id, "succeeded", ended_at=decision.at, last_position=position)
            case RunCancelled():
                return Outcome(run_id, org_id, "cancelled", ended_at=decision.at, last_position=position)
            case RunFailed(step_index=step, code=code, message=message):
                return Outcome(
                    run_id, org_id, "failed", error_step=step, error_code=storable(code),
                    error_message=storable(message), ended_at=decision.at, last_position=position,
                )  # fmt: skip
    match waiting:
        case StepScheduled(step_index=step, attempt=attempt, not_before=not_before):
            return Outcome(run_id, org_id, "running", step, attempt, not_before, last_position=position)
        case StepStarted(step_index=step, attempt=attempt):
            return Outcome(run_id, org_id, "running", step, attempt, last_position=position)
    return Outcome(run_id, org_id, "running", last_position=position)


def _origin(event: RunStarted, decision: Decision, position: int) -> tuple[object, ...]:
    """The columns that never change after the start. A step's key holds no comma, so the list travels as one text."""
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


def _changes(outcomes: Iterable[Outcome]) -> list[Statement]:
    return statements(Statement.of(CHANGE, outcomes))


RUNS = Projection(name="runs_v1", kind=RUN, tables=(Table("runs_v1", ("run_id",)),), fold=fold)
