"""Attacks by tenants that are let in: on tokens, invitations, sign-in rules, roles, and by guessed ids."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from cli.system import Endpoints
from events.administration import SignInRule
from events.ids import first_run_id
from gateway.sign_in import matching
from tests.security.support import (
    Caller,
    Things,
    World,
    faceless,
    invite,
    mint,
    new_company,
    new_id,
    new_session,
    new_token,
    new_user,
    org_of,
)  # fmt: skip


@dataclass
class Tenant:
    """An org of the test's own, with two companies."""

    admin: Caller
    org_id: str
    company_id: str
    other_company_id: str

    async def person(self, role: Any, company_id: str | None = None, **token: Any) -> Caller:
        user_id = await new_user(self.admin, None if role == "org_admin" else company_id or self.company_id, role)
        return await new_token(self.admin, user_id, **token)


@pytest.fixture
async def tenant(client: httpx.AsyncClient, endpoints: Endpoints) -> Tenant:
    admin, org_id = await org_of(client, endpoints)
    return Tenant(admin, org_id, await new_company(admin), await new_company(admin))


@pytest.fixture(scope="module")
async def database(endpoints: Endpoints) -> AsyncIterator[asyncpg.Connection]:
    """The database as its owner: for shifting a time instead of waiting for it."""
    connection = await asyncpg.connect(endpoints.database_url)
    yield connection
    await connection.close()


async def status(caller: Caller, endpoint: str = "orgs/get", body: Any = None) -> int:
    return (await caller.ask(endpoint, body)).status_code


# Tokens


async def test_a_token_of_a_deactivated_user(tenant: Tenant) -> None:
    session = await new_session(tenant.admin, tenant.org_id, "member", tenant.company_id)
    token = await new_token(tenant.admin, session.user_id)
    assert [await status(token), await status(session)] == [200, 200]
    assert (await tenant.admin.call("users/deactivate", {"user_id": session.user_id}))["in_force"]
    assert [await status(token), await status(session)] == [401, 401]
    answer = await tenant.admin.ask("tokens/create", {"user_id": session.user_id, "name": "again"})
    assert answer.status_code == 409
    assert [await status(token), await status(session)] == [401, 401]


async def test_a_rotated_tokens_old_secret(tenant: Tenant, database: asyncpg.Connection) -> None:
    """It holds for the overlap, not after; with no overlap it is out when the call has returned."""
    old = await tenant.person("member")
    rotated = await tenant.admin.call("tokens/rotate", {"token_id": old.token_id, "overlap_s": 3600})
    new = old.by(rotated["token"])
    assert [await status(old), await status(new)] == [200, 200]
    set_end = "UPDATE data_engine.token_secrets_v2 SET valid_until = $2 WHERE token_id = $1 AND valid_until IS NOT NULL"
    await database.execute(set_end, old.token_id, datetime.now(UTC))
    final = await tenant.admin.call("tokens/rotate", {"token_id": old.token_id, "overlap_s": 0})
    assert final["in_force"]
    assert [await status(old), await status(new), await status(old.by(final["token"]))] == [401, 401, 200]
    assert (await tenant.admin.call("tokens/revoke", {"token_id": old.token_id}))["in_force"]
    assert await status(old.by(final["token"])) == 401
    assert await status(tenant.admin, "tokens/rotate", {"token_id": old.token_id}) == 409, "revoked is for ever"
    # As the log has it, for others compare the read models with a rebuild: that rotation ended both secrets before it.
    ends = "SELECT max(valid_until) FROM data_engine.token_secrets_v2 WHERE token_id = $1"
    await database.execute(set_end, old.token_id, await database.fetchval(ends, old.token_id))


