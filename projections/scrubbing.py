"""Removing from Postgres's files what is left there of erased companies: `dex keys scrub`.

A row that is deleted stays in its page until the table is rewritten, a value that was frequent in pg_statistic, and
both in the write-ahead log. So, in this order: copies of the read models that an operator made, the tables (VACUUM
FULL), the statistics, the WAL (projections/server_files.py). Whatever could not be reached is told, with what to do.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
from nats.aio.client import Client

from events import subjects
from events.errors import StateConflictError
from events.keys import Owner
from events.log import EventLog
from projections import checkpoints
from projections.base import LIVE_SCHEMA, Projection
from projections.catalogue import EARLIER, PROJECTIONS
from projections.database import Database
from projections.generations import live_checkpoints
from projections.moment import MARK
from projections.rebuild import SHADOW_SCHEMA
from projections.server_files import overwrite_wal, tell_orphans, values_logged

RETRY_S = 0.5

ERASED = f"SELECT org_id::text, company_id::text FROM {LIVE_SCHEMA}.companies_v1 WHERE erased_at IS NOT NULL"
LAST_ERASED = f"SELECT coalesce(max(erased_position), 0) FROM {LIVE_SCHEMA}.companies_v1"
REMEMBER = f"COMMENT ON TABLE {LIVE_SCHEMA}.companies_v1 IS 'Companies; scrubbed of those erased up to %d.'"
NOT_SCRUBBED = f"""
SELECT count(*) FROM {LIVE_SCHEMA}.companies_v1 WHERE erased_position > coalesce(
    substring(obj_description('{LIVE_SCHEMA}.companies_v1'::regclass) FROM 'erased up to ([0-9]+)')::bigint, 0)
"""
COPIES = """
SELECT nspname FROM pg_namespace WHERE starts_with(coalesce(obj_description(oid, 'pg_namespace'), ''), $1) ORDER BY 1
"""
HAS_TABLE = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = $2)"
HAS_SCHEMA = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"
SIZE = "SELECT pg_total_relation_size($1::regclass)"
CLEARS_STATISTICS = "SELECT to_regproc('pg_catalog.pg_clear_attribute_stats') IS NOT NULL"  # from PostgreSQL 18 on
CLEAR_STATISTICS = """
SELECT pg_catalog.pg_clear_attribute_stats(schemaname, tablename, attname, inherited) FROM pg_stats
WHERE schemaname = $1 AND tablename = $2
"""
IS_EMPTY_WITH_STATISTICS = """
SELECT EXISTS (SELECT FROM pg_stats WHERE schemaname = $1 AND tablename = $2) AND NOT EXISTS (SELECT FROM {table})
"""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A table that has nothing but its live rows now; sizes with indexes and TOAST."""

    table: str
    before_bytes: int
    after_bytes: int
    seconds: float


@dataclass(slots=True)
class Scrubbed:
    """What was done. `left`: what may still hold plain text, and can be mended; `elsewhere`: what is out of reach."""

    companies: int
    copies: list[str] = field(default_factory=list)
    tables: list[Rewritten] = field(default_factory=list)
    wal_segments: int = 0
    left: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


Show = Callable[[str, int, int], None]
"""Is told what is being done, and how much of how much."""


async def scrub(
    database: asyncpg.Connection,
    connection: Client,
    show: Show = lambda _what, _at, _of: None,
    *,
    lock_timeout_s: float,
    wait_s: float,
) -> Scrubbed:
    """Rewrite what held rows of erased companies. Done again, or after it was killed, it does all of it again.

    Each table is locked while it is rewritten: queries and the projector wait. A lock that is not had within
    `lock_timeout_s` is asked for again, and so is a table of which an older transaction still sees deleted rows, for
    `wait_s` at most. `database` is the owner's connection, whose session settings are changed. Raises
    StateConflictError when an erasure is not in the read models yet.
    """
    await _must_be_projected(database, connection)
    return await _Scrubbing(database, show, lock_timeout_s, wait_s).run()


async def erased_companies(database: Database) -> list[Owner]:
    """The tombstones."""
    return [Owner(row["org_id"], row["company_id"]) for row in await database.fetch(ERASED)]


async def not_scrubbed(database: Database | asyncpg.Pool) -> int:
    """How many companies were erased since the files were last scrubbed as a whole."""
    count: int = await database.fetchval(NOT_SCRUBBED)
    return count


async def _must_be_projected(database: Database, connection: Client) -> None:
    position = 0  # what was trimmed off the log is behind every projection
    async for recorded in EventLog(connection).read(0, subjects.ERASURES):
        position = recorded.position
    _, live = await live_checkpoints(database)
    reached = checkpoints.lowest(live)
    if reached < position:
        raise StateConflictError(
            f"The company that was erased at position {position:,} is still in the read models, which are at "
            f"{reached:,}. Start the projector (dex status), and run this again.",
            code="not_projected",
        )


