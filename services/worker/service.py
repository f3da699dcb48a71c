"""The worker as a service: registers its steps, takes tasks through FastStream, keeps them alive, hands them back."""

import asyncio
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
from events.errors import DataEngineError, PoisonedMessageError, VersionConflictError
from events.log import EventLog, decision_id
from events.logging import get_logger
from events.mapper import decode_decision
from events.model import Decision
from events.settings import Settings
from services import observe
from services.broker import raw_message
from services.domain import administration
from services.repository import Repository
from services.settle import Broken, Outcome, RetryAfter, after_failure, deliveries_of, settle
from services.steps.base import Step
from services.worker.isolation import StepProcesses
from services.worker.registry import load_steps
from services.worker.task import Task, TaskRunner
from services.worker.watchdog import Watchdog

FETCH_BATCH = 32
FETCH_TIMEOUT_S = 5
ACK_PENDING_MAX = 1_000_000
"""Tasks that wait out a backoff are pending too; one tenant's must not hold up another's."""
CONSUMER_CHECK_S = 15.0
DRAIN_S = 8.0
TASK_SUBJECT_TOKENS = 5

_logger = get_logger("worker")


class Worker:
    """One worker process: the steps of its modules, each with its own durable consumer on TASKS."""

    def __init__(self, settings: Settings, broker: NatsBroker) -> None:
        self.broker = broker
        self._settings = settings
        self._steps = load_steps(settings.step_modules)
        self._slots = {key: asyncio.Semaphore(settings.worker_concurrency) for key in self._steps}
        self._in_hand: dict[str, tuple[Msg, float]] = {}  # by reply subject
        self._working: set[asyncio.Task[None]] = set()
        self._stopping = False
        for step in self._steps.values():
            self._subscribe(step)

    async def start(self) -> Client:
        """Connect, register the steps, and begin to take tasks; the connection."""
        self._connection: Client = await self.broker.connect()
        log = EventLog(self._connection)
        self._watchdog = Watchdog()
        self._processes = StepProcesses(
            self._settings.worker_processes, self._settings.step_modules, self._settings.step_memory_max_bytes
        )
        self._runner = TaskRunner(
            log,
            BlobStore(self._connection),
            self._steps,
            self._processes,
            self._settings.checkpoint_ms,
            self._watchdog,
        )
        for step in self._steps.values():
            await register(log, step)
        await self._ensure_consumers()
        self._keeper = asyncio.create_task(self._keep_alive())
        await self.broker.start()
        _logger.info("worker_started", steps=sorted(self._steps))
        return self._connection

    async def stop(self) -> None:
        """Finish what ends soon, hand back the rest, leave."""
        self._stopping = True
        if self._working:
            await asyncio.wait(self._working, timeout=DRAIN_S)
        for task in list(self._working):
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        await self._processes.close()
        self._watchdog.close()
        await self.broker.stop()

    def _subscribe(self, step: Step[Any]) -> None:
        """One handler a step. It admits a task and returns; a full worker admits none, and so fetches none."""
        subscriber = self.broker.subscriber(
            subjects.task_filter(step.key),
            durable=f"step-{step.key}",
            stream=JStream(subjects.TASKS, declare=False),
            pull_sub=PullSub(batch_size=FETCH_BATCH, timeout=FETCH_TIMEOUT_S),
            config=self._consumer(step.key),
            ack_policy=AckPolicy.MANUAL,
            decoder=raw_message,
            title=f"tasks:{step.key}",
            description=f"{step.summary} The message is the decision that made the step due.",
        )

        async def admit(message: Any) -> None:
            self._in_hand[message.reply] = (message, asyncio.get_running_loop().time())
            slots = self._slots[step.key]
            await slots.acquire()
            working = asyncio.create_task(self._work(message, slots))
            self._working.add(working)
            working.add_done_callback(self._working.discard)

        admit.__name__ = f"task_{step.key}"
        subscriber(admit)

    async def _work(self, message: Msg, slots: asyncio.Semaphore) -> None:
        outcome: Outcome = RetryAfter(DRAIN_S)  # not sooner: this worker would only get it again while it leaves
        try:
            if not self._stopping:
                with observe.task(message) as seen:
                    outcome = seen.of(await self._outcome(message))
        finally:  # a cancelled task is handed back
            slots.release()
            self._in_hand.pop(message.reply, None)
            await self._settle(message, outcome)

    async def _settle(self, message: Msg, outcome: Outcome) -> None:
        """A word that does not reach the server costs a redelivery, and no more."""
        try:
            await settle(self._connection, message, outcome)
        except (nats.errors.Error, OSError) as error:
            _logger.warning("not_settled", subject=message.subject, error=repr(error))

    async def _outcome(self, message: Msg) -> Outcome:
        deliveries = deliveries_of(message)
        try:
            task = Task(_decode(message), deliveries)
        except PoisonedMessageError as error:
            return Broken(error.message)
        observe.belongs_to(task.decision)
        try:
            return await self._runner.run(task)
        except Exception as error:  # noqa: BLE001 - settled by policy: again later, and in the end a dead letter
            outcome = after_failure(deliveries, error)
            return await self._give_up(task, outcome) if isinstance(outcome, Broken) else outcome

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

    def _consumer(self, step_key: str) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=f"step-{step_key}",
            filter_subject=subjects.task_filter(step_key),
            ack_policy=AckPolicy_.EXPLICIT,
            ack_wait=self._settings.task_ack_wait_s,
            max_ack_pending=ACK_PENDING_MAX,
        )

    async def _ensure_consumers(self) -> None:
        """Make each step's consumer, or bring it to the present settings: a library would leave an old one as it is."""
        for key in self._steps:
            await self._connection.jetstream().add_consumer(subjects.TASKS, self._consumer(key))

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
            for message in [held for held, since in self._in_hand.values() if since < old]:
                try:
                    await message.in_progress()
                except (nats.errors.Error, OSError) as error:
                    _logger.warning("no_sign_of_life", subject=message.subject, error=repr(error))


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


def _decode(message: Msg) -> Decision:
    """The decision behind a task. TASKS keeps the log's body, under `tasks.<step>.<org>.<run>.<version>`."""
    tokens = message.subject.split(".")
    if len(tokens) != TASK_SUBJECT_TOKENS:
        raise PoisonedMessageError(f"{message.subject} is not the subject of a task.")
    _, step_key, org_id, run_id, version = tokens
    return decode_decision(subjects.decision(org_id, "run", run_id, int(version), f"due.{step_key}"), message.data)
