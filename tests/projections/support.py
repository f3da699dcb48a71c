"""Histories to project, and the servers to project them on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from nats.aio.client import Client

from events import subjects
from events.administration import BlueprintStep, RetryPolicy
from events.context import Actor
from events.log import EventLog
from events.model import Decision, Event, Recorded
from events.payload import Payload, describe
from events.processing import RUN
from events.settings import Settings
from migrations.streams import migrate_streams
from projections.base import LIVE_SCHEMA, Projection
from projections.catalogue import PROJECTIONS
from projections.projector import Projector
from services.domain import run as runs

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TIMEOUT_S = 20.0
PLAN = (
    BlueprintStep(key="first", retry=RetryPolicy(attempts=2, backoff_s=5)),
    BlueprintStep(key="second"),
    BlueprintStep(key="third"),
)


def an_id(number: int) -> str:
    return str(UUID(int=number))


ORG, COMPANY, USER, BLUEPRINT, SUBMISSION = (an_id(number) for number in range(1, 6))


def payload(text: str, *, inline: bool = True) -> Payload:
    described = describe(orjson.dumps([{"text": text}]), 1)
    return described if inline else described.model_copy(update={"inline": None})


@dataclass
class History:
    """Decisions, each a position and a second after the one before."""

    org_id: str = ORG
    recorded: list[Recorded] = field(default_factory=list)

    def decide(
        self, kind: str, aggregate_id: str, *events: Event, user_id: str | None = None, routing: str = "log.test"
    ) -> Decision:
        position = len(self.recorded) + 1
        version = 1 + sum(r.decision.aggregate_id == aggregate_id for r in self.recorded)
        decision = Decision(
            org_id=self.org_id,
            kind=kind,
            aggregate_id=aggregate_id,
            version=version,
            routing=routing,
            decision_id=an_id(10_000 + position),
            at=self.at(position),
            actor=Actor(method="api_token", user_id=user_id),
            events=tuple(event.model_copy(update={"originator_version": version}) for event in events),
            company_id=None,
        )
        self.recorded.append(Recorded(position, decision))
        return decision

    def on(self, kind: str, aggregate_id: str, event: type[Event], **fields: Any) -> Decision:
        """A decision of one event."""
        return self.decide(kind, aggregate_id, event(originator_id=aggregate_id, originator_version=0, **fields))

    def run(self, run_id: str, events: Sequence[Event], user_id: str | None = None) -> runs.RunState:
        """A decision of a run; its state afterwards."""
        if events:
            self.decide(RUN, run_id, *events, user_id=user_id, routing=runs.routing(events))
        return runs.fold(run_id, [e for r in self.recorded if r.decision.aggregate_id == run_id for e in
                                  r.decision.events])  # fmt: skip

    def start(self, run_id: str, plan: tuple[BlueprintStep, ...] = PLAN) -> runs.RunState:
        events = runs.start(
            run_id,
            company_id=COMPANY,
            submission_id=SUBMISSION,
            blueprint_id=BLUEPRINT,
            plan=plan,
            records=payload("in"),
        )
        return self.run(run_id, events, user_id=USER)

    def record(self, state: runs.RunState, *outcomes: runs.Outcome) -> runs.RunState:
        return self.run(state.run_id, runs.record(state, outcomes, self.at(len(self.recorded) + 1)))

    @staticmethod
    def at(position: int) -> datetime:
        """The time of the decision at a position."""
        return AT + timedelta(seconds=position)


def done(index: int, attempt: int = 1, **fields: Any) -> runs.Done:
    given: dict[str, Any] = {
        "step_index": index,
        "attempt": attempt,
        "step_version": "7",
        "started_at": AT,
        "duration_us": 1500,
        "output": payload(f"out {index}"),
    }
    return runs.Done(**given | fields)


def fault(index: int, attempt: int = 1, **fields: Any) -> runs.Fault:
    given: dict[str, Any] = {
        "step_index": index,
        "attempt": attempt,
        "code": "boom",
        "message": "it broke",
        "retryable": True,
        "step_version": "7",
        "started_at": AT,
        "duration_us": 2500,
    }
    return runs.Fault(**given | fields)


def whole_run(run_number: int) -> History:
    """One run that succeeds."""
    history = History()
    history.record(history.start(an_id(run_number)), *(done(index) for index in range(3)))
    return history


@dataclass
class World:
    """Servers with an empty log and empty read models."""

    settings: Settings
    nats: Client
    pool: asyncpg.Pool
    log: EventLog

    async def append(self, *histories: History) -> int:
        """Append the decisions; the position of the last."""
        for history in histories:
            for recorded in history.recorded:
                appended = await self.log.append(recorded.decision)
        return appended.position

    async def publish(self, subject: str, body: bytes) -> None:
        """Put a message into the log that no code of ours would."""
        await self.nats.request(subject, body, timeout=5)

    async def rows(self, table: str, order: str = "position") -> list[dict[str, Any]]:
        found = await self.pool.fetch(f"SELECT * FROM {LIVE_SCHEMA}.{table} ORDER BY {order}")
        return [plain(row) for row in found]

    async def everything(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of all read models."""
        return {
            table.name: await self.rows(table.name, ", ".join(table.key))
            for projection in PROJECTIONS
            for table in projection.tables
        }

    async def positions(self) -> set[int]:
        return {row["position"] for row in await self.rows("projection_checkpoints")}

    def projector(self, **options: Any) -> Projector:
        return Projector(self.pool, self.nats, **options)

    @asynccontextmanager
    async def projecting(self, *projectors: Projector) -> AsyncIterator[asyncio.Task[None]]:
        """Projectors that run; yields the task of the last of them."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(projector.run(stop)) for projector in projectors or (self.projector(),)]
        try:
            yield tasks[-1]
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT_S)

    async def project(self, position: int) -> None:
        """Project up to a position."""
        async with self.hints() as hints, self.projecting():
            await until(hints, lambda hint: hint["position"] >= position)

    @asynccontextmanager
    async def hints(self) -> AsyncIterator[asyncio.Queue[dict[str, Any]]]:
        """What projectors publish from now on."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def receive(message: Any) -> None:
            queue.put_nowait(orjson.loads(message.data))

        subscription = await self.nats.subscribe(subjects.PROJECTED, cb=receive)
        await self.nats.flush()
        try:
            yield queue
        finally:
            await subscription.unsubscribe()


