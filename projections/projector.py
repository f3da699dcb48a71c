"""The projector: one follower of the log feeds all read models, each with a checkpoint of its own."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, cast

import asyncpg
import nats.errors
from nats.aio.client import Client

from events import administration, metrics, strictjson, subjects
from events.archive import Archive
from events.errors import ConfigurationError, LogRewoundError, UnavailableError
from events.follow import Followed
from events.keyring import keyring_of
from events.logging import get_logger
from events.settings import Settings
from events.tasks import ended
from projections import checkpoints
from projections.apply import apply
from projections.archive.reading import follow_whole
from projections.base import LIVE_SCHEMA, Projection
from projections.batch import Batch, opened, rarer_collections
from projections.checkpoints import (
    Checkpoints,
    CheckpointsMovedError,
    ProjectionStatus,
    projection_status,
)
from projections.database import create_pool
from projections.generations import build_in_background, live_checkpoints
from projections.log_guard import RECOVERY, LogGuard
from projections.waiting import TROUBLE, pause, until

__all__ = ["ProjectionStatus", "Projector", "projection_status", "run_projector"]

IDLE_CHECK_S = 5.0
"""How often the log is looked at while nothing comes: a log made anew may stay silent for as long as it is shorter."""

ACCESS_KINDS = (administration.ORG, administration.COMPANY, administration.USER, administration.TOKEN)

_WRONG_SCHEMA = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError)

_logger = get_logger("projector")


class _StartOverError(Exception):
    """What we believed of the checkpoints or of the log does not hold; begin again from the database."""


async def run_projector(settings: Settings, connection: Client, stop: asyncio.Event) -> None:
    """Project until `stop` is set; a batch that was begun is finished.

    Trouble with Postgres or NATS is waited out. Raises LogRewoundError when the log is not the one that the read
    models followed, and ConfigurationError when their tables are not as this version needs them.
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
                await _project_and_build(pool, connection, settings, stop)


async def _project_and_build(pool: asyncpg.Pool, connection: Client, settings: Settings, stop: asyncio.Event) -> None:
    """What is in service, and beside it what is to follow."""
    building = asyncio.create_task(build_in_background(pool, connection))
    try:
        await Projector(pool, connection, settings.projector_batch).run(stop)
    finally:
        await ended([building])


