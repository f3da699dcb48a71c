"""The archived decisions of a tenant, filtered; those that are beyond the archive's head are read from the hot log."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from events.archive import Archived
from events.ids import first_run_id
from events.model import Recorded
from events.processing import RUN
from projections.queries.reader import Reader, Row, Scope

HEAD = "SELECT epoch, position FROM data_engine.event_log_head"

_DECISIONS = """
SELECT position, recorded_at, subject, body
FROM data_engine.event_log
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid)
"""

LOOKED_AT_MAX = 20_000
"""Rows that one question looks at, found or not: what matches nothing costs 25 ms, and not the whole archive."""

_LOOKED_AT = """
SELECT position, recorded_at, subject, body, kind, user_id
FROM data_engine.event_log
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid) AND position > $3 AND position < $4
"""

AT = f"{_DECISIONS} AND position = $3"
NEXT = """
SELECT position, recorded_at FROM data_engine.event_log
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid) AND position > $3
ORDER BY position LIMIT 1
"""
OF_ID = f"{_DECISIONS} AND decision_id = $3 ORDER BY position LIMIT 1"
CAUSED_BY = f"{_DECISIONS} AND causation_id = ANY($3::text[]) ORDER BY position LIMIT $4"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which decisions of an org; None: any. Times are those of recording, the later one excluded.

    `hidden` are kinds that the caller does not see. A submission's are those of its runs, and what they caused.
    """

    submission_id: str | None = None
    run_id: str | None = None
    user_id: str | None = None
    kind: str | None = None
    topics: frozenset[str] | None = None
    recorded_from: datetime | None = None
    recorded_until: datetime | None = None
    hidden: frozenset[str] = frozenset()

    def match(self, recorded: Recorded, company_id: str | None) -> bool:
        """Whether a decision is wanted; of one company, when it is given."""
        decision, at = recorded.decision, recorded.recorded_at
        return (
            company_id in (None, decision.company_id)
            and decision.kind not in self.hidden
            and self.kind in (None, decision.kind)
            and self.user_id in (None, decision.actor.user_id)
            and (self.run_id is None or (decision.kind == RUN and decision.aggregate_id == self.run_id))
            and (self.submission_id is None or self._is_of_submission(recorded))
            and (self.recorded_from is None or (at is not None and at >= self.recorded_from))
            and (self.recorded_until is None or (at is not None and at < self.recorded_until))
            and self.has_topic(recorded)
        )

    def has_topic(self, recorded: Recorded) -> bool:
        """Whether one of its events is of a topic that is wanted: what no column of the archive tells."""
        return self.topics is None or any(event.TOPIC in self.topics for event in recorded.decision.events)

    def _is_of_submission(self, recorded: Recorded) -> bool:
        decision = recorded.decision
        first = decision.kind == RUN and decision.aggregate_id == first_run_id(self.submission_id or "")
        return first or decision.correlation_id == self.submission_id


async def head(reader: Reader) -> tuple[str, int]:
    """Of which log the archive is, and up to which position; position 0 when nothing is archived."""
    rows = await reader.platform_rows(HEAD)
    return (rows[0]["epoch"], rows[0]["position"]) if rows else ("", 0)


async def decisions(
    reader: Reader, scope: Scope, filters: Filters, after: int, before: int, limit: int, *, newest_first: bool
) -> tuple[list[Archived], int | None]:
    """Archived decisions between two positions (both excluded) that match, but for their topics; at most `limit`.

    And the position up to which was looked, when there may be more beyond it; None when that was all.
    """
    arguments: list[object] = [scope.org_id, scope.company_id, after, before]
    order = "ORDER BY position DESC" if newest_first else "ORDER BY position"
    looked_at = f"{_LOOKED_AT}{_range(filters, arguments)} {order} LIMIT {LOOKED_AT_MAX}"
    its_own = len(arguments)
    wanted = _wanted(filters, arguments)
    found = f"SELECT position, recorded_at, subject, body FROM ({looked_at}) looked_at {wanted} {order} LIMIT {limit:d}"
    rows = _archived(await reader.rows(scope, found, *arguments))
    if len(rows) == limit:
        return rows, rows[-1].position
    if not wanted and len(rows) < LOOKED_AT_MAX:
        return rows, None
    last = f"SELECT position FROM ({looked_at}) looked_at {order} OFFSET {LOOKED_AT_MAX - 1}"
    row = await reader.row(scope, last, *arguments[:its_own])
    return rows, None if row is None else row["position"]


def _range(filters: Filters, arguments: list[object]) -> str:
    """Which rows to look at: more conditions, whose parameters are added."""
    sql = ""
    if filters.run_id is not None:
        arguments.append(filters.run_id)
        sql += f" AND aggregate_id = ${len(arguments)}::text AND kind = 'run'"
    if filters.submission_id is not None:
        arguments += [filters.submission_id, first_run_id(filters.submission_id)]
        of_first = f"(aggregate_id = ${len(arguments)}::text AND kind = 'run')"
        sql += f" AND (correlation_id = ${len(arguments) - 1}::text OR {of_first})"
    return sql


def _wanted(filters: Filters, arguments: list[object]) -> str:
    """Which of them are wanted: a WHERE, or nothing; its parameters are added."""
    conditions = []
    for condition, value in (
        ("NOT (kind = ANY({}::text[]))", sorted(filters.hidden) or None),
        ("user_id = {}::uuid", filters.user_id),
        ("kind = {}::text", filters.kind),
        ("recorded_at >= {}::timestamptz", filters.recorded_from),
        ("recorded_at < {}::timestamptz", filters.recorded_until),
    ):
        if value is not None:
            arguments.append(value)
            conditions.append(condition.format(f"${len(arguments)}"))
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


async def first_after(reader: Reader, scope: Scope, time: datetime) -> int | None:
    """The position of the scope's first archived decision that was recorded after a time; None when there is none.

    Found by halving, as the log finds a time itself: positions and times of recording grow together.
    """
    _, end = await head(reader)
    low, high = 0, end  # what is up to `low` was recorded by then, what is beyond `high` was not
    while low < high:
        middle = (low + high) // 2
        row = await reader.row(scope, NEXT, scope.org_id, scope.company_id, middle)
        if row is None or row["recorded_at"] > time:
            high = middle
        else:
            low = row["position"]
    row = await reader.row(scope, NEXT, scope.org_id, scope.company_id, low)
    return None if row is None else row["position"]


async def one(reader: Reader, scope: Scope, position: int | None, decision_id: str | None) -> Archived | None:
    """The archived decision at a position, or of an id."""
    wanted = (AT, position) if position is not None else (OF_ID, decision_id)
    found = _archived(await reader.rows(scope, wanted[0], scope.org_id, scope.company_id, wanted[1]))
    return found[0] if found else None


async def caused_by(reader: Reader, scope: Scope, decision_ids: Sequence[str], limit: int) -> list[Archived]:
    """The archived decisions that these caused, by position; at most `limit`."""
    return _archived(await reader.rows(scope, CAUSED_BY, scope.org_id, scope.company_id, list(decision_ids), limit))


def _archived(rows: Sequence[Row]) -> list[Archived]:
    return [Archived(**row) for row in rows]
