"""What the gateway asks of the services, and what it does when nobody answers."""

import hashlib
import re
import time

import asyncpg
import httpx
import orjson
import pytest
from nats.aio.client import Client

from events import subjects
from events.commands import COMMANDS, Accepted, CreateCompany
from events.errors import IdempotencyError, InvalidInputError, NotFoundError, RejectedError, StateConflictError
from events.ids import derive_id, new_id
from events.secrets import RANDOM_CHARS, TOKEN_PREFIX
from gateway.state import Gateway
from tests.gateway.support import Service, World, touch

COMPANY = {"name": "Initech"}


async def create(client: httpx.AsyncClient, world: World, key: str | None = None, **body: str) -> httpx.Response:
    headers = world.admin.headers | ({"Idempotency-Key": key} if key else {})
    return await client.post("/v1/companies/create", json=COMPANY | body, headers=headers)


async def test_the_command_says_who_and_what(client: httpx.AsyncClient, world: World, service: Service) -> None:
    headers = world.admin.headers | {"Idempotency-Key": "k1", "X-Request-Id": "req-7"}
    answer = await client.post("/v1/companies/create", json=COMPANY, headers=headers)
    command_id = derive_id(world.org_id, "/v1/companies/create", "k1")
    assert answer.status_code == 201
    assert answer.headers["X-Request-Id"] == "req-7"
    assert answer.json() == {"company_id": derive_id(command_id, "company"), "position": 1, "repeated": False}
    command = service.commands[-1]
    assert isinstance(command, CreateCompany)
    assert command.command_id == command_id
    assert command.org_id == world.org_id
    assert command.actor.model_dump() == {
        "method": "api_token",
        "user_id": world.admin.user_id,
        "token_id": world.admin.token_id,
        "role": "org_admin",
    }
    assert command.digest == hashlib.sha256(b'{"name":"Initech"}').hexdigest()
    assert command.request_id == "req-7"


async def test_the_same_key_asks_for_the_same_thing(client: httpx.AsyncClient, world: World, service: Service) -> None:
    key = new_id()
    first, again = await create(client, world, key), await create(client, world, key)
    other_body, other_key = await create(client, world, key, name="Other"), await create(client, world, new_id())
    ids = [answer.json()["company_id"] for answer in (first, again, other_body, other_key)]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    digests = [command.digest for command in service.commands]
    assert digests[0] == digests[1] != digests[2]


async def test_how_long_to_wait_is_not_part_of_what_is_asked(
    client: httpx.AsyncClient, world: World, service: Service
) -> None:
    body = {"company_id": world.company_id, "blueprint_id": new_id(), "records": [{"b": 1, "a": 2}]}
    for wait_s in (0, 0.01):
        await client.post("/v1/submissions/create", json=body | {"wait_s": wait_s}, headers=world.admin.headers)
    assert len({command.digest for command in service.commands}) == 1


@pytest.mark.parametrize("key", ["", "with space", "ä", "x" * 256, "tab\t"])
async def test_keys_that_are_none(key: str, client: httpx.AsyncClient, world: World, service: Service) -> None:
    headers = [*world.admin.headers.items(), ("Idempotency-Key", key.encode())]
    answer = await client.post("/v1/companies/create", json=COMPANY, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 422
    assert not service.commands


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInputError("Bad.", [{"path": "/a", "message": "b"}]), 422, "invalid_input"),
        (NotFoundError("There is no x."), 404, "not_found"),
        (StateConflictError("It is archived."), 409, "state_conflict"),
        (IdempotencyError("Used before."), 409, "idempotency_key_reused"),
        (RejectedError("No.", code="some_new_code"), 409, "some_new_code"),
    ],
)
async def test_rejections(
    error: RejectedError, status: int, code: str, client: httpx.AsyncClient, world: World, service: Service
) -> None:
    def reject(_: object) -> Accepted:
        raise error

    service.answer = reject
    answer = await create(client, world)
    assert answer.status_code == status
    problem = answer.json()
    assert problem["code"] == code
    assert problem["detail"] == error.message
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem.get("errors", []) == error.details.get("problems", [])


async def test_without_a_service_the_command_is_kept(client: httpx.AsyncClient, world: World, nats: Client) -> None:
    answer = await create(client, world)
    assert answer.status_code == 202
    deferred = answer.json()
    command_id = derive_id(world.org_id, "/v1/companies/create", deferred["idempotency_key"])
    assert deferred["status"] == "deferred"
    assert deferred["command_id"] == command_id
    assert deferred["company_id"] == derive_id(command_id, "company")
    kept = await nats.jetstream().get_last_msg(subjects.COMMANDS, subjects.deferred(world.org_id, "create_company"))
    assert kept.data is not None
    assert COMMANDS["create_company"].model_validate_json(kept.data).command_id == command_id
    assert (kept.headers or {})["Nats-Msg-Id"].startswith(f"{command_id}.")


async def test_no_service_is_noticed_at_once_and_a_slow_one_in_time(
    client: httpx.AsyncClient, world: World, nats: Client, gateway: Gateway
) -> None:
    began = time.monotonic()
    assert (await create(client, world)).status_code == 202
    assert time.monotonic() - began < gateway.settings.command_timeout_s

    async def silence(_: object) -> None:
        pass

    mute = await nats.subscribe("ask.*", cb=silence)
    await nats.flush()
    began = time.monotonic()
    assert (await create(client, world)).status_code == 202
    assert time.monotonic() - began >= gateway.settings.command_timeout_s
    await mute.unsubscribe()


