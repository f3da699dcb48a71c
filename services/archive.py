"""The archive as command service and worker read it: through a pool that is made when the hot log was trimmed."""

import asyncio

import asyncpg
from nats.aio.client import Client

from events.archive import Archive
from events.errors import UnavailableError
from events.history import WholeLog
from events.settings import Settings

POOL_MAX = 4
TIMEOUT_S = 10.0


class ArchiveReader:
    """Opens the archive once it is needed; `close` gives the connections back."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    def log(self, connection: Client) -> WholeLog:
        """The log with the archive behind it, when this process has a login for that."""
        return WholeLog(connection, self.open if self._settings.database_url is not None else None, compares=True)

    async def open(self, _org_id: str) -> Archive:
        """The archive. Raises UnavailableError."""
        async with self._opening:
            if self._pool is None:
                self._pool = await self._connect()
        return Archive(self._pool)

    async def close(self) -> None:
        """Close the pool, if there is one."""
        if self._pool is not None:
            await self._pool.close()

    async def _connect(self) -> asyncpg.Pool:
        pooled = self._settings.database_pooling == "transaction"
        try:
            return await asyncpg.create_pool(
                self._settings.database_dsn,
                min_size=0,
                max_size=POOL_MAX,
                timeout=TIMEOUT_S,
                command_timeout=TIMEOUT_S,
                statement_cache_size=0 if pooled else 100,
            )
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            host = self._settings.database_dsn.rpartition("@")[2]
            raise UnavailableError(f"Postgres does not answer at {host}: {error!r}") from error