async def test_an_expired_token(tenant: Tenant, database: asyncpg.Connection) -> None:
    assert await status(tenant.admin, "tokens/create", {"user_id": new_id(), "name": "t", "expires_in_s": 59}) == 422
    token = await tenant.person("member", expires_in_s=60)
    expiry = await database.fetchval("SELECT expires_at FROM data_engine.tokens_v2 WHERE token_id = $1", token.token_id)
    set_expiry = "UPDATE data_engine.tokens_v2 SET expires_at = $2 WHERE token_id = $1"
    await database.execute(set_expiry, token.token_id, datetime.now(UTC))
    assert await status(token) == 401
    await database.execute(set_expiry, token.token_id, expiry)  # others compare the read models with a rebuild


SPOILT = (
    str.upper, str.lower, lambda t: t[:-1], lambda t: f"{t}x", lambda t: t[4:], lambda t: t.replace("dex_", "dexi_"),
    lambda t: f"{t}.a.b",
)  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT, ids=range(len(SPOILT)))
async def test_a_token_that_is_nearly_right(spoil: Any, tenant: Tenant) -> None:
    assert await status(tenant.admin.by(spoil(tenant.admin.credential))) == 401


async def test_a_secret_is_shown_once(tenant: Tenant) -> None:
    """Neither a repeated call nor anything that is read gives it again, and the repeat's own secret opens nothing."""
    user_id = await new_user(tenant.admin, tenant.company_id)
    body = {"user_id": user_id, "name": "once"}
    first, again = [await tenant.admin.call("tokens/create", body, key="once") for _ in range(2)]
    assert (again["token"], again["hint"], again["repeated"]) == (None, None, True)
    for endpoint in ("tokens/get", "tokens/list", "events/list"):
        of = {"token_id": first["token_id"]} if endpoint == "tokens/get" else {}
        answer = await tenant.admin.ask(endpoint, {**of, "min_position": first["position"]})
        assert answer.status_code == 200
        assert first["token"] not in answer.text


# Roles


async def test_a_company_admin_cannot_make_itself_more(tenant: Tenant) -> None:
    caller = await tenant.person("company_admin")
    admin_token = await new_token(tenant.admin, tenant.admin.user_id)
    someone = {"email": "me@example.com", "role": "org_admin"}
    for endpoint in ("users/create", "users/invite"):
        assert await status(caller, endpoint, someone) == 403
        assert await status(caller, endpoint, someone | {"company_id": tenant.company_id}) == 403
        foreign = someone | {"role": "member", "company_id": tenant.other_company_id}
        assert await status(caller, endpoint, foreign) == 404
    mine = {"user_id": caller.user_id, "name": "more"}
    assert await status(caller, "tokens/create", mine | {"role": "org_admin"}) == 403
    assert await status(caller, "tokens/create", mine | {"company_id": tenant.other_company_id}) == 404
    for user_id in (tenant.admin.user_id, await new_user(tenant.admin, tenant.other_company_id)):
        assert await status(caller, "tokens/create", mine | {"user_id": user_id}) == 404
        assert await status(caller, "tokens/create", mine | {"user_id": user_id, "role": "member"}) == 404
        assert await status(caller, "users/deactivate", {"user_id": user_id}) == 404
    for endpoint in ("tokens/get", "tokens/rotate", "tokens/revoke"):
        assert await status(caller, endpoint, {"token_id": admin_token.token_id}) == 404
    for endpoint, body in (("orgs/configure", {"members_may_work": False}), ("orgs/rename", {"name": "mine"}),
                           ("orgs/configure", {"sign_in_rules": [rule(tenant.company_id, role="company_admin")]}),
                           ("companies/create", {"name": "mine"})):  # fmt: skip
        assert await status(caller, endpoint, body) == 403
    assert await status(admin_token) == 200


