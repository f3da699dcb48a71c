"""Chunks of a large batch done for the worker that directs it: the helping worker's side.

Only a step process that nobody here asks for is lent, for one chunk at a time; this worker's own tasks go before.
Helpers hold nothing: what they made is in the blob store, or it was not made.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from events import metrics, subjects
from events.batch import ChunkRef
from events.errors import UnavailableError
from events.logging import get_logger
from events.tasks import ended
from services.steps.base import Step
from services.worker.chunk_jobs import BlobRef, ChunkDone, ChunkExecutor, StepCall
from services.worker.execution import Failure
from services.worker.fleet import may_be_shared
from services.worker.fleet_messages import (
    ALIVE_EVERY_S,
    PROTOCOL,
    SILENCE_MAX_S,
    Job,
    JobAnswer,
    JobFailure,
    Offer,
    SeatRequest,
    Wanted,
)
from services.worker.isolation import StepProcesses
from services.worker.references import TenantKeys, key_mark
from services.worker.slots import ON_BEHALF_OF

JOBS_MAX = 16
"""After so many a helper leaves its seat, so that the batches of others have their turn."""
IDLE_MAX_S = 10.0
"""Without a job for so long, a seat is given up: whoever directed the batch is gone."""

_logger = get_logger("helper")


class Helper:
    """Answers offers of chunks while step processes of this worker are idle."""

    def __init__(
        self,
        connection: Client,
        worker_id: str,
        steps: Mapping[str, Step[Any]],
        executor: ChunkExecutor,
        processes: StepProcesses,
        tenant_keys: TenantKeys,
    ) -> None:
        self._nc = connection
        self._worker_id = worker_id
        self._steps = {key: step for key, step in steps.items() if may_be_shared(step)}
        self._executor = executor
        self._processes = processes
        self._tenant_keys = tenant_keys
        self._waiting_seats = 0
        self._seats: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self._stopping = False

    async def start(self) -> None:
        """Listen to offers from now on."""
        for key in self._steps:
            self._subscriptions.append(await self._nc.subscribe(subjects.chunk_offer(key), cb=self._hear))

    async def stop(self) -> None:
        """Take no more, and hand back what is under way."""
        self._stopping = True
        subscriptions, self._subscriptions = self._subscriptions, []
        if self._nc.is_connected:
            await asyncio.gather(*(subscription.unsubscribe() for subscription in subscriptions))
        await ended(self._seats)

    async def _hear(self, message: Msg) -> None:
        """Take a seat for each process that is idle, if the offer is for one like this worker."""
        try:
            offer = Offer.model_validate_json(message.data)
        except ValidationError as error:
            _logger.warning("offer_not_understood", error=str(error))
            return
        step = self._steps.get(offer.step_key)
        if (
            offer.worker_id == self._worker_id
            or offer.protocol != PROTOCOL
            or step is None
            or step.version != offer.step_version
        ):
            return
        for _ in range(self._processes.idle - self._waiting_seats):
            self._waiting_seats += 1
            seat = asyncio.create_task(self._sit(message.reply))
            self._seats.add(seat)
            seat.add_done_callback(self._seats.discard)

    async def _sit(self, director: str) -> None:
        """Hold a seat until there is no more to do in it. `_waiting_seats` counts those without a job."""
        subject = self._nc.new_inbox()
        try:
            jobs = await self._nc.subscribe(subject)
        except BaseException:
            self._waiting_seats -= 1
            raise
        try:
            if not await self._is_wanted(director, SeatRequest(subject=subject).encode()):
                return
            for number in range(1, JOBS_MAX + 1):
                message = await jobs.next_msg(timeout=IDLE_MAX_S)
                if not message.data or not await self._take(message, last=number == JOBS_MAX):
                    return
        except (nats.errors.Error, OSError, ValidationError) as error:
            _logger.warning("seat_given_up", error=repr(error))
        finally:
            self._waiting_seats -= 1
            if not self._nc.is_closed:
                await jobs.unsubscribe()

    async def _take(self, message: Msg, *, last: bool) -> bool:
        """Do a job and answer; whether to go on."""
        job = Job.model_validate_json(message.data)
        refused = JobAnswer(kind="refused", last=True)
        if self._stopping or not self._processes.idle or not self._fits(job):
            await self._nc.publish(message.reply, refused.encode())
            return False
        self._waiting_seats -= 1  # from here on it is the job that holds the process
        try:
            answer = await self._worked(job, message.reply)
        except asyncio.CancelledError:  # this worker leaves
            await self._nc.publish(message.reply, refused.encode())
            raise
        except (UnavailableError, ValueError, KeyError, TypeError) as error:
            _logger.warning("job_not_done", step=job.step_key, error=repr(error))
            answer = refused
        finally:
            self._waiting_seats += 1
        if answer is None:
            return False
        await self._nc.publish(message.reply, answer.model_copy(update={"last": last or answer.last}).encode())
        return not answer.last

    def _fits(self, job: Job) -> bool:
        """Whether the same would come of the job here as at the worker that directs."""
        step = self._steps.get(job.step_key)
        if step is None or step.version != job.step_version:
            return False
        return not job.key_mark or key_mark(self._tenant_keys.of(job.org_id)) == job.key_mark

    async def _worked(self, job: Job, director: str) -> JobAnswer | None:
        """The outcome of a job; None when nobody wants it any more. The step process is stopped then."""
        working = asyncio.create_task(self._execute(job))
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=ALIVE_EVERY_S)
                if not working.done() and not await self._is_wanted(director, JobAnswer(kind="alive").encode()):
                    return None
        finally:
            if not working.done():
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
        done = working.result()
        if isinstance(done, Failure):
            failure = JobFailure(code=done.code, message=done.message, retryable=done.retryable)
            return JobAnswer(kind="failed", failure=failure)
        metrics.CHUNKS.labels("helped").inc()
        return JobAnswer(kind="done", done=done.plain())

    async def _execute(self, job: Job) -> ChunkDone | Failure:
        ON_BEHALF_OF.set(job.org_id)  # in a task of its own
        tenant_key = self._tenant_keys.of(job.org_id) if job.key_mark else b""
        call = StepCall(
            job.org_id, job.step_key, job.config, job.names, job.reads, job.references, tenant_key, job.timeout_s,
            job.namespace, job.keeps,
        )  # fmt: skip
        verdict = None if job.verdict is None else BlobRef(*job.verdict)
        return await self._executor.execute(call, job.op, ChunkRef.of(job.chunk), verdict)

    async def _is_wanted(self, director: str, question: bytes) -> bool:
        """Ask whoever directs. Who is not there wants nothing; who is slow to answer may."""
        try:
            answer = await self._nc.request(director, question, timeout=SILENCE_MAX_S)
        except nats.errors.NoRespondersError:
            return False
        except TimeoutError:
            return True
        return Wanted.model_validate_json(answer.data).wanted
