"""Running the named SQL. Works through a transaction pooler: one statement at a time, no session state."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import asyncpg

from events.errors import ConfigurationError, UnavailableError

Row = asyncpg.Record

ACQUIRE_TIMEOUT_S = 5.0
QUERY_TIMEOUT_S = 15.0

T = TypeVar("T")

_NOT_THERE = (
    asyncpg.InternalClientError,
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


class Reader:
    """Reads through a pool. Every method raises UnavailableError when the database does not answer."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def rows(self, sql: str, *arguments: Any) -> list[Row]:
        """All rows."""
        return await _answered(self._rows(sql, arguments))

    async def row(self, sql: str, *arguments: Any) -> Row | None:
        """The first row, or None."""
        found = await self.rows(sql, *arguments)
        return found[0] if found else None

    async def value(self, sql: str, *arguments: Any) -> Any:
        """The first column of the first row, or None."""
        found = await self.row(sql, *arguments)
        return None if found is None else found[0]

    async def _rows(self, sql: str, arguments: tuple[Any, ...]) -> list[Row]:
        async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            return await connection.fetch(sql, *arguments, timeout=QUERY_TIMEOUT_S)


async def _answered(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except _NOT_THERE as error:
        raise UnavailableError("The database does not answer.") from error
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise ConfigurationError("The database has no read models of this version; run `dex migrate`.") from error
