"""Building read models again from the log, and saying whether they come out the same.

They are built from position 0 in a schema of their own while everything goes on. Then, in one transaction, the live
checkpoints are locked (a running projector waits), the rest of the log up to them is applied, both are compared row
by row, and the live rows become the rebuilt ones. A query sees the one or the other, never something half-built.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import asyncpg
import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.archive import Archive
from events.errors import LogRewoundError, StateConflictError, UnavailableError
from events.keyring import keyring_of
from projections import checkpoints
from projections.apply import apply
from projections.archive.reading import follow_whole
from projections.archive.stream import accept_beginning
from projections.base import LIVE_SCHEMA, Projection
from projections.batch import Batch, opened, rarer_collections
from projections.catalogue import named, with_required
from projections.checkpoints import Checkpoint, Checkpoints, CheckpointsMovedError
from projections.compare import Difference, compare
from projections.compare import replace as replace_rows
from projections.database import Database
from projections.generations import START_OVER, live_checkpoints
from projections.log_guard import LogGuard

SHADOW_SCHEMA = "data_engine_rebuild"
BATCH_DECISIONS = 1500

# The shadow is not logged: it is small work to make it again, and its rows are logged when they go live.
CREATE_SCHEMA = f"DROP SCHEMA IF EXISTS {SHADOW_SCHEMA} CASCADE; CREATE SCHEMA {SHADOW_SCHEMA}"
CREATE_TABLE = f"CREATE UNLOGGED TABLE {SHADOW_SCHEMA}.{{table}} (LIKE {LIVE_SCHEMA}.{{table}} INCLUDING ALL)"
HAS_VIEW = f"SELECT to_regclass('{LIVE_SCHEMA}.' || $1) IS NOT NULL"
CREATE_VIEW = f"CREATE VIEW {SHADOW_SCHEMA}.{{view}} AS SELECT * FROM {SHADOW_SCHEMA}.{{table}}"
DROP_SCHEMA = f"DROP SCHEMA IF EXISTS {SHADOW_SCHEMA} CASCADE"

REPLACE_DEAD_LETTERS = (
    f"DELETE FROM {LIVE_SCHEMA}.projection_dead_letters WHERE name = ANY($1::text[])",
    f"INSERT INTO {LIVE_SCHEMA}.projection_dead_letters "
    f"SELECT * FROM {SHADOW_SCHEMA}.projection_dead_letters WHERE name = ANY($1::text[])",
)
COUNT_DEAD_LETTERS = f"SELECT count(*) FROM {SHADOW_SCHEMA}.projection_dead_letters WHERE name = $1"

_TAKEN_OVER = (CheckpointsMovedError, asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)
_NOT_THERE = (
    OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the building is: positions of the log, events applied, seconds since it began."""

    position: int
    total: int
    events: int
    seconds: float

    @property
    def events_per_s(self) -> float:
        """The rate so far."""
        return self.events / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """What came of one projection.

    `seconds` is the time of the whole rebuild, `build_seconds` the part in which the log was applied; projections that
    are rebuilt together share both. `compared` is False when there was nothing live to compare with, or it was still
    on its way here. The samples are the first keys of rows that are on one side only; a row that differs is on both.
    """

    name: str
    position: int
    rows: int
    events: int
    dead_letters: int
    seconds: float
    build_seconds: float
    compared: bool
    only_live: int
    only_rebuilt: int
    sample_live: tuple[str, ...]
    sample_rebuilt: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether what was live is what the log gives."""
        return not self.compared or (not self.only_live and not self.only_rebuilt)


async def rebuild(
    pool: asyncpg.Pool,
    connection: Client,
    names: Sequence[str] = (),
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    accept_log: bool = False,
    check_only: bool = False,
) -> list[RebuildResult]:
    """Rebuild the named projections, or all, from the log. One connection of the pool is held meanwhile.

    `accept_log` takes the log as it is, though it may not be the one that the live rows came from. `check_only`
    compares, and leaves the live rows as they are. Raises InvalidInputError for an unknown name, LogRewoundError when
    the log is another one and is not accepted, StateConflictError when another rebuild began meanwhile, and
    UnavailableError. Whatever is raised, the live read models are as they were.
    """
    with rarer_collections():
        if accept_log:
            await accept_beginning(connection)
        results, lowest = await _rebuild(pool, connection, names, progress, accept_log, check_only)
    await _publish_reset(connection, lowest)
    return results


async def _rebuild(
    pool: asyncpg.Pool,
    connection: Client,
    names: Sequence[str],
    progress: Callable[[Progress], None],
    accept_log: bool,
    check_only: bool,
) -> tuple[list[RebuildResult], int]:
    """The results, and the position that all live projections have now."""
    async with pool.acquire() as database:
        serving, _ = await live_checkpoints(database)
        building = _Building(database, connection, named(names, serving), serving, accept_log=accept_log)
        try:
            await building.begin()
            await building.build(await building.goals(await building.live()), progress)
            async with database.transaction():
                results = await building.finish(progress, check_only=check_only)
        except _TAKEN_OVER as error:
            raise StateConflictError("Another rebuild began, and this one gave way to it.") from error
        except _NOT_THERE as error:
            raise UnavailableError(f"The database does not answer: {error!r}") from error
        except Exception:
            with suppress(*_NOT_THERE, asyncpg.PostgresError):
                await database.execute(DROP_SCHEMA)
            raise
        _, live = await live_checkpoints(database)
        lowest = checkpoints.lowest(live)
    return results, lowest


class _Building:
    """One rebuild: the projections asked for, those that they require, and how far each is in the shadow."""

    def __init__(
        self,
        database: Database,
        connection: Client,
        projections: Sequence[Projection],
        serving: Sequence[Projection],
        *,
        accept_log: bool,
    ) -> None:
        self._db = database
        self._nc = connection
        self._wanted = projections
        self._built = with_required(projections, serving)
        self._accept_log = accept_log
        self._guard = LogGuard(connection)
        self._epoch = ""
        self._at: Checkpoints = {}
        self._events: Counter[str] = Counter()
        self._began_s = time.perf_counter()
        self._build_s = 0.0
        self._position = 0

    async def begin(self) -> None:
        """Look at the log, and make the shadow: empty tables like the live ones."""
        live = await self.live()
        state = await self._guard.state() if self._accept_log else await self._guard.verify(live.values())
        self._epoch = state.epoch
        await self._db.execute(CREATE_SCHEMA)
        tables = [table.name for projection in self._built for table in projection.tables]
        for table in [*tables, "projection_checkpoints", "projection_dead_letters"]:
            await self._db.execute(CREATE_TABLE.format(table=table))
        for projection in self._built:
            if await self._db.fetchval(HAS_VIEW, projection.view):
                await self._db.execute(CREATE_VIEW.format(view=projection.view, table=projection.tables[0].name))
        self._at = await checkpoints.load(self._db, SHADOW_SCHEMA, [p.name for p in self._built])

    async def live(self) -> Checkpoints:
        """Where the live read models are. Raises StateConflictError when another generation took a one's place."""
        return self._all_of(await checkpoints.read(self._db, LIVE_SCHEMA, [p.name for p in self._wanted]))

    def _all_of(self, live: Checkpoints) -> Checkpoints:
        for projection in self._wanted:
            if projection.name not in live:
                raise StateConflictError(
                    f"{projection.name} is no longer in service: another generation took its place meanwhile. "
                    "Nothing was changed; rebuild that one."
                )
        return live

    async def goals(self, live: Checkpoints) -> dict[str, int]:
        """Up to which position each projection is to be built: as far as the live one, so that the two can be compared;
        to the end of the log where there is no live one, or where the live one is of another log."""
        end = (await self._guard.state()).last_position
        goals = {name: end if self._accept_log or not at.position else at.position for name, at in live.items()}
        for projection in self._wanted:
            for required in self._built:
                if required.view in projection.requires:
                    goals[required.name] = max(goals.get(required.name, 0), goals[projection.name])
        return goals

    async def build(self, goals: Mapping[str, int], progress: Callable[[Progress], None]) -> None:
        """Apply the log, up to each projection's goal."""
        began_s = time.perf_counter()
        for goal in sorted(set(goals.values())):
            projections = [p for p in self._built if goals[p.name] >= goal]
            await self._build_to(goal, projections, progress)
        self._build_s += time.perf_counter() - began_s

    async def finish(self, progress: Callable[[Progress], None], *, check_only: bool) -> list[RebuildResult]:
        """Within the caller's transaction: lock, catch up, compare, replace, and drop the shadow."""
        live = self._all_of(await checkpoints.lock(self._db, LIVE_SCHEMA, [p.name for p in self._wanted]))
        await self.build(await self.goals(live), progress)
        shadow = await checkpoints.lock(self._db, SHADOW_SCHEMA, [p.name for p in self._built])
        if shadow != self._at:
            raise CheckpointsMovedError(shadow)
        results = [await self._finish_one(p, live[p.name], check_only=check_only) for p in self._wanted]
        if not check_only:
            await self._replace_state()
        await self._db.execute(DROP_SCHEMA)
        seconds = time.perf_counter() - self._began_s
        return [replace(result, seconds=seconds) for result in results]

    async def _finish_one(self, projection: Projection, live: Checkpoint, *, check_only: bool) -> RebuildResult:
        differences = []
        for table in projection.tables:
            differences.append(await compare(self._db, table, LIVE_SCHEMA, SHADOW_SCHEMA))
            if not check_only and not differences[-1].none:
                await replace_rows(self._db, table, LIVE_SCHEMA, SHADOW_SCHEMA)
        dead_letters = await self._db.fetchval(COUNT_DEAD_LETTERS, projection.name)
        return _result(
            projection.name,
            differences,
            position=self._at[projection.name].position,
            events=self._events[projection.name],
            dead_letters=dead_letters,
            seconds=0.0,
            build_seconds=self._build_s,
            compared=self._comparable(live),
        )

    def _comparable(self, live: Checkpoint) -> bool:
        """Whether there is something live, and of the same position: it had not begun when the goals were set, and is
        now on its way."""
        return live.position > 0 and (self._accept_log or live.position == self._at[live.name].position)

    async def _replace_state(self) -> None:
        """Checkpoints and dead letters go with the rows."""
        names = [p.name for p in self._wanted]
        await checkpoints.move(self._db, LIVE_SCHEMA, [self._at[name] for name in names])
        if self._accept_log:
            await self._db.execute(START_OVER)  # what was built of another log
        for sql in REPLACE_DEAD_LETTERS:
            await self._db.execute(sql, names)

    async def _build_to(
        self, goal: int, projections: Sequence[Projection], progress: Callable[[Progress], None]
    ) -> None:
        after = checkpoints.lowest({p.name: self._at[p.name] for p in projections})
        state = await self._guard.state()
        if after >= min(goal, state.last_position):
            return
        messages = follow_whole(
            Archive(self._db),
            self._nc,
            after,
            BATCH_DECISIONS,
            before_open=self._check_epoch,
            accept_log=self._accept_log,
        )
        async with aclosing(cast(Any, messages)) as batches:
            async for received in batches:
                wanted = [message for message in received if message.position <= goal]
                if wanted:
                    await self._apply(await opened(wanted, keyring_of(self._nc)), projections)
                    progress(self._progress(goal))
                if received[-1].position >= goal or received[-1].pending == 0:
                    return

    async def _apply(self, batch: Batch, projections: Sequence[Projection]) -> None:
        counted = batch.count_events()
        at = {projection.name: self._at[projection.name] for projection in projections}
        self._at = {**self._at, **await apply(self._db, SHADOW_SCHEMA, projections, at, batch, self._epoch)}
        for projection in projections:
            self._events[projection.name] += counted.get(projection.kind, 0)
        self._events[""] += sum(counted.values())

    async def _check_epoch(self, _after: int) -> None:
        epoch = (await self._guard.state()).epoch
        if epoch != self._epoch:
            raise LogRewoundError("The log was made anew while the read models were built from it. Begin again.")

    def _progress(self, goal: int) -> Progress:
        position = checkpoints.lowest(self._at)
        return Progress(position, goal, self._events[""], time.perf_counter() - self._began_s)


def _result(name: str, differences: Sequence[Difference], **facts: Any) -> RebuildResult:
    return RebuildResult(
        name=name,
        rows=sum(difference.rows for difference in differences),
        only_live=sum(difference.only_live for difference in differences),
        only_rebuilt=sum(difference.only_rebuilt for difference in differences),
        sample_live=tuple(key for difference in differences for key in difference.sample_live),
        sample_rebuilt=tuple(key for difference in differences for key in difference.sample_rebuilt),
        **facts,
    )


async def _publish_reset(connection: Client, position: int) -> None:
    """Tell everybody that rows and positions may have changed; only a hint."""
    hint = {"position": position, "ended": [], "access": True, "reset": True}
    with suppress(nats.errors.Error):
        await connection.publish(subjects.PROJECTED, strictjson.dumps(hint))