async def test_an_admins_token_that_is_narrowed_to_a_company_stays_so(tenant: Tenant) -> None:
    """And the company's admin gets no secret of it: what it did would be told of the org's user."""
    of_admin = tenant.admin.user_id
    scope = {"role": "company_admin", "company_id": tenant.company_id}
    narrow = await new_token(tenant.admin, of_admin, **scope)
    company_admin = await tenant.person("company_admin")
    assert await status(company_admin, "tokens/rotate", {"token_id": narrow.token_id}) == 403
    rotated = await tenant.admin.call("tokens/rotate", {"token_id": narrow.token_id})
    for caller in (narrow, narrow.by(rotated["token"])):
        assert await status(caller, "orgs/rename", {"name": "mine"}) == 403
        assert await status(caller, "companies/get", {"company_id": tenant.other_company_id}) == 404
        assert {item["company_id"] for item in (await caller.call("companies/list"))["items"]} == {tenant.company_id}
        for more in ({}, {"role": "org_admin"}, {"role": "company_admin"}, scope):
            assert await status(caller, "tokens/create", {"user_id": of_admin, "name": "wide", **more}) in (403, 404)
    member = await new_token(tenant.admin, of_admin, role="member", company_id=tenant.company_id)
    for endpoint, body in (("tokens/create", {"user_id": of_admin, "name": "wide"}), ("tokens/list", {}),
                           ("users/create", {"email": "a@b.example", "role": "member"}),
                           ("tokens/rotate", {"token_id": member.token_id})):  # fmt: skip
        assert await status(member, endpoint, body) == 403


async def test_a_token_never_has_more_than_its_user(tenant: Tenant) -> None:
    member = await new_user(tenant.admin, tenant.company_id)
    too_much = (
        ({"role": "org_admin"}, 422), ({"role": "company_admin"}, 422), ({"company_id": tenant.other_company_id}, 404),
        ({"company_id": new_id()}, 404),
    )  # fmt: skip
    for more, expected in too_much:
        assert await status(tenant.admin, "tokens/create", {"user_id": member, "name": "t", **more}) == expected
    for more in ({"role": "member"}, {"company_id": tenant.company_id}):
        body = {"user_id": tenant.admin.user_id, "name": "t", **more}
        assert await status(tenant.admin, "tokens/create", body) == 422, "a role below needs its company, and back"


# Invitations


async def accept(caller: Caller, invitation: str) -> httpx.Response:
    return await caller.ask("users/accept_invitation", {"invitation": invitation})


async def test_an_invitation_is_taken_once(tenant: Tenant) -> None:
    invitation = (await invite(tenant.admin, "member", tenant.company_id))["invitation"]
    sessions = [tenant.admin.by(mint(f"sub-{new_id()}")) for _ in range(8)]
    answers = await asyncio.gather(*(accept(session, invitation) for session in sessions))
    assert sorted(answer.status_code for answer in answers) == [200, *[404] * 7]
    for session, answer in zip(sessions, answers, strict=True):
        assert await status(session) == (200 if answer.status_code == 200 else 401)
        assert (await accept(session, invitation)).status_code == 404
    users = (await tenant.admin.call("users/list", {"company_id": tenant.company_id}))["items"]
    assert len([user for user in users if user["identity"] is not None]) == 1


async def test_an_invitation_that_opens_nothing(tenant: Tenant, database: asyncpg.Connection) -> None:
    session = tenant.admin.by(mint(f"sub-{new_id()}"))
    expired, withdrawn = [await invite(tenant.admin, "member", tenant.company_id) for _ in range(2)]
    expiry = await database.fetchval(
        "SELECT invitation_expires_at FROM data_engine.users_v2 WHERE user_id = $1", expired["user_id"]
    )
    set_expiry = "UPDATE data_engine.users_v2 SET invitation_expires_at = $2 WHERE user_id = $1"
    await database.execute(set_expiry, expired["user_id"], datetime.now(UTC))
    await tenant.admin.call("users/deactivate", {"user_id": withdrawn["user_id"]})
    guessed = ["dexi_" + secrets.token_hex(22), tenant.admin.credential, new_id(), "*", "%", "' OR true --", "x" * 200]
    answers = [await accept(session, text) for text in (expired["invitation"], withdrawn["invitation"], *guessed)]
    assert len({answer.content for answer in answers}) == 1, "nothing tells which of them ever was one"
    assert {answer.status_code for answer in answers} == {404}
    assert await status(session) == 401
    assert await status(session.by(expired["invitation"])) == 401, "an invitation is no token"
    await database.execute(set_expiry, expired["user_id"], expiry)  # others compare the read models with a rebuild


