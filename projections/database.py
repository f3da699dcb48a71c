"""The pool of Postgres connections, as every process of ours opens it."""

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from events.errors import UnavailableError
from events.settings import Settings

CONNECT_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0
STATEMENTS_KEPT = 200

Database = asyncpg.Connection | PoolConnectionProxy
"""One connection, of a pool or not."""


async def create_pool(settings: Settings) -> asyncpg.Pool:
    """A bounded pool. Behind a transaction pooler no prepared statement is kept. Raises UnavailableError."""
    pooled = settings.database_pooling == "transaction"
    try:
        return await asyncpg.create_pool(
            settings.database_dsn,
            min_size=1,
            max_size=settings.database_pool_max,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            statement_cache_size=0 if pooled else STATEMENTS_KEPT,
            reset=_reset,
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        host = settings.database_dsn.rpartition("@")[2]
        raise UnavailableError(f"Postgres does not answer at {host}: {error!r}") from error


async def _reset(connection: asyncpg.Connection) -> None:
    """Roll back what was left by an exception. Nothing else of ours is ever left in a session, and asking for more
    costs a round trip at each release."""
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")
