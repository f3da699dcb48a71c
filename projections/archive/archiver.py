"""The archiver: follows the log and copies each message into the archive, in order and exactly once.

The head of the archive moves in the transaction that adds the rows, and only from where this archiver believes it to
be: whatever crashes, and however many archivers run, there is no gap and no double.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import cast

import asyncpg
import nats.errors
from nats.aio.client import Client

from events import metrics, strictjson, subjects
from events.archive import Archive, ArchiveHead
from events.errors import ConfigurationError, LogRewoundError, UnavailableError
from events.follow import Followed, follow
from events.logging import get_logger
from events.mapper import decision_id_of
from events.settings import Settings
from projections.archive.rows import COLUMNS, Row, rows_of
from projections.batch import rarer_collections
from projections.checkpoints import Checkpoint
from projections.database import create_pool
from projections.log_guard import RECOVERY, LogGuard
from projections.waiting import TROUBLE, pause, until

NAME = "the archive"
IDLE_CHECK_S = 5.0
PACE_S = 0.1
"""The pause after what was the log's end: one commit for what comes meanwhile, as nobody waits for the archive."""
BATCH_MAX = 5000
PARTITION_AHEAD = 1_000_000
"""So many positions before it is needed, a partition is made."""
AHEAD_AGAIN = 10_000
"""After so many positions more it is tried again, when somebody has been reading the archive for long."""

AFTER_COPY, BEFORE_COMMIT, AFTER_COMMIT = "after_copy", "before_commit", "after_commit"

