"""Generations of a read model: a changed one is built beside the one in service, and replaces it in one transaction.

The one in service is the one whose checkpoint is not `building`. Queries read a view of the model's name, which the
switch turns to the new table; who queries meanwhile sees the one or the other, whole.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
from nats.aio.client import Client

from events.archive import Archive
from events.errors import LogRewoundError, StateConflictError
from events.follow import Followed
from events.keyring import keyring_of
from events.logging import get_logger
from projections import checkpoints
from projections.apply import apply
from projections.archive.reading import follow_whole
from projections.base import LIVE_SCHEMA, Projection, Table
from projections.batch import opened
from projections.catalogue import EARLIER, PROJECTIONS
from projections.checkpoints import Checkpoint, Checkpoints, CheckpointsMovedError
from projections.compare import LONG_STATEMENT_S, Difference, compare_columns
from projections.database import Database
from projections.log_guard import LogGuard
from projections.waiting import TROUBLE

BATCH_DECISIONS = 1000
BACKGROUND_REST = 1.0
"""What is in service has at least as much of the processor and the database as what is built beside it."""
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
SWITCH_WITHIN_S = 2.0
"""So long the switch waits for queries that read the view; those that come meanwhile wait behind it."""
SWITCH_RETRY_S = (2.0, 5.0, 10.0, 30.0, 60.0)

BEGIN = f"""
INSERT INTO {LIVE_SCHEMA}.projection_checkpoints (name, position, epoch, decision_id, building, building_since)
VALUES ($1, 0, '', '', true, now())
ON CONFLICT (name) DO NOTHING
RETURNING name
"""
EMPTY = f"DELETE FROM {LIVE_SCHEMA}.{{table}}"
IS_BUILDING = f"SELECT building FROM {LIVE_SCHEMA}.projection_checkpoints WHERE name = $1"
SAY = f"UPDATE {LIVE_SCHEMA}.projection_checkpoints SET building_message = $2 WHERE name = $1 AND building"
LOCK_TIMEOUT = f"SET LOCAL lock_timeout = {round(1000 * SWITCH_WITHIN_S)}"
LETTERS = f"SELECT position, reason FROM {LIVE_SCHEMA}.projection_dead_letters WHERE name = $1 ORDER BY position"
SWITCH = f"SELECT {LIVE_SCHEMA}.switch_generation($1, $2, $3)"
START_OVER = f"DELETE FROM {LIVE_SCHEMA}.projection_checkpoints WHERE building"

_logger = get_logger("generations")


@dataclass(frozen=True, slots=True)
class Succession:
    """A generation in service, and the one that is to follow it."""

    old: Projection
    new: Projection


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a building is: positions of the log, and since when this process is at it."""

    position: int
    total: int
    events: int
    seconds: float

    @property
    def events_per_s(self) -> float:
        """The rate so far."""
        return self.events / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Switched:
    """What came of a building: `position` is that of the switch, `rows` those that were compared."""

    old: str
    new: str
    position: int
    rows: int


class NotSwitchedError(StateConflictError):
    """The new generation is built and cannot take over: it could not apply a decision, or says other things."""

    code = "generation_not_switched"


Show = Callable[[BuildProgress], None]


async def in_service(database: Database, *, hold: bool = False) -> tuple[Projection, ...]:
    """The projections that queries are answered from: of each read model one generation. With `hold` that is so until
    the transaction ends."""
    serving = await checkpoints.serving(database, LIVE_SCHEMA, hold=hold)
    earlier = {projection.view: projection for projection in EARLIER if projection.name in serving}
    return tuple(p if p.name in serving else earlier.get(p.view, p) for p in PROJECTIONS)


async def live_checkpoints(database: Database) -> tuple[tuple[Projection, ...], Checkpoints]:
    """What is in service, and where each of them is; made at position 0 where there is no checkpoint yet.

    In one transaction, and while nobody switches: else the checkpoint of a generation that was just replaced would
    come back at position 0, and hold up whoever waits for a position.
    """
    async with database.transaction():
        serving = await in_service(database, hold=True)
        return serving, await checkpoints.load(database, LIVE_SCHEMA, [projection.name for projection in serving])


async def successions(database: Database) -> list[Succession]:
    """What is to be built beside what."""
    serving = await in_service(database)
    return [Succession(old, new) for old, new in zip(serving, PROJECTIONS, strict=True) if old is not new]