async def test_an_invitation_is_for_who_has_no_user_in_the_org(tenant: Tenant) -> None:
    session = await new_session(tenant.admin, tenant.org_id, "member", tenant.company_id)
    invitation = (await invite(tenant.admin, "org_admin", None))["invitation"]
    assert (await accept(session, invitation)).status_code == 409
    token = await new_token(tenant.admin, session.user_id)
    assert (await accept(token, invitation)).status_code == 401
    assert (await session.ask("orgs/rename", {"name": "mine"})).status_code == 403


# Sign-in rules


def rule(company_id: str, /, **changes: Any) -> dict[str, Any]:
    base = {"name": "staff", "claim": "email", "match": "email_domain", "value": "kraken.example", "role": "member"}
    return base | {"company_id": company_id} | changes


MAIL = {"email": "ada@kraken.example", "email_verified": True}

NEARLY: dict[str, dict[str, Any]] = {
    "not verified": MAIL | {"email_verified": False},
    "nothing said": {"email": MAIL["email"]},
    "verified as text": MAIL | {"email_verified": "true"},
    "verified as a number": MAIL | {"email_verified": 1},
    "verified as a list": MAIL | {"email_verified": [True]},
    "a subdomain": MAIL | {"email": "ada@x.kraken.example"},
    "a longer domain": MAIL | {"email": "ada@notkraken.example"},
    "a domain after": MAIL | {"email": "ada@kraken.example.evil"},
    "a trailing dot": MAIL | {"email": "ada@kraken.example."},
    "a trailing space": MAIL | {"email": "ada@kraken.example "},
    "a line after": MAIL | {"email": "ada@kraken.example\n"},
    "two at-signs": MAIL | {"email": "ada@kraken.example@evil.example"},
    "in quotes": MAIL | {"email": '"ada@kraken.example"@evil.example'},
    "no at-sign": MAIL | {"email": "kraken.example"},
    "a Kelvin sign": MAIL | {"email": "ada@\u212araken.example"},
    "a Cyrillic letter": MAIL | {"email": "ada@kr\u0430ken.example"},
    "full width": MAIL | {"email": "ada@ｋraken.example"},
    "an invisible mark": MAIL | {"email": "ada@kraken\u200b.example"},
    "a dot of another script": MAIL | {"email": "ada@kraken\u3002example"},
    "a full-width at-sign": MAIL | {"email": "ada＠kraken.example"},
    "NUL": MAIL | {"email": "a\0@kraken.example"},
    "a lone surrogate": MAIL | {"email": "\ud800@kraken.example"},
    "a list": MAIL | {"email": [MAIL["email"]]},
    "an object": MAIL | {"email": {"email": MAIL["email"]}},
    "the user's own words": {"user_metadata": MAIL},
    "no address at all": {},
    "too long": MAIL | {"email": "a" * 250 + "@kraken.example"},
}


async def test_claims_that_nearly_match_let_nobody_in(tenant: Tenant) -> None:
    await tenant.admin.call("orgs/configure", {"sign_in_rules": [rule(tenant.company_id)]})
    for name, claims in NEARLY.items():
        session = tenant.admin.by(mint(f"sub-{new_id()}", **claims), tenant.org_id)
        assert await status(session) == 401, name
    users = (await tenant.admin.call("users/list"))["items"]
    assert [user["identity"] for user in users] == [None], "the first admin alone"


async def test_an_address_that_nobody_checked_equals_nothing() -> None:
    """An `equals` rule on the address is as good as the check of the address."""
    equals = SignInRule.model_validate(rule(new_id(), match="equals", value=MAIL["email"]))
    assert matching([equals], MAIL) == equals
    for unchecked in (MAIL | {"email_verified": False}, {"email": MAIL["email"]}, MAIL | {"email_verified": "true"}):
        assert matching([equals], unchecked) is None


