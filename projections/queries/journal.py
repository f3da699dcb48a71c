"""The archived log as a tenant may see it: decisions by what they are about, and by what caused them."""

from datetime import datetime
from typing import Literal, NamedTuple

from projections.queries.reader import Reader, Row, Scope

Order = Literal["oldest_first", "newest_first"]

HEAD = "SELECT coalesce(max(position), 0)::bigint FROM data_engine.event_log_head"

_DECISION = "SELECT position, subject, body FROM data_engine.event_log WHERE org_id = $1::uuid"

_DECISIONS = f"""
{_DECISION} AND position > $2 AND position < $3
  AND ($4::uuid IS NULL OR company_id = $4) AND ($5::uuid IS NULL OR user_id = $5)
  AND ($6::text IS NULL OR kind = $6)
  AND ($7::timestamptz IS NULL OR decided_at >= $7) AND ($8::timestamptz IS NULL OR decided_at < $8)
  AND ($9::text IS NULL OR aggregate_id = $9)
  AND ($10::text IS NULL OR correlation_id = $10 OR aggregate_id = $11::text)
ORDER BY position {{order}} LIMIT $12
"""
DECISIONS: dict[Order, str] = {
    "oldest_first": _DECISIONS.format(order="ASC"),
    "newest_first": _DECISIONS.format(order="DESC"),
}
BY_ID = f"{_DECISION} AND decision_id = $2 ORDER BY position LIMIT 1"
CAUSED_BY = f"{_DECISION} AND causation_id = ANY($2::text[]) ORDER BY position LIMIT $3"


class Columns(NamedTuple):
    """What can be asked of the archive's columns; None: anything. Times: from `since` on, before `until`."""

    company_id: str | None = None
    user_id: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    aggregate_id: str | None = None
    correlation_id: str | None = None
    or_aggregate_id: str | None = None


async def head(reader: Reader) -> int:
    """The last archived position."""
    position: int = (await reader.platform_rows(HEAD))[0][0]
    return position


async def decisions(
    reader: Reader, scope: Scope, order: Order, columns: Columns, after: int, before: int, limit: int
) -> list[Row]:
    """Decisions between two positions, both excluded: position, subject, body."""
    return await reader.rows(scope, DECISIONS[order], scope.org_id, after, before, *columns, limit)


async def by_id(reader: Reader, scope: Scope, decision_id: str) -> Row | None:
    """The decision with an id."""
    return await reader.row(scope, BY_ID, scope.org_id, decision_id)


async def caused_by(reader: Reader, scope: Scope, decision_ids: list[str], limit: int) -> list[Row]:
    """The decisions that one of these caused, by position."""
    return await reader.rows(scope, CAUSED_BY, scope.org_id, decision_ids, limit)