class _Scrubbing:
    """One pass over a database, by one connection."""

    def __init__(self, database: asyncpg.Connection, show: Show, lock_timeout_s: float, wait_s: float) -> None:
        self._db = database
        self._show = show
        self._lock_timeout_s = lock_timeout_s
        self._wait_s = wait_s
        self._told: list[asyncpg.PostgresLogMessage] = []
        self._result = Scrubbed(0)

    async def run(self) -> Scrubbed:
        """All of it. Stopped at any moment, what was done stays done."""
        result = self._result
        self._db.add_log_listener(lambda _, message: self._told.append(message))
        await self._db.execute(f"SET lock_timeout = {int(self._lock_timeout_s * 1000)}; SET statement_timeout = 0")
        erased = [owner.company_id for owner in await erased_companies(self._db)]
        result.companies, last = len(erased), await self._db.fetchval(LAST_ERASED)
        if not erased:
            return result
        result.copies = [row["nspname"] for row in await self._db.fetch(COPIES, MARK)]
        if await self._db.fetchval(HAS_SCHEMA, SHADOW_SCHEMA):
            result.left.append(
                f"There is a schema {SHADOW_SCHEMA}: a rebuild is running, or one was killed. Wait for it, or run "
                "`dex rebuild`, which removes it; then run this again."
            )
        schemas = (LIVE_SCHEMA, *result.copies)
        for schema in schemas:
            await self._forget(schema, erased)
        await self._rewrite_tables([pair for schema in schemas for pair in await self._tables(schema)])
        await overwrite_wal(self._db, result, self._show)
        await tell_orphans(self._db, result)
        await self._look_elsewhere()
        if not result.left:
            await self._db.execute(REMEMBER % last)
        return result

    async def _forget(self, schema: str, erased: Sequence[str]) -> None:
        """Remove erased companies from a copy, which was made before; in what is live there is nothing to remove, but
        for generations that went out of service under an earlier version."""
        async with self._db.transaction():
            for projection in (*PROJECTIONS, *EARLIER):
                if projection.erase and await self._has_tables(schema, projection):
                    for sql in projection.erase:
                        await self._db.execute(sql.replace("{schema}", f'"{schema}"'), erased)

    async def _has_tables(self, schema: str, projection: Projection) -> bool:
        return all([await self._db.fetchval(HAS_TABLE, schema, table.name) for table in projection.tables])

    async def _tables(self, schema: str) -> list[tuple[str, str]]:
        """Those that have rows of companies, or had."""
        names = [table.name for p in (*PROJECTIONS, *EARLIER) if p.erase for table in p.tables]
        names.append("projection_dead_letters")
        return [(schema, name) for name in names if await self._db.fetchval(HAS_TABLE, schema, name)]

    async def _rewrite_tables(self, tables: Sequence[tuple[str, str]]) -> None:
        clears = await self._db.fetchval(CLEARS_STATISTICS)
        for number, (schema, name) in enumerate(tables):
            table = f'"{schema}".{name}'
            self._show(f"rewriting {schema}.{name}", number, len(tables) + 1)
            try:
                await self._rewrite(table, "FULL, VERBOSE, ANALYZE", clears=(schema, name) if clears else None)
                if not clears:
                    await self._tell_statistics(schema, name, table)
            except asyncpg.UndefinedTableError:
                continue  # a copy that was dropped meanwhile
        self._show("rewriting pg_statistic", len(tables), len(tables) + 1)
        await self._rewrite("pg_catalog.pg_statistic", "FULL, VERBOSE")

    async def _tell_statistics(self, schema: str, name: str, table: str) -> None:
        """Before PostgreSQL 18, what is known of a table goes when there are rows to know something else of."""
        if await self._db.fetchval(IS_EMPTY_WITH_STATISTICS.replace("{table}", table), schema, name):
            self._result.left.append(
                f"{schema}.{name} is empty, so that ANALYZE left what pg_statistic has of it. Run this again once it "
                "has rows."
            )

    async def _rewrite(self, table: str, options: str, clears: tuple[str, str] | None = None) -> None:
        """VACUUM FULL, again until nobody's old snapshot made the server keep deleted rows, or the time is up."""
        before_bytes, began_s = await self._db.fetchval(SIZE, table), time.monotonic()
        while (why := await self._vacuum(table, options, clears)) is not None:
            if time.monotonic() - began_s >= self._wait_s:
                self._result.left.append(f"{_plain(table)}: {why}")
                return
            await asyncio.sleep(RETRY_S)  # the pause between two attempts
        after_bytes = await self._db.fetchval(SIZE, table)
        self._result.tables.append(Rewritten(_plain(table), before_bytes, after_bytes, time.monotonic() - began_s))

    async def _vacuum(self, table: str, options: str, clears: tuple[str, str] | None) -> str | None:
        """Why the table may still have deleted rows; None when it has none."""
        self._told.clear()
        try:
            if clears:
                await self._db.fetch(CLEAR_STATISTICS, *clears)
            await self._db.execute(f"VACUUM ({options}) {table}")
        except asyncpg.LockNotAvailableError:
            return (
                f"it was in use for longer than {self._lock_timeout_s:g} s each time that it was to be rewritten. Run "
                "this again at a quieter time, or with a longer --lock-timeout-s."
            )
        for message in self._told:
            if message.severity_en == "WARNING":
                return f"{message.message}. Run this as the owner of the database."
        kept = [int(found.group()) for m in self._told if m.detail and (found := re.search(r"\d+", m.detail))]
        if not kept:
            return "the server did not say whether it was rewritten"
        if max(kept):
            return (
                f"{max(kept):,} deleted rows are still seen by an older transaction, a replication slot or a standby "
                "(pg_stat_activity.backend_xmin, pg_replication_slots.xmin). End it, and run this again."
            )
        return None

    async def _look_elsewhere(self) -> None:
        """Copies of the WAL, and of values, that are in nobody's reach from here."""
        tell = self._result.elsewhere.append
        if await self._db.fetchval("SELECT current_setting('archive_mode') <> 'off'"):
            tell(
                "The server archives its WAL: what it archived until now has the rows until your retention removes it."
            )
        for row in await self._db.fetch("SELECT application_name FROM pg_stat_replication"):
            tell(
                f"A standby or a backup follows the WAL ({row['application_name'] or 'no name'}), and has its own copy."
            )
        for logged in await values_logged(self._db):
            tell(f"{logged.what}: {logged.todo}, and see to its logs.")


def _plain(table: str) -> str:
    return table.replace('"', "")
