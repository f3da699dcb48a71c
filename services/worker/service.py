"""The worker as a service: registers its steps, takes tasks through FastStream, keeps them alive, hands them back."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import nats.errors
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy as AckPolicy_
from nats.js.api import ConsumerConfig

from events import subjects
from events.administration import STEP, StepRegistered
from events.blobs import BlobStore
from events.context import PLATFORM_ORG, SERVICE_ACTOR
from events.errors import DataEngineError, ErasedError, PoisonedMessageError, UnavailableError, VersionConflictError
from events.ids import new_id
from events.keyring import use_keys, wrapper_of
from events.log import EventLog, decision_id
from events.logging import get_logger
from events.mapper import decode_decision
from events.model import Decision
from events.settings import Settings
from events.tasks import ended
from services import observe
from services.archive import ArchiveReader
from services.broker import raw_message
from services.domain import administration
from services.pulling import pull_at_once
from services.repository import Repository
from services.settle import Broken, Done, Outcome, RetryAfter, after_failure, deliveries_of, settle
from services.steps.base import Step
from services.worker.batches import BatchRunner
from services.worker.chunk_jobs import ChunkExecutor
from services.worker.fleet import Fleet
from services.worker.helper import Helper
from services.worker.isolation import StepProcesses
from services.worker.memo import Memo
from services.worker.preview import Previewer
from services.worker.references import TenantKeys
from services.worker.registry import load_steps, warm_up
from services.worker.remote import Places, RemoteStep, RemoteSteps
from services.worker.reuse import Reuser
from services.worker.slots import ON_BEHALF_OF, FairSlots
from services.worker.task import Task, TaskRunner
from services.worker.watchdog import Watchdog

FETCH_BATCH = 32
FETCH_TIMEOUT_S = 5
BULK_FETCH_BATCH = 8
BULK_AT_ONCE = 8
"""Bulk tasks of all steps that a worker is at, besides one for each step process: more are no faster, and each append
in flight is one before a quick run's append."""
ACK_PENDING_MAX = 1_000_000
"""Tasks that wait out a backoff are pending too; one tenant's must not hold up another's."""
BULK_RESERVE = 2
"""Bulk tasks that a worker takes beyond those which one org may have it take."""
CONSUMER_CHECK_S = 15.0
DRAIN_S = 8.0

_logger = get_logger("worker")


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue of a step's tasks: a durable consumer."""

    stream: str
    durable: str
    filter: str
    title: str
    fetch_batch: int


@dataclass(slots=True)
class Held:
    """A task in this worker's hands: its latest delivery, and since when (seconds of the loop's clock)."""

    message: Msg
    since_s: float


