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

_WANTED = """
  AND position > $3 AND position < $4 AND NOT (kind = ANY($6::text[]))
  AND ($7::uuid IS NULL OR user_id = $7::uuid) AND ($8::text IS NULL OR kind = $8::text)
  AND ($9::text IS NULL OR (aggregate_id = $9::text AND kind = 'run'))
  AND ($10::text IS NULL OR correlation_id = $10::text OR (aggregate_id = $11::text AND kind = 'run'))
  AND ($12::timestamptz IS NULL OR recorded_at >= $12::timestamptz)
  AND ($13::timestamptz IS NULL OR recorded_at < $13::timestamptz)
"""

FORWARD = f"{_DECISIONS}{_WANTED} ORDER BY position LIMIT $5"
BACKWARD = f"{_DECISIONS}{_WANTED} ORDER BY position DESC LIMIT $5"

AT = f"{_DECISIONS} AND position = $3"
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
) -> list[Archived]:
    """Archived decisions between two positions (both excluded) that match, but for their topics; at most `limit`."""
    rows = await reader.rows(
        scope,
        BACKWARD if newest_first else FORWARD,
        scope.org_id,
        scope.company_id,
        after,
        before,
        limit,
        sorted(filters.hidden),
        filters.user_id,
        filters.kind,
        filters.run_id,
        filters.submission_id,
        None if filters.submission_id is None else first_run_id(filters.submission_id),
        filters.recorded_from,
        filters.recorded_until,
    )
    return _archived(rows)


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
