"""The chunks of a batch, done side by side: by this worker's step processes, and by whoever else is idle."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from events import metrics
from events.batch import ChunkRef
from events.logging import get_logger
from services.steps.base import Step
from services.worker.chunk_jobs import ChunkDone
from services.worker.execution import Failure
from services.worker.fleet import Crew, Execute, Fleet, Seat, SeatLostError, may_be_shared

TELL_EVERY_S = 1.0
TELL_EVERY_SHARE = 0.05
"""Progress is told at most so often, so that a step that takes hours does not fill its run's history."""

Tell = Callable[[int, int | None], Awaitable[bool]]
"""Told how many chunks are done, of how many. False: the run no longer waits for this step."""
Work = Callable[[ChunkRef, int, Execute], Awaitable[ChunkDone | Failure]]
"""What is to be done with a chunk, its number, and where."""

_logger = get_logger("spread")


class Superseded(Exception):
    """The run was cancelled, or somebody else has recorded this step: what is under way is for nothing."""


class StepFailed(Exception):
    """The step failed, for all its attempts."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code)
        self.failure = failure


class Progress:
    """Counts chunks, and tells of them now and then. Raises Superseded when nobody wants to know any more."""

    def __init__(self, tell: Tell, total: int | None) -> None:
        self._tell = tell
        self._total = total
        self._done = self._told = 0
        self._told_s = time.monotonic()

    async def one_more(self) -> None:
        """Another chunk is done."""
        self._done += 1 if self._total is None or self._done < self._total else 0  # some is done twice, now and then
        now_s = time.monotonic()
        share = TELL_EVERY_SHARE * (self._done if self._total is None else self._total)
        if now_s - self._told_s >= TELL_EVERY_S and self._done - self._told >= share:
            self._told, self._told_s = self._done, now_s
            if not await self._tell(self._done, self._total):
                raise Superseded


class Pile:
    """The chunks that nobody is at, by number. Some are for this worker alone: those that came to nothing elsewhere."""

    def __init__(self, size: int) -> None:
        self._anybodys = deque(range(size))
        self._ours: deque[int] = deque()
        self._open = size
        self._changed = asyncio.Condition()

    def waiting(self) -> int:
        """How many may be given away."""
        return len(self._anybodys)

    async def ours(self) -> int | None:
        """The next one for this worker, as soon as there is one; None once all are done."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ours or self._anybodys or not self._open)
            return self._ours.popleft() if self._ours else self._anybodys.popleft() if self._anybodys else None

    def theirs(self) -> int | None:
        """The next one for somebody else, if there is one."""
        return self._anybodys.popleft() if self._anybodys else None

    async def put_back(self, number: int, *, ours: bool) -> None:
        """Whoever took it did not do it."""
        async with self._changed:
            (self._ours if ours else self._anybodys).appendleft(number)
            self._changed.notify_all()  # one would do, but for whoever waits for the end

    async def done(self) -> None:
        """One of those that were taken is done."""
        async with self._changed:
            self._open -= 1
            if not self._open:
                self._changed.notify_all()

    async def all_done(self) -> None:
        """Wait until each one is."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._open)


class Spread:
    """Does something with each chunk of a batch: `at_once` of them here with `own`, more where others help."""

    def __init__(self, own: Execute, at_once: int, fleet: Fleet | None) -> None:
        self._own = own
        self._at_once = at_once
        self._fleet = fleet

    async def each(
        self, step: Step[Any], chunks: Sequence[ChunkRef], work: Work, attempts: int, progress: Progress
    ) -> list[ChunkDone]:
        """The outcomes in order. A chunk that fails is tried again alone, here. Raises the first StepFailed."""
        try:
            async with asyncio.TaskGroup() as group:
                batch = _Batch(chunks, work, attempts, progress)
                for _ in range(min(self._at_once, len(chunks))):
                    group.create_task(batch.do_ours(self._own))
                if self._fleet is not None and len(chunks) > self._at_once and may_be_shared(step):
                    async with self._fleet.crew(step, batch.pile.waiting) as crew:
                        hiring = group.create_task(_hire(group, crew, batch))
                        await batch.pile.all_done()
                        hiring.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [batch.outcomes[number] for number in range(len(chunks))]


async def _hire(group: asyncio.TaskGroup, crew: Crew, batch: "_Batch") -> None:
    while True:
        group.create_task(batch.do_theirs(await crew.next_seat()))


class _Batch:
    def __init__(self, chunks: Sequence[ChunkRef], work: Work, attempts: int, progress: Progress) -> None:
        self.pile = Pile(len(chunks))
        self.outcomes: dict[int, ChunkDone] = {}
        self._chunks = chunks
        self._work = work
        self._attempts = attempts
        self._progress = progress

    async def do_ours(self, own: Execute) -> None:
        """Take chunks until all are done."""
        while (number := await self.pile.ours()) is not None:
            self.outcomes[number] = await self._with_retries(number, own)
            await self._done()

    async def do_theirs(self, seat: Seat) -> None:
        """Give chunks to a helper, as long as there are some and it takes them."""
        try:
            while not seat.has_left and (number := self.pile.theirs()) is not None:
                try:
                    done = await self._work(self._chunks[number], number, seat.execute)
                except SeatLostError as lost:
                    _logger.info("helper_lost", chunk=number, reason=str(lost))
                    await self.pile.put_back(number, ours=lost.begun)
                    return
                if isinstance(done, Failure):
                    if not done.retryable:
                        raise StepFailed(done)
                    # the other machine may have less memory, or less of something else: it counts for no attempt
                    await self.pile.put_back(number, ours=True)
                    return
                self.outcomes[number] = done
                await self._done()
        finally:
            await seat.leave()

    async def _done(self) -> None:
        await self.pile.done()
        await self._progress.one_more()

    async def _with_retries(self, number: int, own: Execute) -> ChunkDone:
        """A chunk's outcome, tried again alone when it may succeed then. Raises StepFailed."""
        for attempt in range(1, self._attempts + 1):
            done = await self._work(self._chunks[number], number, own)
            if isinstance(done, ChunkDone):
                metrics.CHUNKS.labels("own").inc()
                return done
            if not done.retryable or attempt == self._attempts:
                raise StepFailed(replace(done, retryable=False))
        raise AssertionError("unreachable")