class Worker:
    """One worker process: the steps of its modules, each with a queue of quick tasks, and some of bulk tasks."""

    def __init__(self, settings: Settings, broker: NatsBroker) -> None:
        self.broker = broker
        self._settings = settings
        self._archive = ArchiveReader(settings)
        self._steps = load_steps(settings.step_modules)
        self._slots = {key: FairSlots(settings.worker_concurrency) for key in self._steps}
        bulk = min(BULK_AT_ONCE + settings.worker_processes, settings.worker_concurrency)
        self._bulk_slots = FairSlots(bulk + BULK_RESERVE, bulk)
        self._in_hand: dict[str, Held] = {}  # by the task's subject
        self._working: set[asyncio.Task[None]] = set()
        self._unstarted: list[Any] = []  # subscribers of remote steps
        self._stopping = False
        for step in self._steps.values():
            for queue in _queues(step.key):
                self._subscribe(step, queue)

    async def start(self) -> Client:
        """Connect, register the steps, and begin to take tasks; the connection."""
        warm_up(self._steps.values())
        self._connection: Client = await self.broker.connect()
        self._keyring = use_keys(self._connection, wrapper_of(self._settings))
        await self._keyring.listen(self._connection)
        log = self._log = self._archive.log(self._connection)
        self._watchdog = Watchdog()
        self._processes = StepProcesses(
            self._settings.worker_processes, self._settings.step_modules, self._settings.step_memory_max_bytes
        )
        self._remote = RemoteSteps(
            self._connection, log, self._settings.remote_steps, frozenset(self._steps), self._serve_remote
        )
        places = Places(self._processes, self._remote)
        blobs, memo = BlobStore(self._connection), Memo(self._connection)
        tenant_keys = TenantKeys(self._settings.tenant_key.get_secret_value() if self._settings.tenant_key else None)
        own_chunks = ChunkExecutor(blobs, self._processes)
        worker_id = new_id()
        fleet = Fleet(self._connection, worker_id) if self._settings.worker_helps else None
        self._helper = Helper(self._connection, worker_id, self._steps, own_chunks, self._processes, tenant_keys)
        self._runner = TaskRunner(
            log,
            blobs,
            self._steps,
            places,
            self._settings.checkpoint_ms,
            self._watchdog,
            BatchRunner(ChunkExecutor(blobs, places), memo, self._settings.worker_processes, fleet),
            Reuser(log, memo),
            tenant_keys,
        )
        # half of the step processes at most: those who run a blueprint go before those who look at one
        self._previewer = Previewer(
            self._connection, self._steps, places, tenant_keys, max(1, self._settings.worker_processes // 2)
        )
        for step in self._steps.values():
            await register(log, step)
        await self._ensure_consumers()
        self._keeper = asyncio.create_task(self._keep_alive())
        await self.broker.start()
        await self._remote.start()
        await self._previewer.start()
        if fleet is not None:
            await self._helper.start()
        _logger.info("worker_started", steps=sorted(self._steps))
        return self._connection

    async def stop(self) -> None:
        """Finish what ends soon, hand back the rest, leave."""
        self._stopping = True
        await asyncio.gather(self._previewer.stop(), self._helper.stop())
        if self._working:
            await asyncio.wait(self._working, timeout=DRAIN_S)
        await ended([*self._working, self._keeper])
        await self._processes.close()
        self._watchdog.close()
        await self.broker.stop()
        await self._archive.close()

    async def _serve_remote(self, step: RemoteStep) -> None:
        """Take the tasks of a step that was announced; of one that is served already, its new version."""
        if self._stopping:
            raise UnavailableError("This worker is leaving.")
        await register(self._log, step)
        self._steps[step.key] = step
        await self._ensure_consumers()
        if step.key not in self._slots:
            self._slots[step.key] = FairSlots(self._settings.worker_concurrency)
            self._unstarted += [self._subscribe(step, queue) for queue in _queues(step.key)]
        while self._unstarted:  # what fails is gone on with at the next announcement
            await self._unstarted[-1].start()
            await pull_at_once(self._unstarted[-1])
            self._unstarted.pop()

    def _subscribe(self, step: Step[Any], queue: "Queue") -> Any:
        """One handler a queue. It admits a task and returns; a full worker admits none, and so fetches none."""
        subscriber = self.broker.subscriber(
            queue.filter,
            durable=queue.durable,
            stream=JStream(queue.stream, declare=False),
            pull_sub=PullSub(batch_size=queue.fetch_batch, timeout=FETCH_TIMEOUT_S),
            config=self._consumer(queue),
            ack_policy=AckPolicy.MANUAL,
            decoder=raw_message,
            title=queue.title,
            include_in_schema=queue.stream == subjects.TASKS,  # the queues of bulk tasks carry the same
            description=f"{step.summary} The message is the decision that made the step due.",
        )
        slots = self._bulk_slots if queue.stream == subjects.BULK_TASKS else self._slots[step.key]

        async def admit(message: Any) -> None:
            held = self._in_hand.get(message.subject)
            if held is not None:  # delivered again while we are at it, as after a pause of this process
                held.message = message
                return
            held = self._in_hand[message.subject] = Held(message, asyncio.get_running_loop().time())
            await slots.acquire(_org_of(message))
            working = asyncio.create_task(self._work(held, slots))
            self._working.add(working)
            working.add_done_callback(self._working.discard)

        admit.__name__ = queue.title.replace(":", "_")
        subscriber(admit)
        return subscriber

    async def _work(self, held: "Held", slots: FairSlots) -> None:
        ON_BEHALF_OF.set(_org_of(held.message))
        outcome: Outcome = RetryAfter(DRAIN_S)  # not sooner: this worker would only get it again while it leaves
        try:
            if not self._stopping:
                with observe.task(held.message) as seen:
                    outcome = seen.of(await self._outcome(held.message))
        finally:  # a cancelled task is handed back
            slots.release(_org_of(held.message))
            self._in_hand.pop(held.message.subject, None)
            await self._settle(held.message, outcome)

    async def _settle(self, message: Msg, outcome: Outcome) -> None:
        """A word that does not reach the server costs a redelivery, and no more."""
        try:
            await settle(self._connection, message, outcome)
        except (nats.errors.Error, OSError) as error:
            _logger.warning("not_settled", subject=message.subject, error=repr(error))

    async def _outcome(self, message: Msg) -> Outcome:
        deliveries = deliveries_of(message)
        try:
            task = Task(await self._decode(message), deliveries)
        except PoisonedMessageError as error:
            return Broken(error.message)
        except UnavailableError as error:
            return after_failure(deliveries, error)
        if task.decision.erased:  # its company is, and nobody waits for it
            return Done()
        observe.belongs_to(task.decision)
        try:
            return await self._runner.run(task)
        except ErasedError:
            return Done()
        except Exception as error:  # noqa: BLE001 - settled by policy: again later, and in the end a dead letter
            outcome = after_failure(deliveries, error)
            return await self._give_up(task, outcome) if isinstance(outcome, Broken) else outcome

    async def _decode(self, message: Msg) -> Decision:
        """The decision behind a task. The task streams keep the log's body, under a subject that tells the log's own.

        Raises PoisonedMessageError, UnavailableError.
        """
        try:
            subject = subjects.scheduled_by(message.subject)
        except ValueError as error:
            raise PoisonedMessageError(f"{message.subject} is not the subject of a task.") from error
        await self._keyring.load([(subject, message.data)])
        return decode_decision(subject, message.data, self._keyring)

    async def _give_up(self, task: Task, broken: Broken) -> Outcome:
        """A task that goes to the dead letters ends its run, so that nobody waits for it in vain."""
        try:
            await self._runner.give_up(task, broken.reason)
        except DataEngineError as error:
            return after_failure(1, error)
        return broken

    async def _check_consumers(self) -> None:
        """Make a consumer again that somebody removed (TASKS may be dropped and sourced anew)."""
        try:
            await self._ensure_consumers()
        except (nats.errors.Error, OSError) as error:
            _logger.warning("consumers_not_checked", error=repr(error))

    def _consumer(self, queue: "Queue") -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=queue.durable,
            filter_subject=queue.filter,
            ack_policy=AckPolicy_.EXPLICIT,
            ack_wait=self._settings.task_ack_wait_s,
            max_ack_pending=ACK_PENDING_MAX,
        )

    async def _ensure_consumers(self) -> None:
        """Make each queue's consumer, or bring it to the present settings: a library would leave an old one."""
        jetstream = self._connection.jetstream()
        queues = [queue for key in self._steps for queue in _queues(key)]
        await asyncio.gather(*(jetstream.add_consumer(queue.stream, self._consumer(queue)) for queue in queues))

    async def _keep_alive(self) -> None:
        """Tell the server, for every task held longer than a third of its time, that it is not forgotten."""
        period_s = self._settings.task_ack_wait_s / 3
        checked_s = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(period_s)
            if asyncio.get_running_loop().time() - checked_s > CONSUMER_CHECK_S:
                checked_s = asyncio.get_running_loop().time()
                await self._check_consumers()
            old = asyncio.get_running_loop().time() - period_s
            for held in [held for held in self._in_hand.values() if held.since_s < old]:
                try:
                    await held.message.in_progress()
                except (nats.errors.Error, OSError) as error:
                    _logger.warning("no_sign_of_life", subject=held.message.subject, error=repr(error))


