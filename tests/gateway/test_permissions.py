import asyncpg
import httpx
import pytest

from events.context import AuthContext, Role
from events.errors import ConfigurationError, PermissionError_
from gateway.calls import Authenticated, CallRoute
from gateway.models import Empty
from gateway.permissions import ENDPOINTS, check, check_grant, rule_of
from tests.gateway.support import Service, World, add_person


def context(role: Role) -> AuthContext:
    company = None if role == "org_admin" else "c"
    return AuthContext(org_id="o", user_id="u", company_id=company, role=role, auth_method="api_token")


def test_an_endpoint_without_a_rule_cannot_be_put_together() -> None:
    async def endpoint(body: Empty, call: Authenticated) -> Empty:
        return body

    with pytest.raises(ConfigurationError, match="no rule"):
        CallRoute("/v1/secrets/get", endpoint, methods=["POST"])
    with pytest.raises(ConfigurationError):
        rule_of("/v1/secrets/get")


def test_an_endpoint_must_take_the_call() -> None:
    async def endpoint(body: Empty) -> Empty:
        return body

    with pytest.raises(ConfigurationError, match="shape"):
        CallRoute("/v1/orgs/get", endpoint, methods=["POST"])


ALLOWED = {
    "member": {
        "/v1/submissions/create", "/v1/submissions/upload", "/v1/runs/create", "/v1/runs/cancel", "/v1/runs/retry",
        "/v1/users/accept_invitation", "/v1/audit/verify_run",
    },
    "company_admin": {
        "/v1/users/create", "/v1/users/invite", "/v1/users/deactivate", "/v1/tokens/create", "/v1/tokens/rotate",
        "/v1/tokens/revoke",
    },
    "org_admin": {
        "/v1/orgs/rename", "/v1/orgs/configure", "/v1/companies/create", "/v1/blueprints/create",
        "/v1/blueprints/archive", "/v1/companies/erase",
    },
}  # fmt: skip


def test_commands_by_role() -> None:
    commands = {path for path, rule in ENDPOINTS.items() if rule.command}
    member = ALLOWED["member"]
    company_admin = member | ALLOWED["company_admin"]
    assert {path for path in commands if "member" in ENDPOINTS[path].roles} == member
    assert {path for path in commands if "company_admin" in ENDPOINTS[path].roles} == company_admin
    assert {path for path in commands if "org_admin" in ENDPOINTS[path].roles} == commands


@pytest.mark.parametrize("path", [path for path, rule in ENDPOINTS.items() if "member" not in rule.roles])
async def test_a_member_is_refused(path: str, client: httpx.AsyncClient, world: World) -> None:
    answer = await client.post(path, json={"anything": 1}, headers=world.member.headers)
    assert answer.status_code == 403
    assert answer.json()["code"] == "forbidden"


def test_check_names_who_may() -> None:
    with pytest.raises(PermissionError_, match="org_admin may"):
        check(ENDPOINTS["/v1/orgs/rename"], context("company_admin"), members_may_work=True)


def test_members_work_if_their_org_allows_it() -> None:
    create = ENDPOINTS["/v1/submissions/create"]
    check(create, context("member"), members_may_work=True)
    check(create, context("company_admin"), members_may_work=False)
    with pytest.raises(PermissionError_, match="does not allow its members"):
        check(create, context("member"), members_may_work=False)
    check(ENDPOINTS["/v1/runs/get"], context("member"), members_may_work=False)


@pytest.mark.parametrize(
    ("creator", "role", "allowed"),
    [
        ("org_admin", "org_admin", True),
        ("org_admin", "member", True),
        ("company_admin", "company_admin", True),
        ("company_admin", "org_admin", False),
        ("member", "company_admin", False),
    ],
)
def test_nobody_grants_more_than_it_has(creator: Role, role: Role, allowed: bool) -> None:
    if allowed:
        check_grant(context(creator), role)
    else:
        with pytest.raises(PermissionError_):
            check_grant(context(creator), role)


async def test_a_company_admin_creates_users_of_its_company_only(
    client: httpx.AsyncClient, world: World, service: Service
) -> None:
    body = {"email": "x@y.example", "role": "member"}
    headers = world.company_admin.headers
    assert (await client.post("/v1/users/create", json=body, headers=headers)).status_code == 201
    assert service.commands[-1].company_id == world.company_id  # type: ignore[attr-defined]
    other = await client.post("/v1/users/create", json=body | {"company_id": world.other_company_id}, headers=headers)
    assert other.status_code == 404
    above = await client.post("/v1/users/create", json=body | {"role": "org_admin"}, headers=headers)
    assert above.status_code == 403


async def test_an_org_admin_belongs_to_no_company(client: httpx.AsyncClient, world: World, service: Service) -> None:
    body = {"email": "x@y.example", "role": "org_admin"}
    headers = world.admin.headers
    assert (await client.post("/v1/users/create", json=body, headers=headers)).status_code == 201
    with_company = await client.post("/v1/users/create", json=body | {"company_id": world.company_id}, headers=headers)
    assert with_company.status_code == 422
    member = await client.post("/v1/users/create", json=body | {"role": "member"}, headers=headers)
    assert member.json()["errors"][0]["path"] == "/company_id"


async def test_lists_of_a_company_bound_caller_are_its_companys(client: httpx.AsyncClient, world: World) -> None:
    companies = await client.post("/v1/companies/list", json={}, headers=world.member.headers)
    assert [item["company_id"] for item in companies.json()["items"]] == [world.company_id]
    users = await client.post("/v1/users/list", json={}, headers=world.member.headers)
    assert {item["company_id"] for item in users.json()["items"]} == {world.company_id}
    foreign = await client.post(
        "/v1/users/list", json={"company_id": world.other_company_id}, headers=world.member.headers
    )
    assert foreign.status_code == 404


async def test_the_last_admin_stays(
    client: httpx.AsyncClient, world: World, service: Service, database: asyncpg.Pool
) -> None:
    body, headers = {"user_id": world.admin.user_id}, world.admin.headers
    refused = await client.post("/v1/users/deactivate", json=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_admin")
    assert not service.commands
    await add_person(database, world.org_id, "org_admin", None)
    assert (await client.post("/v1/users/deactivate", json=body, headers=headers)).status_code == 200
