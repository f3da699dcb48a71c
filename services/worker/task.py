"""What a worker does with one task: fold the run, execute its due step and those that follow, record, once.

Steps may execute twice; a result is recorded once, because the version check lets one decision through and every
other attempt reloads and finds that the run no longer waits for it (design rule 5).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from events.batch import BatchStore
from events.blobs import BlobStore
from events.context import SERVICE_ACTOR
from events.errors import PayloadLostError, UnavailableError, VersionConflictError
from events.keys import Owner
from events.log import EventLog, decision_id
from events.model import Decision, Event
from events.payload import Payload, digest_of
from events.processing import RUN
from events.subjects import BULK, QUICK, Lane, lane_of
from services import observe
from services.domain import run as runs
from services.domain import verification
from services.domain.outcome import Done, Fault, Outcome, Reuse
from services.domain.run import RunState
from services.repository import events_of
from services.settle import Done as Settled
from services.settle import Outcome as Settlement
from services.settle import RetryAfter
from services.steps.base import Step, StepError
from services.worker.batches import BatchRunner, BatchStep
from services.worker.entity_sets import learning_of
from services.worker.execution import Executed, Failure, execute
from services.worker.isolation import Place
from services.worker.references import TenantKeys, inputs_of, references_of
from services.worker.registry import Registry
from services.worker.remote import RemoteStep
from services.worker.reuse import Reuser
from services.worker.spread import Superseded

INLINE_MAX_BYTES: dict[Lane, int] = {QUICK: 64 * 1024, BULK: 8 * 1024}
"""Larger batches run in a step process, so that the worker's loop stays free: above all from those who have many."""
UNRECORDED_MAX_BYTES = 256 * 1024
MARK_STARTED_AFTER_S = 0.3
EARLY_TOLERANCE_S = 0.02
DELIVERIES_MAX = 100
"""Hand-backs and outages cost deliveries too, so only a task that nothing else explains is given up."""
LOST_DELIVERIES = 4
"""So often a verification looks for a payload that is lost; some seconds."""
SHORTCUT_MAX_AGE_S = 60.0
CONFLICT_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Task:
    """A decision that made a step due, as TASKS delivered it. `suspicious`: an earlier delivery came to nothing."""

    decision: Decision
    deliveries: int

    @property
    def lane(self) -> Lane:
        """Where it came from, and where what it schedules goes to."""
        return lane_of(self.decision.routing)

    @property
    def suspicious(self) -> bool:
        """Whether a worker may have died of it, so that it must run isolated. A backoff costs one delivery."""
        waits = any(getattr(event, "not_before", None) for event in self.decision.events)
        return self.deliveries > (2 if waits else 1)


@dataclass(slots=True)
class Chain:
    """What has been executed and not yet recorded."""

    outcomes: list[Outcome] = field(default_factory=list)
    size_bytes: int = 0
    began_s: float = field(default_factory=time.perf_counter)


