"""Chunks of a large batch done by other workers too: the directing worker's side.

Helpers come and go; the batch does not depend on any. A chunk that was given away and does not come back is done here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from events import metrics, subjects
from events.batch import ChunkRef
from events.ids import new_id
from events.logging import get_logger
from events.tasks import ended
from services.steps.base import Step
from services.worker.chunk_jobs import BlobRef, ChunkDone, StepCall
from services.worker.execution import Failure
from services.worker.fleet_messages import PROTOCOL, SEAT, SILENCE_MAX_S, Job, JobAnswer, Offer, SeatRequest, Wanted
from services.worker.references import key_mark
from services.worker.remote import RemoteStep

OFFER_EVERY_S = 1.0

Execute = Callable[[StepCall, str, ChunkRef, BlobRef | None], Awaitable[ChunkDone | Failure]]
"""An operation on one chunk, somewhere (ChunkExecutor.execute, Seat.execute)."""

_logger = get_logger("fleet")


class SeatLostError(Exception):
    """The helper did not do its job. `begun`: it may have died of it, so that no other is given the same."""

    def __init__(self, reason: str, *, begun: bool) -> None:
        super().__init__(reason)
        self.begun = begun


@dataclass(slots=True)
class _Pending:
    """A job in a helper's hands."""

    heard_s: float
    answer: asyncio.Future[JobAnswer] = field(default_factory=asyncio.Future)


class Crew:
    """Those who help with one batch. `waiting` tells how many chunks nobody is at.

    Leaving the block ends it: whoever is still at a job of it asks, hears that nobody is there, and stops.
    """

    def __init__(self, connection: Client, worker_id: str, step: Step[Any], waiting: Callable[[], int]) -> None:
        self.nc = connection
        self.step = step
        self.inbox = connection.new_inbox()
        self.pending: dict[str, _Pending] = {}
        self._offer = Offer(protocol=PROTOCOL, worker_id=worker_id, step_key=step.key, step_version=step.version)
        self._waiting = waiting
        self._seats: asyncio.Queue[Seat] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._subscription: Subscription = await self.nc.subscribe(f"{self.inbox}.*", cb=self._hear)
        self._offering = asyncio.create_task(self._keep_offering())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await ended([self._offering])
        if not self.nc.is_closed:
            await self._subscription.unsubscribe()

    async def next_seat(self) -> "Seat":
        """Wait for somebody who helps."""
        return await self._seats.get()

    async def _keep_offering(self) -> None:
        """Now and then, for who is busy now may be idle later."""
        while True:
            if self._waiting():
                try:
                    subject = subjects.chunk_offer(self.step.key)
                    await self.nc.publish(subject, self._offer.encode(), reply=f"{self.inbox}.{SEAT}")
                except (nats.errors.Error, OSError) as error:
                    _logger.warning("chunks_not_offered", error=repr(error))
            await asyncio.sleep(OFFER_EVERY_S)

    async def _hear(self, message: Msg) -> None:
        job_id = message.subject.rpartition(".")[2]
        pending = self.pending.get(job_id)
        if message.headers and "Status" in message.headers:  # the server: nobody is there
            if pending is not None and not pending.answer.done():
                pending.answer.set_exception(SeatLostError("The helper is gone.", begun=False))
            return
        try:
            if job_id == SEAT:
                wanted = self._waiting() > self._seats.qsize()
                if wanted:
                    self._seats.put_nowait(Seat(self, SeatRequest.model_validate_json(message.data).subject))
            else:
                wanted = pending is not None and not pending.answer.done()
                if pending is not None:
                    self._take_in(pending, JobAnswer.model_validate_json(message.data))
        except ValidationError as error:
            _logger.warning("helper_not_understood", error=str(error))
            return
        if message.reply:
            await message.respond(Wanted(wanted=wanted).encode())

    @staticmethod
    def _take_in(pending: _Pending, answer: JobAnswer) -> None:
        pending.heard_s = asyncio.get_running_loop().time()
        if answer.kind != "alive" and not pending.answer.done():
            pending.answer.set_result(answer)


class Seat:
    """A step process of another worker, for one batch."""

    def __init__(self, crew: Crew, subject: str) -> None:
        self._crew = crew
        self._subject = subject
        self._left = False

    async def execute(
        self, call: StepCall, op: str, chunk: ChunkRef, verdict: BlobRef | None = None
    ) -> ChunkDone | Failure:
        """One operation on one chunk, done there. Raises SeatLostError."""
        job = _job(call, self._crew.step.version, op, chunk, verdict)
        loop, job_id = asyncio.get_running_loop(), new_id()
        pending = self._crew.pending[job_id] = _Pending(loop.time())
        try:
            await self._crew.nc.publish(self._subject, job.encode(), reply=f"{self._crew.inbox}.{job_id}")
            while not pending.answer.done():
                patience_s = pending.heard_s + SILENCE_MAX_S - loop.time()
                if patience_s <= 0:
                    raise SeatLostError("Nothing was heard of the helper for too long.", begun=True)
                await asyncio.wait({pending.answer}, timeout=patience_s)
            return self._outcome(pending.answer.result())
        except (nats.errors.Error, OSError) as error:
            raise SeatLostError(f"The helper could not be asked: {error!r}", begun=True) from error
        finally:
            self._crew.pending.pop(job_id)

    def _outcome(self, answer: JobAnswer) -> ChunkDone | Failure:
        self._left = answer.last
        if answer.kind == "failed" and answer.failure is not None:
            return Failure(answer.failure.code, answer.failure.message, answer.failure.retryable)
        if answer.kind != "done" or answer.done is None:
            raise SeatLostError("The helper has no process to spare now.", begun=False)
        try:
            done = ChunkDone.of(answer.done)
        except (KeyError, TypeError, ValueError) as error:
            raise SeatLostError(f"The helper's answer is not understood: {error!r}", begun=True) from error
        metrics.CHUNKS.labels("lent").inc()
        return done

    @property
    def has_left(self) -> bool:
        """Whether the helper said that it takes no more."""
        return self._left

    async def leave(self) -> None:
        """Tell the helper that there is no more. A word that does not reach it is found out by it."""
        if not self._left and self._crew.nc.is_connected:
            self._left = True
            await self._crew.nc.publish(self._subject, b"")


@dataclass(frozen=True, slots=True)
class Fleet:
    """The other workers, as one that directs a batch sees them. `worker_id` tells it from them."""

    connection: Client
    worker_id: str

    def crew(self, step: Step[Any], waiting: Callable[[], int]) -> Crew:
        """Those who help with one batch, within an `async with` block."""
        return Crew(self.connection, self.worker_id, step, waiting)


def may_be_shared(step: Step[Any]) -> bool:
    """Whether chunks may be done elsewhere: not where one that is done twice is felt, or asked of others anyway."""
    return step.kind in ("rows", "exchange") and not step.has_effects and not isinstance(step, RemoteStep)


def _job(call: StepCall, version: str, op: str, chunk: ChunkRef, verdict: BlobRef | None) -> Job:
    return Job.model_validate(
        {
            "org_id": call.org_id, "step_key": call.step_key, "step_version": version, "op": op,
            "config": call.config, "names": call.names, "reads": call.reads, "references": call.references,
            "key_mark": key_mark(call.tenant_key), "timeout_s": call.timeout_s, "namespace": call.namespace,
            "keeps": call.keeps, "chunk": chunk.plain(),
            "verdict": None if verdict is None else (verdict.digest, verdict.size_bytes),
        }
    )  # fmt: skip
