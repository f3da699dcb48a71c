"""Which sessions an org's rules let in, and that the user this makes is one, whoever asks twice."""

import asyncio
from typing import Any

import asyncpg
import httpx
import orjson
import pytest

from events.administration import SignInRule
from events.commands import Accepted, AdmitUser
from events.ids import new_id
from gateway.sign_in import matching
from tests.gateway.support import JWT_SECRET, Service, World, bearer, session, touch

COMPANY = "0b9f2a4e-5a0f-5c3e-9d53-0d3e6f6c7a11"


def rule(**changes: Any) -> SignInRule:
    fields = {"name": "staff", "claim": "app_metadata.org", "match": "equals", "value": "acme", "role": "member"}
    return SignInRule.model_validate({**fields, "company_id": COMPANY, **changes})


BY_CLAIM = rule()
BY_DOMAIN = rule(name="domain", claim="email", match="email_domain", value="acme.example")


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"app_metadata": {"org": "acme"}}, "staff"),
        ({"app_metadata": {"org": "ACME"}}, None),
        ({"app_metadata": {"org": "acme "}}, None),
        ({"app_metadata": {"org": ["acme"]}}, None),
        ({"app_metadata": "acme"}, None),
        ({"app_metadata.org": "acme"}, None),
        ({"email": "ada@acme.example", "email_verified": True}, "domain"),
        ({"email": "ada@ACME.example", "email_verified": True}, "domain"),
        ({"email": "ada@acme.example", "email_verified": "true"}, None),
        ({"email": "ada@acme.example", "email_verified": 1}, None),
        ({"email": "ada@acme.example"}, None),
        ({"email": "ada@evil-acme.example", "email_verified": True}, None),
        ({"email": "ada@acme.example.evil", "email_verified": True}, None),
        ({"email": "ada@sub.acme.example", "email_verified": True}, None),
        ({"email": "ada@acme.example@evil", "email_verified": True}, None),
        ({"email": "acme.example", "email_verified": True}, None),
        ({"email": "ada@аcme.example", "email_verified": True}, None),
        ({}, None),
    ],
)
def test_which_claims_a_rule_lets_in(claims: dict[str, Any], name: str | None) -> None:
    found = matching((BY_CLAIM, BY_DOMAIN), claims)
    assert (found.name if found else None) == name


async def configure(database: asyncpg.Pool, world: World, *rules: SignInRule) -> None:
    text = orjson.dumps([one.model_dump() for one in rules]).decode().replace("'", "''")
    await touch(database, "orgs_v2", f"sign_in_rules = '{text}'", org_id=world.org_id)


async def test_a_session_that_names_no_org_is_not_let_in(
    client: httpx.AsyncClient, world: World, database: asyncpg.Pool, service: Service
) -> None:
    await configure(database, world, BY_CLAIM)
    headers = session(world.member, JWT_SECRET, sub=new_id(), app_metadata={"org": "acme"}, email="a@b.example")
    assert (await client.post("/v1/orgs/get", json={}, headers=headers)).status_code == 401
    assert not [command for command in service.commands if isinstance(command, AdmitUser)]


@pytest.mark.parametrize("changes", [{"app_metadata": {"org": "other"}}, {"email": None}, {"email": "x" * 300}])
async def test_a_session_that_does_not_match(
    changes: dict[str, Any], client: httpx.AsyncClient, world: World, database: asyncpg.Pool, service: Service
) -> None:
    await configure(database, world, BY_CLAIM)
    fields = {"sub": new_id(), "app_metadata": {"org": "acme"}, "email": "a@b.example"} | changes
    headers = session(world.member, JWT_SECRET, **fields) | {"X-Data-Engine-Org": world.org_id}
    assert (await client.post("/v1/orgs/get", json={}, headers=headers)).status_code == 401
    assert not service.commands


async def test_a_user_that_was_deactivated_is_not_let_in_again(
    client: httpx.AsyncClient, world: World, database: asyncpg.Pool, service: Service
) -> None:
    await configure(database, world, BY_CLAIM)
    await touch(database, "users_v2", "deactivated_at = now()", user_id=world.member.user_id)
    claims = {"app_metadata": {"org": "acme"}, "email": "a@b.example"}
    headers = session(world.member, JWT_SECRET, **claims) | {"X-Data-Engine-Org": world.org_id}
    assert (await client.post("/v1/orgs/get", json={}, headers=headers)).status_code == 401
    assert not service.commands


async def test_who_asks_twice_at_once_sends_one_command(
    client: httpx.AsyncClient, world: World, database: asyncpg.Pool, service: Service
) -> None:
    await configure(database, world, BY_CLAIM)
    service.answer = lambda command: Accepted(position=0)
    headers = session(world.member, JWT_SECRET, sub=new_id(), app_metadata={"org": "acme"}, email="a@b.example")
    headers |= {"X-Data-Engine-Org": world.org_id}
    await asyncio.gather(*(client.post("/v1/orgs/get", json={}, headers=headers) for _ in range(5)))
    sent = [command for command in service.commands if isinstance(command, AdmitUser)]
    assert sent
    assert len({(command.command_id, command.aggregate_id, command.digest) for command in sent}) == 1
    assert sent[0].sign_in_rule == "staff"
    assert sent[0].actor.method == "jwt"


async def test_a_token_is_no_session(client: httpx.AsyncClient, world: World) -> None:
    body = {"invitation": "dexi_" + "x" * 43}
    by_token = await client.post("/v1/users/accept_invitation", json=body, headers=world.admin.headers)
    assert by_token.status_code == 401
    by_session = await client.post("/v1/users/accept_invitation", json=body, headers=session(world.admin))
    assert by_session.status_code == 404
    garbage = await client.post("/v1/users/accept_invitation", json=body, headers=bearer("a.b.c"))
    assert garbage.status_code == 401