async def test_first_requests_at_once_make_one_user(tenant: Tenant) -> None:
    await tenant.admin.call("orgs/configure", {"sign_in_rules": [rule(tenant.company_id)]})
    session = tenant.admin.by(mint(f"sub-{new_id()}", **MAIL), tenant.org_id)
    assert {await status(session.by(session.credential)), await status(session, "companies/get")} == {401, 422}
    sessions = [tenant.admin.by(mint(f"sub-{new_id()}", **MAIL), tenant.org_id)] * 10
    assert {answer.status_code for answer in await asyncio.gather(*(one.ask("orgs/get") for one in sessions))} == {200}
    users = (await tenant.admin.call("users/list", {"company_id": tenant.company_id}))["items"]
    assert len(users) == 2, "that of the first session, and one for ten requests of the second"
    assert {(user["role"], user["email"]) for user in users} == {("member", MAIL["email"])}


async def test_who_was_deactivated_is_not_let_in_again(tenant: Tenant) -> None:
    await tenant.admin.call("orgs/configure", {"sign_in_rules": [rule(tenant.company_id)]})
    identity = f"sub-{new_id()}"
    session = tenant.admin.by(mint(identity, **MAIL), tenant.org_id)
    assert await status(session) == 200
    (user,) = (await tenant.admin.call("users/list", {"company_id": tenant.company_id}))["items"]
    assert (await tenant.admin.call("users/deactivate", {"user_id": user["user_id"]}))["in_force"]
    for claims in (MAIL, MAIL | {"email": "other@kraken.example"}):
        assert await status(session.by(mint(identity, **claims), tenant.org_id)) == 401


async def test_a_rule_lets_nobody_into_another_org(tenant: Tenant, world: World) -> None:
    await tenant.admin.call("orgs/configure", {"sign_in_rules": [rule(tenant.company_id)]})
    for org_id in (world.own.org_id, world.things["other org"].org_id, new_id()):
        answer = await tenant.admin.by(mint(f"sub-{new_id()}", **MAIL), org_id).ask("orgs/get")
        assert answer.status_code == 401
        assert "No active user" in answer.text
    for company_id in (world.own.company_id, new_id()):
        assert await status(tenant.admin, "orgs/configure", {"sign_in_rules": [rule(company_id)]}) == 404
    for bad in ({"role": "org_admin"}, {"claim": "user_metadata.org"}, {"claim": ""}, {"company_id": None},
                {"value": ""}, {"match": "regex"}):  # fmt: skip
        body = {"sign_in_rules": [rule(tenant.company_id, **bad)]}
        assert await status(tenant.admin, "orgs/configure", body) == 422, bad


# Guessed ids


async def test_first_runs_guessed_from_submissions_answer_nothing(world: World) -> None:
    """The id of a first run derives from its submission's, so whoever knows one knows the other."""
    for target, roles in (("other company", ("company_admin", "member")), ("other org", ("org_admin", "member"))):
        things = world.things[target]  # type: ignore[index]
        run_id = first_run_id(things.submission_id)
        assert run_id == things.run_id
        for role in roles:
            for method in ("token", "jwt"):
                caller = world.callers[role, method]  # type: ignore[index]
                for endpoint, more in (("runs/get", {"wait_s": 0.1, "include_results": True}), ("results/get", {}),
                                       ("results/get", {"kind": "input"}), ("step_results/list", {}),
                                       ("step_results/get", {"step_index": 0}), ("events/list", {}),
                                       ("runs/cancel", {}), ("runs/retry", {})):  # fmt: skip
                    nobody = Things()
                    foreign = await caller.ask(endpoint, {"run_id": run_id, **more})
                    assert foreign.status_code == 404, (endpoint, role, method)
                    absent = await caller.ask(endpoint, {"run_id": nobody.run_id, **more})
                    assert faceless(foreign, things) == faceless(absent, nobody)
