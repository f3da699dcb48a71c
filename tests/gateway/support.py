"""What the gateway's tests share: a small world in the read models, and a stand-in for services and projector."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import jwt
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import subjects
from events.administration import BlueprintStep
from events.blobs import BlobStore
from events.commands import COMMANDS, Accepted, Answer, Command, CreateSubmission
from events.context import SERVICE_ACTOR, Role
from events.errors import RejectedError, rejection_to_json
from events.ids import first_run_id, new_id
from events.keys import Owner
from events.log import EventLog
from events.model import Decision, Event
from events.payload import describe, encode_records
from events.preview import PreviewMessage, PreviewRequest, PreviewRows, PreviewStep
from events.processing import RunStarted, RunSucceeded, StepScheduled, StepSucceeded, SubmissionCreated
from events.secrets import verifier_of

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


JWT_SECRET = "a-shared-secret-of-the-tests-0123456789"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@dataclass
class Person:
    user_id: str
    org_id: str
    company_id: str | None
    role: Role
    token_id: str
    token: str
    identity: str

    @property
    def headers(self) -> dict[str, str]:
        return bearer(self.token)


def claims(person: Person, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    content = {"sub": person.identity, "aud": "authenticated", "iat": now, "exp": now + 300} | changes
    return {name: value for name, value in content.items() if value is not None}


def session(person: Person, key: Any = JWT_SECRET, algorithm: str = "HS256", **changes: Any) -> dict[str, str]:
    return bearer(jwt.encode(claims(person, **changes), key, algorithm))


@dataclass
class World:
    """An org with two companies and somebody of every role, and another org."""

    org_id: str
    company_id: str
    other_company_id: str
    admin: Person
    company_admin: Person
    member: Person
    other_member: Person
    stranger: Person
    strange_company_id: str
    people: list[Person] = field(default_factory=list)


positions = iter(range(1_000_000, 10**9))


async def insert(pool: asyncpg.Pool, table: str, **row: Any) -> None:
    """A row of a read model, as the projector would write it."""
    marks = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await pool.execute(f"INSERT INTO data_engine.{table} ({', '.join(row)}) VALUES ({marks})", *row.values())


async def add_world(pool: asyncpg.Pool) -> World:
    org_id, strange_org_id = new_id(), new_id()
    company_id, other_company_id, strange_company_id = new_id(), new_id(), new_id()
    for org, name in ((org_id, "Acme"), (strange_org_id, "Strange")):
        await insert(
            pool, "orgs_v2", org_id=org, name=name, members_may_work=True, sign_in_rules="[]", limits="{}",
            created_at=AT, position=next(positions),
        )  # fmt: skip
    for company, org in ((company_id, org_id), (other_company_id, org_id), (strange_company_id, strange_org_id)):
        await add_company(pool, org, company, "Globex")
    return World(
        org_id,
        company_id,
        other_company_id,
        admin=await add_person(pool, org_id, "org_admin", None),
        company_admin=await add_person(pool, org_id, "company_admin", company_id),
        member=await add_person(pool, org_id, "member", company_id),
        other_member=await add_person(pool, org_id, "member", other_company_id),
        stranger=await add_person(pool, strange_org_id, "org_admin", None),
        strange_company_id=strange_company_id,
    )


async def add_company(pool: asyncpg.Pool, org_id: str, company_id: str, name: str) -> None:
    await insert(
        pool, "companies_v1", company_id=company_id, org_id=org_id, name=name, created_at=AT, position=next(positions)
    )


async def add_person(
    pool: asyncpg.Pool, org_id: str, role: Role, company_id: str | None, identity: str | None = None
) -> Person:
    token = "dex_" + secrets.token_hex(22)
    person = Person(new_id(), org_id, company_id, role, new_id(), token, identity or f"sub-{new_id()}")
    at = next(positions)
    await insert(
        pool, "users_v2", user_id=person.user_id, org_id=org_id, company_id=company_id, email="a@b.example", name="A",
        role=role, identity=person.identity, created_at=AT, position=at, last_position=at,
    )  # fmt: skip
    await insert(
        pool, "tokens_v2", token_id=person.token_id, org_id=org_id, company_id=company_id, user_id=person.user_id,
        role=role, name="a token", hint=token[:8], created_at=AT, position=at, last_position=at,
    )  # fmt: skip
    await add_secret(pool, org_id, person.token_id, token)
    return person


async def add_secret(pool: asyncpg.Pool, org_id: str, token_id: str, token: str) -> str:
    secret_id = new_id()
    await insert(
        pool, "token_secrets_v2", secret_id=secret_id, org_id=org_id, token_id=token_id, position=next(positions)
    )
    await insert(pool, "credentials", verifier=verifier_of(token), secret_id=secret_id, org_id=org_id)
    return secret_id


async def add_invitation(pool: asyncpg.Pool, org_id: str, company_id: str, *, expired: bool = False) -> str:
    """An invited user of the company; the invitation."""
    invitation, user_id, secret_id, at = "dexi_" + secrets.token_hex(22), new_id(), new_id(), next(positions)
    ends = datetime.now(UTC) + timedelta(hours=-1 if expired else 1)
    await insert(
        pool, "users_v2", user_id=user_id, org_id=org_id, company_id=company_id, email="a@b.example", role="member",
        invitation_id=secret_id, invitation_expires_at=ends, created_at=AT, position=at, last_position=at,
    )  # fmt: skip
    await insert(pool, "credentials", verifier=verifier_of(invitation), secret_id=secret_id, org_id=org_id)
    return invitation


async def touch(pool: asyncpg.Pool, table: str, change: str, **key: str) -> None:
    """Change a row as the projector would: with the position of the change."""
    ((name, value),) = key.items()
    at = "position" if table == "orgs_v2" else "last_position"
    await pool.execute(f"UPDATE data_engine.{table} SET {change}, {at} = $2 WHERE {name} = $1", value, next(positions))


def decision(org_id: str, kind: str, events: list[Event], routing: str, company_id: str | None = None) -> Decision:
    return Decision(
        org_id=org_id, kind=kind, aggregate_id=events[0].originator_id, version=events[0].originator_version,
        routing=routing, decision_id=new_id(), at=AT, actor=SERVICE_ACTOR, events=tuple(events), company_id=company_id,
    )  # fmt: skip


STEP_KEYS = ("first", "second")


class Service:
    """Answers commands as a test says (`answer`), and plays through submissions with two steps.

    It appends real decisions, writes the rows that the projector would, and gives its signal. The second step adds
    `"done": true` to every record and rejects none; with `hold` a run goes on only when it is released.
    """

    def __init__(self, nats: Client, pool: asyncpg.Pool) -> None:
        self._nats, self._pool = nats, pool
        self.log = EventLog(nats)
        self.commands: list[Command] = []
        self.previews: list[PreviewRequest] = []
        self.answer: Callable[[Command], Accepted] = lambda command: Accepted(position=1)
        self.hold: asyncio.Event | None = None
        self.signal_ends = True
        self._subscriptions: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._subscriptions = [
            await self._nats.subscribe("ask.*", cb=self._on_ask),
            await self._nats.subscribe(subjects.PREVIEW, cb=self._on_preview),
        ]
        await self._nats.flush()

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_ask(self, message: Msg) -> None:
        command = COMMANDS[message.subject.removeprefix("ask.")].model_validate_json(message.data)
        self.commands.append(command)
        task = asyncio.create_task(self._do(command, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_preview(self, message: Msg) -> None:
        """Each step gives the rows as they are."""
        asked = PreviewRequest.model_validate_json(message.data)
        self.previews.append(asked)
        rows = PreviewRows(rows=len(asked.records), row_ids=asked.row_ids, records=asked.records)
        for index, step in enumerate(asked.steps):
            done = PreviewStep(
                index=index, key=step.key, version="1", status="succeeded", fields=[], duration_us=1, output=rows
            )
            await message.respond(PreviewMessage(kind="step", step=done).model_dump_json().encode())
        await message.respond(PreviewMessage(kind="end").model_dump_json().encode())

    async def _do(self, command: Command, message: Msg) -> None:
        try:
            accepted = self.answer(command)
            if isinstance(command, CreateSubmission):
                accepted = Accepted(position=await self.submission(command))
            answer = Answer(accepted=accepted)
        except RejectedError as error:
            answer = Answer(rejected=rejection_to_json(error))
        await message.respond(answer.model_dump_json().encode())
        if isinstance(command, CreateSubmission) and command.start_run:
            if self.hold is not None:
                await self.hold.wait()
            await self.finish(command)

    async def submission(self, command: CreateSubmission) -> int:
        """The submission and its run's start: in the log, and projected."""
        at: dict[str, Any] = {"originator_id": first_run_id(command.aggregate_id), "originator_version": 1}
        created = SubmissionCreated(
            **at, submission_id=command.aggregate_id, company_id=command.company_id,
            blueprint_id=command.blueprint_id, name=command.name, records=command.records,
        )  # fmt: skip
        events: list[Any] = [created]
        if command.start_run:
            started = RunStarted(
                **at, company_id=command.company_id, submission_id=command.aggregate_id,
                blueprint_id=command.blueprint_id, plan=tuple(BlueprintStep(key=key) for key in STEP_KEYS),
            )  # fmt: skip
            events += [started, StepScheduled(**at, step_index=0, step_key=STEP_KEYS[0], attempt=1)]
        routing = f"due.{STEP_KEYS[0]}" if command.start_run else "log.submission"
        position = await self._append(command, "run", events, routing)
        records = command.records
        await insert(
            self._pool, "submissions_v1", submission_id=command.aggregate_id, org_id=command.org_id,
            company_id=command.company_id, blueprint_id=command.blueprint_id, name=command.name,
            records_digest=records.digest, records_size_bytes=records.size_bytes, records_rows=records.rows,
            records_inline=records.inline is not None, created_by=command.actor.user_id, created_at=AT,
            position=position,
        )  # fmt: skip
        if not command.start_run:
            return position
        await insert(
            self._pool, "runs_v2", run_id=first_run_id(command.aggregate_id), org_id=command.org_id,
            company_id=command.company_id, submission_id=command.aggregate_id,
            blueprint_id=command.blueprint_id, status="running",
            step_keys=list(STEP_KEYS), current_step=0, current_attempt=1, created_by=command.actor.user_id,
            started_at=AT, position=position, last_position=position,
        )  # fmt: skip
        await self.signal(position)
        return position

    async def finish(self, command: CreateSubmission) -> int:
        """The run's two steps and its end, in one decision."""
        run_id = first_run_id(command.aggregate_id)
        at: dict[str, Any] = {"originator_id": run_id, "originator_version": 2}
        blobs, owner = BlobStore(self._nats), Owner(command.org_id, command.company_id)
        records = orjson.loads(await blobs.load(owner, command.records))
        done = [{**record, "done": True} for record in records]
        outputs = [describe(encode_records(batch), len(batch)) for batch in (records, done)]
        events: list[Event] = [
            StepSucceeded(
                **at, step_index=index, step_key=key, step_version="1", attempt=1, started_at=AT, duration_us=10,
                input_digest=command.records.digest, input_rows=command.records.rows, output=outputs[index],
            )
            for index, key in enumerate(STEP_KEYS)
        ]  # fmt: skip
        events.append(RunSucceeded(**at, output_digest=outputs[1].digest, output_rows=len(done)))
        position = await self._append(command, "run", events, "end.succeeded")
        for index, key in enumerate(STEP_KEYS):
            output = outputs[index]
            if output.inline is None:
                await blobs.put(owner, output.digest, encode_records((records, done)[index]))
            await insert(
                self._pool, "step_results_v1", run_id=run_id, step_index=index, org_id=command.org_id,
                company_id=command.company_id, submission_id=command.aggregate_id, step_key=key, step_version="1",
                status="succeeded", attempt=1, started_at=AT, ended_at=AT, duration_us=10,
                input_digest=command.records.digest, input_rows=command.records.rows, output_digest=output.digest,
                output_size_bytes=output.size_bytes, output_rows=output.rows,
                output_inline=output.inline is not None, output_position=position, position=position,
            )  # fmt: skip
        await self._pool.execute(
            "UPDATE data_engine.runs_v2 SET status = 'succeeded', current_step = NULL, current_attempt = NULL,"
            " ended_at = $2, last_position = $3 WHERE run_id = $1",
            run_id, AT, position,
        )  # fmt: skip
        await self.signal(position, [run_id] if self.signal_ends else [])
        return position

    async def signal(
        self, position: int, ended: list[str] | None = None, *, access: bool = False, reset: bool = False
    ) -> None:
        await self._pool.execute("UPDATE data_engine.projection_checkpoints SET position = $1", position)
        body = {"position": position, "ended": ended or [], "access": access, "reset": reset}
        # No flush: one that is cancelled ends nats-py's read loop when its answer comes (seen with 2.16.0).
        await self._nats.publish(subjects.PROJECTED, orjson.dumps(body))

    async def _append(self, command: CreateSubmission, kind: str, events: list[Event], routing: str) -> int:
        entry = decision(command.org_id, kind, events, routing, command.company_id)
        return (await self.log.append(entry)).position


def sending(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """How an endpoint takes a body, as arguments of httpx: an upload is told in the query string what its file is."""
    if path.endswith("submissions/upload"):
        return {"params": body, "content": b"name,city\nGlobex,Bonn\n"}
    return {"json": body}