async def until(hints: "asyncio.Queue[dict[str, Any]]", reached: Any) -> list[dict[str, Any]]:
    """The hints up to the first that has what is waited for."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(TIMEOUT_S):
        while not found or not reached(found[-1]):
            found.append(await hints.get())
    return found


def at_least(position: int) -> Any:
    """Whether a hint tells of this position."""
    return lambda hint: hint["position"] >= position


async def make_log_anew(connection: Client) -> None:
    """Delete the streams and make them again."""
    for stream in (subjects.TASKS, subjects.EVENTS):
        await connection.request(f"$JS.API.STREAM.DELETE.{stream}", b"", timeout=5)
    await migrate_streams(connection, replicas=1)


async def run_folds(pool: asyncpg.Pool, projections: Sequence[Projection], batch: Sequence[Recorded]) -> list[Any]:
    """Run a batch's statements without checkpoints; the keys that were not found."""
    missing = []
    for projection in projections:
        for statement in projection.fold([r for r in batch if r.decision.kind == projection.kind]):
            missing += await pool.fetch(statement.sql.replace("{schema}", LIVE_SCHEMA), *statement.columns)
    return missing


def plain(row: asyncpg.Record) -> dict[str, Any]:
    """A row with its ids as text, and what is NULL left out."""
    return {name: str(value) if isinstance(value, UUID) else value for name, value in row.items() if value is not None}