class Building:
    """Builds one generation beside another, from wherever it was left, and switches to it."""

    def __init__(self, pool: asyncpg.Pool, connection: Client, succession: Succession, *, rest_share: float) -> None:
        """`rest_share`: how long to pause after each batch, in times of what the batch took."""
        self._pool = pool
        self._nc = connection
        self._old, self._new = succession.old, succession.new
        self._rest_share = rest_share
        self._guard = LogGuard(connection)
        self._at = Checkpoint(self._new.name)
        self._events = 0
        self._began_s = time.perf_counter()

    async def run(self, show: Show = lambda _: None, *, accept_differences: bool = False) -> Switched:
        """Build and switch. Stopped at any moment, it goes on from there the next time.

        Raises NotSwitchedError, LogRewoundError, UnavailableError; CheckpointsMovedError when somebody else switched.
        """
        await self._begin()
        refused = 0
        while True:
            async with self._pool.acquire() as database:
                live = await checkpoints.read(database, LIVE_SCHEMA, [self._old.name])
                if self._old.name not in live:
                    raise CheckpointsMovedError(live)
                await self._build_to(database, live[self._old.name].position, show, self._rest_share)
            try:
                switched = await self._try_to_switch(show, accept_differences=accept_differences)
            except asyncpg.LockNotAvailableError:
                await self._say(f"It is built, and waits for a query that has been reading {self._new.view} for long.")
                await asyncio.sleep(SWITCH_RETRY_S[min(refused, len(SWITCH_RETRY_S) - 1)])  # others read and write
                refused += 1
                continue
            if switched is not None:
                return switched

    async def _say(self, message: str) -> None:
        """What `dex status` shows of it."""
        _logger.info("not_switched_yet", generation=self._new.name, reason=message)
        async with self._pool.acquire() as database:
            await database.execute(SAY, self._new.name, message)

    async def _begin(self) -> None:
        async with self._pool.acquire() as database, database.transaction():
            if await database.fetchval(BEGIN, self._new.name):
                for table in self._new.tables:
                    await database.execute(EMPTY.format(table=table.name), timeout=LONG_STATEMENT_S)
            await self._reload(database)
        state = await self._guard.verify([self._at])
        _logger.info("building", generation=self._new.name, after=self._at.position, of=state.last_position)

    async def _reload(self, database: Database) -> None:
        """Where the new generation is. Raises CheckpointsMovedError when it is in service already."""
        found = await checkpoints.read(database, LIVE_SCHEMA, [self._new.name])
        if not await database.fetchval(IS_BUILDING, self._new.name):
            raise CheckpointsMovedError(found)
        self._at = found[self._new.name]

    async def _build_to(self, database: Database, goal: int, show: Show, rest_share: float) -> None:
        """Apply the log up to a position that it has. Without rests this is the last part, whose commit is to hold."""
        if self._at.position >= goal:
            return
        state = await self._guard.state()
        async with aclosing(cast(Any, self._messages(self._at.position, state.epoch))) as batches:
            async for received in batches:
                began_s = time.perf_counter()
                wanted = [message for message in received if message.position <= goal]
                if wanted:
                    await self._apply(database, wanted, state.epoch, durable=not rest_share)
                    show(BuildProgress(self._at.position, goal, self._events, time.perf_counter() - self._began_s))
                if received[-1].position >= goal:
                    return
                await asyncio.sleep((time.perf_counter() - began_s) * rest_share)  # others have work too

    def _messages(self, after: int, epoch: str) -> Any:
        async def check_epoch(_: int) -> None:
            if (await self._guard.state()).epoch != epoch:
                raise LogRewoundError("The log was made anew while a read model was built from it. Begin again.")

        return follow_whole(Archive(self._pool), self._nc, after, BATCH_DECISIONS, before_open=check_epoch)

    async def _apply(self, database: Database, messages: Sequence[Followed], epoch: str, *, durable: bool) -> None:
        batch = await opened(messages, keyring_of(self._nc), {self._new.kind})
        at = {self._new.name: self._at}
        try:
            moved = await apply(database, LIVE_SCHEMA, [self._new], at, batch, epoch, durable=durable)
        except CheckpointsMovedError as error:
            if self._new.name not in error.found or error.found[self._new.name].position < self._at.position:
                raise
            self._at = error.found[self._new.name]  # another process builds it too
            return
        self._at = moved[self._new.name]
        self._events += sum(batch.count_events().values())

    async def _try_to_switch(self, show: Show, *, accept_differences: bool) -> Switched | None:
        """In one transaction: both stand still, the rest is applied, both are compared, the new one is in service.

        None when there is more to apply than anybody should wait for. Raises LockNotAvailableError when somebody reads
        the view for longer than SWITCH_WITHIN_S: nothing is changed then, and nobody waits any more.
        """
        async with self._pool.acquire() as database:
            try:
                async with database.transaction():
                    return await self._switch(database, show, accept_differences=accept_differences)
            except NotSwitchedError as error:
                await database.execute(SAY, self._new.name, error.message)
                raise

    async def _switch(self, database: Database, show: Show, *, accept_differences: bool) -> Switched | None:
        locked = await checkpoints.lock(database, LIVE_SCHEMA, [self._old.name, self._new.name])
        if len(locked) < 2:
            raise CheckpointsMovedError(locked)
        self._at, live = locked[self._new.name], locked[self._old.name]
        if live.position - self._at.position > BATCH_DECISIONS:
            return None
        await self._build_to(database, live.position, show, 0)
        await self._refuse_dead_letters(database)
        differences = [
            await self._compared(database, old, new)
            for old, new in zip(self._old.tables, self._new.tables, strict=True)
        ]
        if not accept_differences:
            _refuse_differences(self._old.name, self._new.name, differences)
        await checkpoints.move(
            database, LIVE_SCHEMA, [Checkpoint(self._new.name, live.position, live.epoch, live.decision_id)]
        )
        await database.execute(LOCK_TIMEOUT)
        await database.execute(SWITCH, self._new.view, self._old.name, self._new.name, timeout=LONG_STATEMENT_S)
        _logger.info("switched", old=self._old.name, new=self._new.name, position=live.position)
        return Switched(self._old.name, self._new.name, live.position, sum(d.rows for d in differences))

    async def _refuse_dead_letters(self, database: Database) -> None:
        for letter in await database.fetch(LETTERS, self._new.name):
            raise NotSwitchedError(
                f"{self._new.name} could not apply the decision at position {letter['position']}: {letter['reason']} "
                f"{self._old.name} stays in service."
            )

    async def _compared(self, database: Database, old: Table, new: Table) -> Difference:
        return await compare_columns(database, LIVE_SCHEMA, old, new)