async def register(log: EventLog, step: Step[Any]) -> None:
    """Record that this version of a step is served, unless it is recorded already."""
    repository = Repository(log)
    registration = StepRegistered(
        originator_id=step.key,
        originator_version=1,
        version=step.version,
        summary=step.summary,
        config_schema=dict(step.config_schema()),
        has_effects=step.has_effects,
    )
    while True:
        known = await repository.fresh_thing(PLATFORM_ORG, STEP, step.key)
        events = administration.register_step(known, registration)
        if not events:
            return
        decision = Decision(
            org_id=PLATFORM_ORG,
            kind=STEP,
            aggregate_id=step.key,
            version=known.version + 1,
            routing="log.step",
            decision_id=decision_id(),
            at=datetime.now(UTC),
            actor=SERVICE_ACTOR,
            events=tuple(events),
        )
        try:
            await log.append(decision)
            return
        except VersionConflictError:
            continue  # another worker registered it in this moment; look again


def _queues(step_key: str) -> list[Queue]:
    """The queue of a step's quick tasks, and those of its bulk tasks."""
    quick = Queue(subjects.TASKS, f"step-{step_key}", subjects.task_filter(step_key), f"tasks:{step_key}", FETCH_BATCH)
    return [
        quick,
        *(
            Queue(
                subjects.BULK_TASKS,
                f"bulk-{bucket}-{step_key}",
                subjects.bulk_filter(step_key, bucket),
                f"bulk:{bucket}:{step_key}",
                BULK_FETCH_BATCH,
            )
            for bucket in range(subjects.BULK_BUCKETS)
        ),
    ]


def _org_of(message: Msg) -> str:
    """Whose task it is; whose turn it is is no reason to fail, so any subject has an answer."""
    return message.subject.rpartition(".")[0].rpartition(".")[0].rpartition(".")[2]
