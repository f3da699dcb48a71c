"""Reading the permanent archive of the log (migrations/0005_archive.sql): the same decisions, by the same positions.

Only the archiver writes it (projections/archive). Whoever reads the log as a whole reads the archive for what the
hot log no longer has (events/history.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import asyncpg

from events.errors import ConfigurationError, UnavailableError
from events.keyring import Keyring
from events.leaf import NO_CHAIN
from events.mapper import decision_id_of, decode_decision
from events.model import Recorded


class Database(Protocol):
    """What is read through: an asyncpg pool or connection; or a reader that is bound to a tenant."""

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows of a query."""


PAGE_ROWS = 1000

HEAD = "SELECT epoch, position, chain FROM data_engine.event_log_head"
READ = """
SELECT position, recorded_at, subject, body FROM data_engine.event_log
WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3
"""
READ_OF_ORG = READ.replace("ORDER BY", "AND org_id = $4::text::uuid ORDER BY")
# By the index on the aggregate; the subject says the rest exactly, also for the platform's, which have no org's uuid.
HISTORY = """
SELECT position, recorded_at, subject, body FROM data_engine.event_log
WHERE aggregate_id = $1 AND starts_with(subject, $2) ORDER BY version, position
"""
# Of all aggregates of a kind that belong to the platform: there are few.
HISTORIES = """
SELECT position, recorded_at, subject, body FROM data_engine.event_log
WHERE org_id IS NULL AND kind = $1 AND starts_with(subject, $2) ORDER BY position
"""
HOLDER = """
SELECT position, recorded_at, subject, body FROM data_engine.event_log
WHERE aggregate_id = $1 AND version = $2 AND starts_with(subject, $3) ORDER BY position LIMIT 1
"""
# In the words of the partial index (migrations/0011_erasures.sql).
ERASURES = """
SELECT position, recorded_at, subject, body FROM data_engine.event_log
WHERE kind = 'company' AND subject LIKE '%.log.erased' AND position > $1 AND position <= $2 ORDER BY position LIMIT $3
"""
FROM = "SELECT position, recorded_at FROM data_engine.event_log WHERE position >= $1 ORDER BY position LIMIT 1"

_END = 2**63 - 1
_NOT_THERE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


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
    """The archive, read only. Raises UnavailableError when the database does not answer, and ConfigurationError when it
    has no archive, or not for this login."""

    def __init__(self, database: Database, keyring: Keyring | None = None) -> None:
        self._db = database
        self._keyring = keyring or Keyring()

    def with_keys(self, keyring: Keyring) -> "Archive":
        """The same archive, for somebody who can open what is sealed."""
        return Archive(self._db, keyring)

    async def head(self) -> ArchiveHead:
        """Where the archive ends; position 0 when nothing was archived yet."""
        rows = await self._fetch(HEAD)
        return ArchiveHead(**rows[0]) if rows else ArchiveHead()

    async def last_id(self, head: ArchiveHead) -> str:
        """The id of the decision at the archive's head; "" when it has none there."""
        last = await self.read(head.position - 1, head.position)
        return decision_id_of(last[0].body) if last else ""

    async def read(
        self, after: int, until: int | None = None, limit: int = PAGE_ROWS, *, org_id: str | None = None
    ) -> list[Archived]:
        """The messages after a position, in order; up to `until`, at most `limit`, and only an org's if it is given."""
        until = _END if until is None else until
        if org_id is None:
            rows = await self._fetch(READ, after, until, limit)
        else:
            rows = await self._fetch(READ_OF_ORG, after, until, limit, org_id)
        return [Archived(**row) for row in rows]

    async def erasures(self, after: int, until: int, limit: int = PAGE_ROWS) -> list[Archived]:
        """The decisions that erased companies, after a position up to another, in order."""
        return [Archived(**row) for row in await self._fetch(ERASURES, after, until, limit)]

    async def history(self, org_id: str, kind: str, aggregate_id: str) -> list[Recorded]:
        """The archived decisions of one aggregate, by version; of all of the platform's of a kind, when the id is `*`.
        Raises PoisonedMessageError."""
        if aggregate_id == "*":
            return await self._decoded(await self._fetch(HISTORIES, kind, f"events.{org_id}.{kind}."))
        return await self._decoded(await self._fetch(HISTORY, aggregate_id, f"events.{org_id}.{kind}.{aggregate_id}."))

    async def holder(self, org_id: str, kind: str, aggregate_id: str, version: int) -> Recorded | None:
        """The archived decision that holds a version; None when the archive has none. Raises PoisonedMessageError."""
        found = await self._decoded(await self._holders(org_id, kind, aggregate_id, version))
        return found[0] if found else None

    async def stored(self, org_id: str, kind: str, aggregate_id: str, version: int) -> Archived | None:
        """What holds a version, as it was recorded: also what cannot be read here. None when the archive has none."""
        rows = await self._holders(org_id, kind, aggregate_id, version)
        return Archived(**rows[0]) if rows else None

    async def holds(self, org_id: str, kind: str, aggregate_id: str, version: int) -> bool:
        """Whether the archive has a decision at a version."""
        return await self.holder(org_id, kind, aggregate_id, version) is not None

    async def position_at(self, time: datetime) -> int:
        """The last position that was recorded at or before a time (with a zone), of what the reader may see; else 0."""
        # halved again and again: times grow with positions, and no index on the time is needed
        known, last = 0, (await self.head()).position
        while known < last:
            middle = (known + last + 1) // 2
            rows = await self._fetch(FROM, middle)
            if rows and rows[0]["recorded_at"] <= time:
                known = rows[0]["position"]
            else:
                last = middle - 1
        return known

    async def _holders(self, org_id: str, kind: str, aggregate_id: str, version: int) -> list[Any]:
        prefix = f"events.{org_id}.{kind}.{aggregate_id}.{version}."
        return await self._fetch(HOLDER, aggregate_id, version, prefix)

    async def _decoded(self, rows: Sequence[Any]) -> list[Recorded]:
        await self._keyring.load((row["subject"], row["body"]) for row in rows)
        return [
            Recorded(row["position"], decode_decision(row["subject"], row["body"], self._keyring), row["recorded_at"])
            for row in rows
        ]

    async def _fetch(self, sql: str, *arguments: Any) -> list[Any]:
        try:
            return await self._db.fetch(sql, *arguments)
        except (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError) as error:
            raise ConfigurationError(f"The archive cannot be read: {error}. Run: dex migrate") from error
        except _NOT_THERE as error:
            raise UnavailableError(f"The archive does not answer: {error!r}") from error