class Projector:
    """Follows the log from the lowest checkpoint, and begins again from the database after any trouble."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        connection: Client,
        batch_max: int = 1000,
        projections: Sequence[Projection] | None = None,
        idle_check_s: float = IDLE_CHECK_S,
    ) -> None:
        self._pool = pool
        self._nc = connection
        self._keyring = keyring_of(connection)
        self._batch_max = batch_max
        self._given = projections
        self._projections: Sequence[Projection] = projections or ()
        self._idle_check_s = idle_check_s
        self._guard = LogGuard(connection)
        self._at: Checkpoints = {}
        self._epoch = ""
        self._trimmed_to = 0
        self._received = 0
        self._verified = False

    async def run(self, stop: asyncio.Event) -> None:
        """Project until `stop` is set. Raises LogRewoundError and ConfigurationError."""
        failures = 0
        while not stop.is_set():
            try:
                await self._begin()
                failures = 0
                await self._follow(stop)
            except _StartOverError as error:
                _logger.info("start_over", reason=str(error))
            except _WRONG_SCHEMA as error:
                raise ConfigurationError(f"The read models' tables are not there: {error}. Run: dex migrate") from error
            except TROUBLE as error:
                metrics.PROJECTOR_RETRIES.inc()
                await pause(stop, failures, error)
                failures += 1

    async def _begin(self) -> None:
        """Load the checkpoints, look whether the log is theirs, and say where the read models are: it may be back."""
        async with self._pool.acquire() as connection:
            if self._given:
                names = [projection.name for projection in self._given]
                self._at = await checkpoints.load(connection, LIVE_SCHEMA, names)
            else:
                self._projections, self._at = await live_checkpoints(connection)
        await self._verify()
        self._received = checkpoints.lowest(self._at)
        await self._publish([], access=True, reset=True)
        _logger.info("projecting", after=self._received)

    async def _follow(self, stop: asyncio.Event) -> None:
        messages = follow_whole(
            Archive(self._pool),
            self._nc,
            self._received,
            self._batch_max,
            before_open=self._note_consumer,
            more_follows=_begins_a_step,
        )
        closable = cast(AsyncGenerator[list[Followed], None], messages)
        async with aclosing(until(stop, closable, self._idle_check_s)) as batches:
            async for batch in batches:
                if batch is None:
                    await self._verify()
                    continue
                await self._check_continuity(batch)
                await self._apply(await opened(batch, self._keyring))

    async def _note_consumer(self, _after: int) -> None:
        """A new consumer may be one of another stream. It is verified once its first messages are here, not before:
        then they were in the log that is verified."""
        self._verified = False

    async def _verify(self) -> None:
        state = await self._guard.verify(self._at.values())
        self._epoch, self._trimmed_to = state.epoch, state.trimmed_to
        self._measure(behind=state.last_position - checkpoints.lowest(self._at))

    async def _check_continuity(self, messages: Sequence[Followed]) -> None:
        """The log has no gaps, as nothing is ever deleted from it. Raises LogRewoundError when something was."""
        if not self._verified:
            await self._verify()
            self._verified = True
        for message in messages:
            if message.position != self._received + 1:
                missing = self._received + 1
                if missing <= self._trimmed_to or await self._guard.decision_id_at(missing):
                    raise _StartOverError(f"position {missing} was left out")
                raise LogRewoundError(
                    f"The log has a hole: position {missing} is missing before {message.position}. {RECOVERY}",
                    position=missing,
                )
            self._received = message.position

    async def _apply(self, batch: Batch) -> None:
        """Apply the batch, or what another projector has left of it."""
        # What withdraws access must hold once it was told of, whatever crashes.
        access = batch.holds(ACCESS_KINDS)
        while checkpoints.lowest(self._at) < batch.last_position:
            began_s = time.perf_counter()
            try:
                async with self._pool.acquire() as connection:
                    self._at = await apply(
                        connection, LIVE_SCHEMA, self._projections, self._at, batch, self._epoch, durable=access
                    )
            except CheckpointsMovedError as moved:
                self._adopt(moved.found)
            else:
                metrics.PROJECTOR_APPLY_DURATION.observe(time.perf_counter() - began_s)
                metrics.PROJECTOR_BATCH.observe(len(batch.messages))
                self._measure(behind=batch.messages[-1].pending)
                await self._publish(batch.ended_runs(), access=access)

    def _measure(self, behind: int) -> None:
        metrics.PROJECTOR_POSITION.set(checkpoints.lowest(self._at))
        metrics.PROJECTOR_LAG.set(behind)

    def _adopt(self, found: Checkpoints) -> None:
        """Go on from where another projector is, if that is ahead of us in the same log."""
        for name, mine in self._at.items():
            theirs = found.get(name)
            if theirs is None or theirs.position < mine.position or (theirs != mine and theirs.epoch != self._epoch):
                raise _StartOverError(f"the checkpoint of {name} went from {mine} to {theirs}")
        self._at = found

    async def _publish(self, ended: list[str], *, access: bool, reset: bool = False) -> None:
        """Wake those who wait. A hint: one that is lost costs them time, and no truth."""
        hint: dict[str, Any] = {"position": checkpoints.lowest(self._at), "ended": ended, "access": access}
        if reset:
            hint["reset"] = True
        try:
            await self._nc.publish(subjects.PROJECTED, strictjson.dumps(hint))
        except nats.errors.Error as error:
            _logger.debug("hint_lost", reason=repr(error))


def _begins_a_step(subject: str) -> bool:
    """Whether a decision made a step due: a quick one's outcome follows in a moment, and both fit one transaction.

    Those of the bulk lane wait in a queue, and nobody waits for their outcomes.
    """
    return ".due." in subject