async def test_a_service_that_cannot_decide_now_defers(client: httpx.AsyncClient, world: World, nats: Client) -> None:
    async def unavailable(message: object) -> None:
        await message.respond(orjson.dumps({"unavailable": "the log is away"}))  # type: ignore[attr-defined]

    subscription = await nats.subscribe("ask.*", cb=unavailable)
    await nats.flush()
    assert (await create(client, world)).status_code == 202
    await subscription.unsubscribe()


async def test_what_a_rewound_log_stops_is_refused_with_the_reason(
    client: httpx.AsyncClient, world: World, nats: Client
) -> None:
    async def rewound(message: object) -> None:
        told = {"unavailable": "The log was cut: it ends at 7.", "code": "log_rewound"}
        await message.respond(orjson.dumps(told))  # type: ignore[attr-defined]

    subscription = await nats.subscribe("ask.*", cb=rewound)
    await nats.flush()
    refused = await create(client, world)
    assert (refused.status_code, refused.json()["code"]) == (503, "log_rewound")
    assert refused.json()["detail"] == "The log was cut: it ends at 7."
    assert "Retry-After" in refused.headers
    await subscription.unsubscribe()


async def test_a_token_is_never_deferred(client: httpx.AsyncClient, world: World) -> None:
    body = {"user_id": world.member.user_id, "name": "sync"}
    answer = await client.post("/v1/tokens/create", json=body, headers=world.admin.headers)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


async def test_a_token_is_shown_once(
    client: httpx.AsyncClient, world: World, service: Service, database: asyncpg.Pool
) -> None:
    body = {"user_id": world.member.user_id, "name": "sync"}
    headers = world.company_admin.headers | {"Idempotency-Key": new_id()}
    first = (await client.post("/v1/tokens/create", json=body, headers=headers)).json()
    assert re.fullmatch(r"dex_[0-9A-Za-z]{43}", first["token"])
    command = service.commands[-1]
    verifier = hashlib.sha256(first["token"].encode()).hexdigest()
    row = await database.fetchrow("SELECT * FROM data_engine.credentials WHERE verifier = $1", verifier)
    assert str(row["secret_id"]) == command.secret_id  # type: ignore[attr-defined]
    sent = command.model_dump_json()
    assert first["token"] not in sent
    assert verifier not in sent
    digest = command.digest
    service.answer = lambda _: Accepted(position=1, repeated=True)
    again = (await client.post("/v1/tokens/create", json=body, headers=headers)).json()
    assert again == {"token_id": first["token_id"], "token": None, "hint": None, "position": 1, "repeated": True}
    assert service.commands[-1].digest == digest
    assert len(TOKEN_PREFIX) + RANDOM_CHARS == len(first["token"])


async def test_a_revocation_is_in_force_when_it_has_answered(
    client: httpx.AsyncClient, world: World, service: Service, database: asyncpg.Pool, gateway: Gateway
) -> None:
    assert (await client.post("/v1/orgs/get", json={}, headers=world.member.headers)).status_code == 200
    target = gateway.signals.position + 10
    await touch(database, "tokens_v2", "revoked_at = now()", token_id=world.member.token_id)

    def accept(_: object) -> Accepted:
        import asyncio

        service._tasks.add(asyncio.ensure_future(service.signal(target)))
        return Accepted(position=target)

    service.answer = accept
    answer = await client.post(
        "/v1/tokens/revoke", json={"token_id": world.member.token_id}, headers=world.company_admin.headers
    )
    assert answer.json() == {
        "token_id": world.member.token_id, "position": target, "repeated": False, "in_force": True,
    }  # fmt: skip
    assert (await client.post("/v1/orgs/get", json={}, headers=world.member.headers)).status_code == 401


async def test_what_was_made_a_moment_ago_can_be_named_by_its_company(
    client: httpx.AsyncClient, world: World, service: Service, database: asyncpg.Pool, gateway: Gateway
) -> None:
    """Its read model may not know it yet, nor soon; the log does."""
    body = {"blueprint_id": new_id(), "records": [{}], "wait_s": 10}
    run_id = (await client.post("/v1/submissions/create", json=body, headers=world.member.headers)).json()["run_id"]
    await database.execute("DELETE FROM data_engine.runs_v2 WHERE run_id = $1", run_id)
    await database.execute("UPDATE data_engine.projection_checkpoints SET position = 0")
    gateway.signals.position = 0
    mine = await client.post("/v1/runs/cancel", json={"run_id": run_id}, headers=world.member.headers)
    assert mine.status_code == 200, mine.text
    theirs = await client.post("/v1/runs/cancel", json={"run_id": run_id}, headers=world.other_member.headers)
    assert theirs.status_code == 404


async def test_the_company_of_a_submission(client: httpx.AsyncClient, world: World, service: Service) -> None:
    body = {"blueprint_id": new_id(), "records": [{}]}
    unsaid = await client.post("/v1/submissions/create", json=body, headers=world.admin.headers)
    assert unsaid.json()["errors"][0]["path"] == "/company_id"
    foreign = body | {"company_id": world.other_company_id}
    assert (await client.post("/v1/submissions/create", json=foreign, headers=world.member.headers)).status_code == 404
    assert not service.commands
    own = await client.post("/v1/submissions/create", json=body, headers=world.member.headers)
    assert own.status_code == 201
    assert service.commands[-1].company_id == world.company_id  # type: ignore[attr-defined]