class TaskRunner:
    """Runs tasks over one log. `guard` is told when a step begins and ends on the worker's own loop."""

    def __init__(
        self,
        log: EventLog,
        blobs: BlobStore,
        registry: Registry,
        processes: Place,
        checkpoint_ms: float,
        guard: Callable[[float | None], None],
        batches: BatchRunner,
        reuser: Reuser,
        tenant_keys: TenantKeys,
    ) -> None:
        self._log = log
        self._blobs = blobs
        self._batches = batches
        self._reuser = reuser
        self._tenant_keys = tenant_keys
        self._registry = registry
        self._processes = processes
        self._checkpoint_s = checkpoint_ms / 1000
        self._guard = guard
        self._turns = asyncio.Lock()

    async def run(self, task: Task) -> Settlement:
        """Bring the run forward as far as this task allows. Connection trouble is raised, all else is recorded."""
        state = await self._load(task)
        if state.version < task.decision.version:
            raise UnavailableError("The replica that answered is behind the task; its answer counts for nothing.")
        scheduled, due = runs.fold(state.run_id, task.decision.events).due, state.due
        if due is None or scheduled is None or not runs.awaits(state, scheduled.step_index, scheduled.attempt):
            return Settled()
        if due.not_before is not None:
            early_s = (due.not_before - datetime.now(UTC)).total_seconds()
            if early_s > EARLY_TOLERANCE_S:
                return RetryAfter(early_s)
        if task.deliveries > DELIVERIES_MAX:
            message = f"The task was delivered {task.deliveries} times and no worker lived to finish it."
            lost = Fault(due.step_index, due.attempt, "worker_lost", message, retryable=False)
            await self._record(task, state, [lost])
            return Settled()
        try:
            await self._execute_from(task, state)
        except PayloadLostError as error:
            if state.verifies is None or task.deliveries < LOST_DELIVERIES:
                raise  # it may be there again: a replica was behind, a store is being restored
            # What a verification is to find out: nobody waits for it any longer.
            fresh = await self._reload(task)
            message = f"What was recorded is not there as it was: {error.message}"
            fault = Fault(due.step_index, due.attempt, "payload_lost", message, retryable=False)
            await self._record(task, fresh, [fault])
        return Settled()

    async def give_up(self, task: Task, reason: str) -> None:
        """End a run whose task cannot be dealt with, with that reason."""
        state = await self._reload(task)
        if state.due is not None:
            fault = Fault(state.due.step_index, state.due.attempt, "worker_error", reason, retryable=False)
            await self._record(task, state, [fault])

    async def _load(self, task: Task) -> RunState:
        """The run's state. A fresh first decision is the whole history, unless a later one turns up as a conflict.

        A task that was delivered before, is old, or has an effect outside, is not begun on a guess.
        """
        decision = task.decision
        if decision.version > 1 or task.deliveries > 1:
            return await self._reload(task)
        state = runs.fold(decision.aggregate_id, decision.events)
        age_s = (datetime.now(UTC) - decision.at).total_seconds()
        has_effects = state.due is not None and self._registry[state.plan[state.due.step_index].key].has_effects
        return await self._reload(task) if has_effects or age_s > SHORTCUT_MAX_AGE_S else state

    async def _execute_from(self, task: Task, state: RunState) -> None:
        """Execute the due step, and the next ones while little is unrecorded; then record them all at once."""
        assert state.due is not None
        chain = Chain()
        index, attempt = state.due.step_index, state.due.attempt
        source = state.input_of(index)
        if (instead := await self._instead(task, state, index, attempt)) is not None:
            await self._record(task, state, [instead])
            return
        if source.format != "json" or self._needs_context(state, index):
            await self._execute_batch(task, state, index, attempt)
            return
        org_id = task.decision.org_id
        earlier = await self._reuser.first_run(org_id, state)
        data: bytes | None = None
        while True:
            if task.lane == BULK and not chain.outcomes:
                chain.began_s += await self._turn()  # waiting is no work
            step = self._registry[state.plan[index].key]
            outcome: Outcome | None = None
            if earlier is not None:
                outcome = self._reuser.of_records(earlier, state, index, attempt, step, source)
            if isinstance(outcome, Reuse):
                data = None
            else:
                data = data if data is not None else await self._blobs.load(Owner(org_id, state.company_id), source)
                outcome, data = await self._step(task, state, index, attempt, data)
            chain.outcomes.append(outcome)
            if isinstance(outcome, Fault):
                break
            source = outcome.output
            chain.size_bytes += len(data or b"")
            index, attempt = index + 1, 1
            if index == len(state.plan) or not self._may_go_on(state, index, chain):
                break
        await self._record(task, state, chain.outcomes)

    async def _instead(self, task: Task, state: RunState, index: int, attempt: int) -> Reuse | Fault | None:
        """What stands for executing a step of a verification; None: it is executed, as those of any other run are."""
        if state.verifies is None:
            return None
        step, source = self._registry[state.plan[index].key], state.input_of(index)
        if source.inline is not None and digest_of(source.inline.encode()) != source.digest:
            message = f"The recorded input is not what its digest {source.digest} is of: the record was altered."
            return Fault(index, attempt, "input_altered", message, retryable=False, step_version=step.version)
        if step.has_effects:
            history = await self._log.history(task.decision.org_id, RUN, state.verifies.run_id)
            return verification.taken(runs.fold(state.verifies.run_id, events_of(history)), index, attempt)
        return verification.version_fault(state, index, attempt, step.version)

    def _needs_context(self, state: RunState, index: int) -> bool:
        """Whether the step wants more than its batch; then that is treated as a large one, however small it is."""
        step = self._registry.get(state.plan[index].key)
        return step is not None and (step.uses_tenant_key or bool(_references(step, state.plan[index].config)))

    async def _execute_batch(self, task: Task, state: RunState, index: int, attempt: int) -> None:
        """Execute one step over a large batch, or find that it was done before; and record it."""
        org_id, planned = task.decision.org_id, state.plan[index]
        step, source, began = self._registry[planned.key], state.input_of(index), datetime.now(UTC)

        async def tell(chunks_done: int, chunks_total: int | None) -> bool:
            fresh = await self._reload(task)
            events = runs.progressed(fresh, index, attempt, began, chunks_done, chunks_total)
            with contextlib.suppress(VersionConflictError):  # somebody else moved the run; the next time tells
                if events:
                    await self._log.append(_decision(task, fresh, events))
            return bool(events)

        try:
            names = _references(step, planned.config)
            then = None if state.verifies is None else state.verifies.steps[index].entities_version
            references = await references_of(self._log, org_id, state.company_id, names, then)
        except StepError as error:
            fault = Fault(index, attempt, error.code, str(error), error.retryable, step.version)
            await self._record(task, state, [fault])
            return
        tenant_key = self._tenant_keys.of(org_id) if step.uses_tenant_key else b""
        inputs = inputs_of(source, references.payloads, tenant_key)
        sets = references.sets if state.verifies is None else {}  # a verification teaches nothing
        learning = learning_of(self._log, BatchStore(self._blobs), task.decision, state, index, sets)
        outcome: Outcome | None = await self._reuser.of_batch(org_id, state, index, attempt, step, inputs)
        if outcome is None:
            due = BatchStep(
                org_id, state.company_id, index, attempt, planned.retry.attempts, step, dict(planned.config), source,
                planned.retry.timeout_s, references.payloads, tenant_key, state.reuse_results and not step.has_effects,
                state.verifies is None, learning.learn if learning else None,
            )  # fmt: skip
            try:
                outcome = await self._batches.run(due, tell)
            except Superseded:
                return
            failure = outcome.code if isinstance(outcome, Fault) else None
            observe.step(step.key, outcome.duration_us or 0, failure, isolated=True)
        await self._record(task, state, [outcome])
        if isinstance(outcome, Done) and state.verifies is None and not (learning and learning.changed):
            await self._reuser.keep(org_id, state, step, inputs, outcome)

    def _may_go_on(self, state: RunState, index: int, chain: Chain) -> bool:
        """Whether the next step is executed before this one is recorded (adaptive checkpoints, design rule 4)."""
        step, last = self._registry.get(state.plan[index].key), self._registry[state.plan[index - 1].key]
        return (
            step is not None
            and state.verifies is None
            and not step.has_effects
            and not last.has_effects
            and not self._needs_context(state, index)
            and chain.size_bytes <= UNRECORDED_MAX_BYTES
            and time.perf_counter() - chain.began_s <= self._checkpoint_s
        )

    async def _step(
        self, task: Task, state: RunState, index: int, attempt: int, data: bytes
    ) -> tuple[Done | Fault, bytes]:
        """Execute one step; its outcome, and the encoded output for the next one."""
        planned = state.plan[index]
        step = self._registry[planned.key]
        started_at, began_s = datetime.now(UTC), time.perf_counter()
        large = len(data) > INLINE_MAX_BYTES[task.lane]
        isolated = task.suspicious or large or step.has_effects or step.isolated or isinstance(step, RemoteStep)
        if isolated:
            result = await self._isolated(task, state, index, attempt, data, started_at)
        else:
            self._guard(planned.retry.timeout_s)
            try:
                result = execute(step, data, planned.config)
            finally:
                self._guard(None)
        duration_us = round((time.perf_counter() - began_s) * 1e6)
        failure = result.code if isinstance(result, Failure) else None
        observe.step(step.key, duration_us, failure, isolated=isolated)
        if isinstance(result, Failure):
            fault = Fault(
                index, attempt, result.code, result.message, result.retryable, step.version, started_at, duration_us
            )
            return fault, b""
        output, rejects = await self._keep(Owner(task.decision.org_id, state.company_id), result)
        return Done(index, attempt, step.version, started_at, duration_us, output, rejects), result.output

    async def _turn(self) -> float:
        """Wait until no other bulk task executes in this turn of the loop, so that what comes in is not behind them.

        The seconds that it took.
        """
        began_s = time.perf_counter()
        async with self._turns:
            await asyncio.sleep(0)  # a turn of the loop
        return time.perf_counter() - began_s

    async def _isolated(
        self, task: Task, state: RunState, index: int, attempt: int, data: bytes, started_at: datetime
    ) -> Executed | Failure:
        """Execute in a step process; after a moment, mark the step started for those who watch."""
        planned = state.plan[index]
        execution = asyncio.create_task(
            self._processes.execute(planned.key, data, planned.config, planned.retry.timeout_s, task.lane)
        )
        try:
            done, _ = await asyncio.wait({execution}, timeout=MARK_STARTED_AFTER_S)
            if not done:
                await self._mark_started(task, index, attempt, started_at)
            return await execution
        finally:
            execution.cancel()

    async def _mark_started(self, task: Task, index: int, attempt: int, started_at: datetime) -> None:
        """Tell that a step takes longer. Within a chain it is not yet due, and nothing is said."""
        state = await self._reload(task)
        events = runs.mark_started(state, index, attempt, started_at)
        if events:
            try:
                await self._log.append(_decision(task, state, events))
            except VersionConflictError:
                return  # somebody else moved the run; recording will find out

    async def _keep(self, owner: Owner, result: Executed) -> tuple[Payload, Payload | None]:
        output = await self._blobs.store(owner, result.output, result.output_rows)
        if result.rejects is None:
            return output, None
        return output, await self._blobs.store(owner, result.rejects, result.rejects_rows)

    async def _record(self, task: Task, state: RunState, outcomes: list[Outcome]) -> None:
        """Append what follows from the outcomes; on a conflict reload, and drop them when they are not wanted."""
        decision_key = decision_id()
        for _ in range(CONFLICT_ATTEMPTS):
            events = runs.record(state, outcomes, datetime.now(UTC))
            if not events:
                return
            try:
                await self._log.append(_decision(task, state, events, decision_key))
                return
            except VersionConflictError:
                state = await self._reload(task)
        raise VersionConflictError(f"The run {state.run_id} changes too fast to record a step result.")

    async def _reload(self, task: Task) -> RunState:
        history = await self._log.history(task.decision.org_id, RUN, task.decision.aggregate_id)
        return runs.fold(task.decision.aggregate_id, events_of(history))


def _references(step: Step[Any], config: Mapping[str, Any]) -> Sequence[str]:
    """The runs whose output the step reads; none for a config that does not fit, which the step itself will say."""
    try:
        return step.references(step.config_model.model_validate(config))
    except ValidationError:
        return ()


def _decision(task: Task, state: RunState, events: list[Event], key: str | None = None) -> Decision:
    return Decision(
        org_id=task.decision.org_id,
        kind=RUN,
        aggregate_id=state.run_id,
        version=state.version + 1,
        routing=runs.routing(events, task.lane, verifies=state.verifies is not None),
        decision_id=key or decision_id(),
        at=datetime.now(UTC),
        actor=SERVICE_ACTOR,
        events=tuple(events),
        company_id=state.company_id,
        causation_id=task.decision.decision_id,
        correlation_id=state.submission_id,
        request_id=task.decision.request_id,
    )
