"""The read model `runs_v1`: a run, what it waits for now, and how it ended.

What a run waits for follows from its last decision alone, so a decision's outcome replaces the one before it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from events.model import Decision, Event, Recorded
from events.processing import (
    RUN,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    StepScheduled,
    StepStarted,
    SubmissionCreated,
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
        events = decision.events[1:] if isinstance(decision.events[0], SubmissionCreated) else decision.events
        if not events:
            continue  # a submission that starts no run
        outcomes[decision.aggregate_id] = outcome_of(recorded)
        if isinstance(events[0], RunStarted):
            started[decision.aggregate_id] = _origin(events[0], decision, recorded.position)
    rows = ((*outcomes[run_id], *origin) for run_id, origin in started.items())
    changed = (outcome for run_id, outcome in outcomes.items() if run_id not in started)
    return statements(Statement.of(UPSERT, rows), Statement.of(CHANGE, changed))


def outcome_of(recorded: Recorded) -> Outcome:
    """Where the decision leaves its run: its last event that tells says so."""
    decision = recorded.decision
    for event in reversed(decision.events):
        if rule := _RULES.get(type(event)):
            return rule(event, recorded)
    return _running(recorded)


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


def _succeeded(_: RunSucceeded, recorded: Recorded) -> Outcome:
    return _ended(recorded, "succeeded")


def _cancelled(_: RunCancelled, recorded: Recorded) -> Outcome:
    return _ended(recorded, "cancelled")


def _failed(event: RunFailed, recorded: Recorded) -> Outcome:
    return _ended(recorded, "failed")._replace(
        error_step=event.step_index, error_code=storable(event.code), error_message=storable(event.message)
    )


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


_RULES: dict[type[Event], Callable[[Any, Recorded], Outcome]] = {
    StepScheduled: _scheduled,
    StepStarted: _step_started,
    RunSucceeded: _succeeded,
    RunCancelled: _cancelled,
    RunFailed: _failed,
}


RUNS = Projection(name="runs_v1", kind=RUN, tables=(Table("runs_v1", ("run_id",)),), fold=fold)
