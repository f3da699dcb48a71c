"""Reading the permanent archive of the log (migrations/0005_archive.sql): the same decisions, by the same positions.

Only the archiver writes it (projections/archive). Whoever reads the log as a whole reads the archive for what the
hot log no longer has (events/history.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from events.leaf import NO_CHAIN
from events.mapper import decode_decision
from events.model import Recorded

Reader = asyncpg.Pool | asyncpg.Connection | PoolConnectionProxy
"""A pool; or one connection, as of a transaction that is bound to a tenant."""

PAGE_ROWS = 1000

HEAD = "SELECT epoch, position, chain FROM data_engine.event_log_head"
READ = """
SELECT position, recorded_at, subject, body FROM data_engine.event_log
WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3
"""
# By the index on the aggregate; the subject says the rest exactly, also for the platform's, which have no org's uuid.
HISTORY = """
SELECT position, subject, body FROM data_engine.event_log
WHERE aggregate_id = $1 AND starts_with(subject, $2) ORDER BY version, position
"""
HOLDER = """
SELECT position, subject, body FROM data_engine.event_log
WHERE aggregate_id = $1 AND version = $2 AND starts_with(subject, $3) ORDER BY position LIMIT 1
"""
FROM = "SELECT position, recorded_at FROM data_engine.event_log WHERE position >= $1 ORDER BY position LIMIT 1"

_END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ArchiveHead:
    """Where the archive ends: the last position, the chain of digests up to it, and the log's epoch."""

    epoch: str = ""
    position: int = 0
    chain: bytes = NO_CHAIN


@dataclass(frozen=True, slots=True)
class Archived:
    """One message of the log as it was recorded, byte for byte."""

    position: int
    recorded_at: datetime
    subject: str
    body: bytes


class Archive:
    """The archive, read only. Errors of the database are asyncpg's own, and OSError."""

    def __init__(self, database: Reader) -> None:
        self._db = database

    async def head(self) -> ArchiveHead:
        """Where the archive ends; position 0 when nothing was archived yet."""
        row = await self._db.fetchrow(HEAD)
        return ArchiveHead(**row) if row is not None else ArchiveHead()

    async def read(self, after: int, until: int | None = None, limit: int = PAGE_ROWS) -> list[Archived]:
        """The messages after a position, in order; up to `until`, and at most `limit`."""
        rows = await self._db.fetch(READ, after, _END if until is None else until, limit)
        return [Archived(**row) for row in rows]

    async def history(self, org_id: str, kind: str, aggregate_id: str) -> list[Recorded]:
        """The archived decisions of one aggregate, by version. Raises PoisonedMessageError."""
        return _decoded(await self._db.fetch(HISTORY, aggregate_id, f"events.{org_id}.{kind}.{aggregate_id}."))

    async def holder(self, org_id: str, kind: str, aggregate_id: str, version: int) -> Recorded | None:
        """The archived decision that holds a version; None when the archive has none. Raises PoisonedMessageError."""
        prefix = f"events.{org_id}.{kind}.{aggregate_id}.{version}."
        found = _decoded(await self._db.fetch(HOLDER, aggregate_id, version, prefix))
        return found[0] if found else None

    async def holds(self, org_id: str, kind: str, aggregate_id: str, version: int) -> bool:
        """Whether the archive has a decision at a version."""
        return await self.holder(org_id, kind, aggregate_id, version) is not None

    async def position_at(self, time: datetime) -> int:
        """The last position that was recorded at or before a time (with a zone), of what the reader may see; else 0."""
        # halved again and again: times grow with positions, and no index on the time is needed
        known, last = 0, (await self.head()).position
        while known < last:
            middle = (known + last + 1) // 2
            row = await self._db.fetchrow(FROM, middle)
            if row is not None and row["recorded_at"] <= time:
                known = row["position"]
            else:
                last = middle - 1
        return known


def _decoded(rows: Sequence[asyncpg.Record]) -> list[Recorded]:
    return [Recorded(row["position"], decode_decision(row["subject"], row["body"])) for row in rows]