def _refuse_differences(old: str, new: str, differences: Sequence[Difference]) -> None:
    for difference in differences:
        if not difference.none:
            samples = ", ".join((*difference.sample_live, *difference.sample_rebuilt))
            raise NotSwitchedError(
                f"In the columns that {old} and {new} share they differ ({difference.only_live} and "
                f"{difference.only_rebuilt} rows; first keys: {samples}). {old} stays in service. If that is what was "
                f"meant: dex rebuild {new.rpartition('_v')[0]} --to {new.rpartition('_')[2]} --accept-differences"
            )


async def build_in_background(pool: asyncpg.Pool, connection: Client, rest_share: float = BACKGROUND_REST) -> None:
    """Build every generation that is to follow one in service, as often as it takes; the others go on meanwhile.

    One that cannot take over is left for an operator, who finds the reason in `dex status`.
    """
    failures = 0
    while True:
        try:
            async with pool.acquire() as database:
                waiting = await successions(database)
            for succession in waiting:
                await _build_one(pool, connection, succession, rest_share)
            return
        except TROUBLE as error:
            _logger.warning("building_waits_for_servers", reason=repr(error))
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
            failures += 1


async def _build_one(pool: asyncpg.Pool, connection: Client, succession: Succession, rest_share: float) -> None:
    try:
        await Building(pool, connection, succession, rest_share=rest_share).run()
    except CheckpointsMovedError:
        _logger.info("built_by_somebody_else", generation=succession.new.name)
    except (NotSwitchedError, LogRewoundError) as error:
        _logger.error("not_switched", generation=succession.new.name, reason=error.message)


async def drop_old(database: Database) -> list[str]:
    """Drop the tables of generations that are no longer in service, as their owner; their names."""
    serving = {projection.name for projection in await in_service(database)}
    dropped = []
    for projection in EARLIER:
        if projection.name not in serving:
            for table in projection.tables:
                if await database.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{LIVE_SCHEMA}.{table.name}"):
                    await database.execute(f"DROP TABLE {LIVE_SCHEMA}.{table.name}")
                    dropped.append(table.name)
    return dropped