# Unnested, because COPY is refused where row-level security is on.
INSERT = f"""
INSERT INTO data_engine.event_log ({", ".join(COLUMNS)})
SELECT * FROM unnest({", ".join(f"${n}::{kind}[]" for n, kind in enumerate(COLUMNS.values(), 1))})
"""
FIRST_HEAD = """
INSERT INTO data_engine.event_log_head (epoch, position, chain) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
MOVE_HEAD = """
UPDATE data_engine.event_log_head SET epoch = $1, position = $2, chain = $3
WHERE epoch = $4 AND position = $5 AND chain = $6
"""
ENSURE_PARTITION = "SELECT data_engine.ensure_event_log_partition($1)"
# To make one, nobody may read the archive, and who wants to read it then waits behind us.
BRIEFLY = "SET LOCAL lock_timeout = '1s'"

_WRONG_SCHEMA = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError)

_logger = get_logger("archiver")


class HeadMovedError(Exception):
    """The head of the archive is not where it was believed to be: another archiver runs, or a restoration did."""


async def run_archiver(
    settings: Settings, connection: Client, stop: asyncio.Event, *, archived: Callable[[], None] = lambda: None
) -> None:
    """Archive until `stop` is set; trouble with Postgres or NATS is waited out. `archived` is called at each commit.

    Raises LogRewoundError when the log is not the one that was archived, and ConfigurationError when the archive's
    tables are not there, or not for this login.
    """
    failures = 0
    while not stop.is_set():
        try:
            pool = await create_pool(settings)
        except UnavailableError as error:
            await pause(stop, failures, error)
            failures += 1
            continue
        with rarer_collections():
            async with pool:
                await Archiver(pool, connection, archived=archived).run(stop)


class Archiver:
    """Copies the log from the archive's head on. `reached` is told of named points, so that a test can crash there."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        connection: Client,
        *,
        reached: Callable[[str], None] = lambda _point: None,
        archived: Callable[[], None] = lambda: None,
        idle_check_s: float = IDLE_CHECK_S,
    ) -> None:
        self._pool = pool
        self._nc = connection
        self._reached = reached
        self._archived = archived
        self._idle_check_s = idle_check_s
        self._guard = LogGuard(connection)
        self._head = ArchiveHead()
        self._last_id = ""
        self._verified = False
        self._partitions_to = 0

    async def run(self, stop: asyncio.Event, until_position: int | None = None) -> None:
        """Archive until `stop` is set, or a position is reached. Raises LogRewoundError and ConfigurationError."""
        failures = 0
        while not stop.is_set():
            try:
                await self._begin()
                failures = 0
                if until_position is not None and self._head.position >= until_position:
                    return
                await self._follow(stop, until_position)
            except HeadMovedError as error:
                _logger.info("start_over", reason=str(error))
            except _WRONG_SCHEMA as error:
                raise ConfigurationError(f"The archive cannot be written: {error}. Run: dex migrate") from error
            except TROUBLE as error:
                metrics.ARCHIVER_RETRIES.inc()
                await pause(stop, failures, error)
                failures += 1

    async def _begin(self) -> None:
        """Where the archive ends, and whether the log is still the one that it is of."""
        archive = Archive(self._pool)
        self._head = await archive.head()
        self._last_id = await archive.last_id(self._head)
        await self._verify()
        await self._ensure_partitions(self._head.position)
        _logger.info("archiving", after=self._head.position)

    async def _follow(self, stop: asyncio.Event, until_position: int | None) -> None:
        messages = follow(
            self._nc,
            subjects.EVENTS,
            ["events.>"],
            self._head.position,
            BATCH_MAX,
            before_open=self._note_consumer,
        )
        closable = cast(AsyncGenerator[list[Followed], None], messages)
        async with aclosing(until(stop, closable, self._idle_check_s)) as batches:
            async for batch in batches:
                if batch is None:
                    await self._verify()
                    continue
                await self._check_continuity(batch)
                await self._archive(batch)
                if until_position is not None and self._head.position >= until_position:
                    return
                if not batch[-1].pending:
                    await asyncio.sleep(PACE_S)  # the window in which a batch grows

    async def _note_consumer(self, _after: int) -> None:
        self._verified = False

    async def _verify(self) -> None:
        """Raises LogRewoundError when the log is not the one that was archived."""
        checkpoint = Checkpoint(NAME, self._head.position, self._head.epoch, self._last_id)
        state = await self._guard.verify([checkpoint])
        if not self._head.position:
            self._head = ArchiveHead(state.epoch)
        self._measure(state.last_position - self._head.position)

    async def _check_continuity(self, messages: Sequence[Followed]) -> None:
        """Raises LogRewoundError when a position is missing; HeadMovedError when it was only left out on the way."""
        if not self._verified:
            await self._verify()
            self._verified = True
        for position, message in enumerate(messages, self._head.position + 1):
            if message.position == position:
                continue
            if await self._guard.decision_id_at(position):
                raise HeadMovedError(f"position {position} was left out")
            raise LogRewoundError(
                f"The log has a hole: position {position} is missing before {message.position}. {RECOVERY}",
                position=position,
            )

    async def _archive(self, messages: Sequence[Followed]) -> None:
        """Add the rows and move the head, both or neither."""
        await self._ensure_partitions(messages[-1].position)
        rows, chain = rows_of(messages, self._head.chain)
        head = ArchiveHead(self._head.epoch, messages[-1].position, chain)
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                await move_head(connection, self._head, head)  # first: its lock keeps a second archiver waiting
                await insert(connection, rows)
                self._reached(AFTER_COPY)
                self._reached(BEFORE_COMMIT)
            self._reached(AFTER_COMMIT)
        self._head, self._last_id = head, decision_id_of(messages[-1].body)
        metrics.ARCHIVER_BATCH.observe(len(messages))
        self._measure(messages[-1].pending)
        self._archived()
        await self._publish()

    async def _ensure_partitions(self, position: int) -> None:
        if position + PARTITION_AHEAD <= self._partitions_to:
            return
        await self._ensure_partition(position)
        try:
            await self._ensure_partition(position + PARTITION_AHEAD, BRIEFLY)
            self._partitions_to = position + 2 * PARTITION_AHEAD
        except asyncpg.LockNotAvailableError:
            _logger.info("partition_later", reason="somebody has been reading the archive for long")
            self._partitions_to = position + PARTITION_AHEAD + AHEAD_AGAIN

    async def _ensure_partition(self, position: int, settings: str = "") -> None:
        with suppress(asyncpg.DuplicateTableError):  # another archiver has just made it
            async with self._pool.acquire() as connection, connection.transaction():
                if settings:
                    await connection.execute(settings)
                await connection.execute(ENSURE_PARTITION, position)

    def _measure(self, behind: int) -> None:
        metrics.ARCHIVER_POSITION.set(self._head.position)
        metrics.ARCHIVER_LAG.set(behind)

    async def _publish(self) -> None:
        """Wake those who wait for the archive. A hint: one that is lost costs them time, and no truth."""
        try:
            await self._nc.publish(subjects.ARCHIVED, strictjson.dumps({"position": self._head.position}))
        except nats.errors.Error as error:
            _logger.debug("hint_lost", reason=repr(error))


async def insert(connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy, rows: Sequence[Row]) -> None:
    """Add rows to the archive, within the caller's transaction."""
    await connection.execute(INSERT, *map(list, zip(*rows, strict=True)))


async def move_head(
    connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy, before: ArchiveHead, after: ArchiveHead
) -> None:
    """Move the head within the caller's transaction. Raises HeadMovedError when it is not at `before`."""
    if not before.position:
        await connection.execute(FIRST_HEAD, before.epoch, 0, before.chain)
    moved = await connection.execute(
        MOVE_HEAD, after.epoch, after.position, after.chain, before.epoch, before.position, before.chain
    )
    if moved != "UPDATE 1":
        raise HeadMovedError(f"the archive's head is not at position {before.position} of {before.epoch!r} any more")
