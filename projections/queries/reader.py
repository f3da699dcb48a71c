"""Running the named SQL: what is a tenant's within its scope, in one transaction, under row-level security.

Works through a transaction pooler: no session state, and what a transaction set ends with it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from events.errors import ConfigurationError, UnavailableError
from events.ids import is_id

Row = asyncpg.Record

ACQUIRE_TIMEOUT_S = 5.0
QUERY_TIMEOUT_S = 15.0
UNBOUNDED = 2**31
WHOLE_ORG = "all"
BEHIND = "DEX01"
"""What data_engine.require_position raises."""

T = TypeVar("T")

_NOT_THERE = (
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a transaction may see: an org, or one company of it (None: the whole org).

    Postgres itself holds it (migrations/0002_tenancy.sql); the queries' own conditions are the first lock, and this is
    the second. With `min_position`, a query fails unless the read models have it, in the query's own transaction.
    Raises ValueError for what is not an id: the text goes into SQL.
    """

    org_id: str
    company_id: str | None = None
    min_position: int | None = None

    def __post_init__(self) -> None:
        if not is_id(self.org_id) or not (self.company_id is None or is_id(self.company_id)):
            raise ValueError("a scope is made of ids")

    @property
    def statements(self) -> str:
        """The SQL that sets it for one transaction."""
        company = self.company_id or WHOLE_ORG
        scope = f"SET LOCAL data_engine.org_id = '{self.org_id}'; SET LOCAL data_engine.company_id = '{company}'"
        return scope + (f"; SELECT data_engine.require_position({self.min_position:d})" if self.min_position else "")


class Reader:
    """Reads through a pool. Every method raises UnavailableError when the database does not answer.

    One org has `per_org_max` connections of it at most, so that its slow queries hold up its own and nobody else's.
    """

    def __init__(self, pool: asyncpg.Pool, per_org_max: int = UNBOUNDED) -> None:
        self._pool = pool
        self._per_org_max = per_org_max
        self._shares: dict[str, asyncio.Semaphore] = {}
        self.under_way: Counter[str] = Counter()
        """Queries of each org, those that wait for a connection included."""

    async def rows(self, scope: Scope, sql: str, *arguments: Any) -> list[Row]:
        """All rows that the scope may see."""
        return await _answered(self._scoped(scope, sql, arguments))

    async def row(self, scope: Scope, sql: str, *arguments: Any) -> Row | None:
        """The first row, or None."""
        found = await self.rows(scope, sql, *arguments)
        return found[0] if found else None

    async def platform_rows(self, sql: str, *arguments: Any) -> list[Row]:
        """All rows of what belongs to no tenant, or of a function that finds out whose a credential is."""
        return await _answered(self._unscoped(sql, arguments))

    async def write(self, scope: Scope, sql: str, *arguments: Any) -> None:
        """One of the few writes of the gateway's own, within the scope."""
        await _answered(self._scoped(scope, sql, arguments, mode="READ WRITE"))

    async def _scoped(self, scope: Scope, sql: str, arguments: tuple[Any, ...], mode: str = "READ ONLY") -> list[Row]:
        """One transaction, begun together with what it sets: a round trip less than asyncpg's own.

        When it is left by an exception, or cancelled, the pool rolls it back (projections.database).
        """
        async with self._share(scope.org_id), self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            await connection.execute(f"BEGIN {mode}; {scope.statements}", timeout=QUERY_TIMEOUT_S)
            rows: list[Row] = await connection.fetch(sql, *arguments, timeout=QUERY_TIMEOUT_S)
            await connection.execute("COMMIT", timeout=QUERY_TIMEOUT_S)
            return rows

    @asynccontextmanager
    async def _share(self, org_id: str) -> AsyncIterator[None]:
        """The org's turn to take a connection. Raises UnavailableError."""
        share = self._shares.get(org_id)
        if share is None:
            share = self._shares[org_id] = asyncio.Semaphore(self._per_org_max)
        self.under_way[org_id] += 1
        try:
            try:
                async with asyncio.timeout(ACQUIRE_TIMEOUT_S if share.locked() else None):
                    await share.acquire()
            except TimeoutError as error:
                raise UnavailableError("The org asks for too much at the same time; ask again.") from error
            try:
                yield
            finally:
                share.release()
        finally:
            self.under_way[org_id] -= 1
            if not self.under_way[org_id]:
                del self.under_way[org_id], self._shares[org_id]

    async def _unscoped(self, sql: str, arguments: tuple[Any, ...]) -> list[Row]:
        async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            return await connection.fetch(sql, *arguments, timeout=QUERY_TIMEOUT_S)


class BehindError(UnavailableError):
    """The read models are not at the scope's `min_position`: a crash of the database took them back for a moment."""

    code = "projection_behind"


async def _answered(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except _NOT_THERE as error:
        raise UnavailableError("The database does not answer.") from error
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError) as error:
        raise ConfigurationError("The database has no read models of this version; run `dex migrate`.") from error
    except asyncpg.PostgresError as error:
        if error.sqlstate == BEHIND:
            raise BehindError("The read models are not at that position; ask again.") from error
        raise
