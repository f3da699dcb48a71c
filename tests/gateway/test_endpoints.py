"""Every endpoint once, on its good way: the status, and the answer as OpenAPI describes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import jsonschema
import pytest
import pytest_asyncio
from nats.aio.client import Client

from events.administration import BlueprintStep
from events.audit.checkpoint import AuditKey
from events.blobs import BlobStore
from events.ids import new_id
from events.keys import Owner
from events.payload import digest_of, encode_records
from events.processing import ExpectedStep, RunStarted, Verifies
from gateway.permissions import ENDPOINTS
from gateway.routers.blueprints import STEP_EXAMPLE
from tests.gateway.support import (
    AT,
    STEP_KEYS,
    Service,
    World,
    add_invitation,
    add_person,
    decision,
    insert,
    positions,
    sending,
    session,
)


@dataclass
class State:
    """A world in which every kind of thing exists."""

    world: World
    blueprint_id: str
    submission_id: str
    run_id: str
    step_key: str
    invitation: str = ""
    verification_id: str = ""
    set_id: str = ""
    position: int = 0

    def headers(self, path: str) -> dict[str, str]:
        """Who may: an org admin, or for the endpoints of sessions alone a session that nobody is known for."""
        person = self.world.admin
        return session(person, sub=new_id()) if ENDPOINTS[path].session else person.headers


Body = Callable[[State], dict[str, Any]]

HAPPY: dict[str, tuple[int, Body]] = {
    "/v1/orgs/get": (200, lambda s: {}),
    "/v1/orgs/rename": (200, lambda s: {"name": "Acme & Sons"}),
    "/v1/orgs/configure": (200, lambda s: {"members_may_work": False}),
    "/v1/companies/create": (201, lambda s: {"name": "Initech"}),
    "/v1/companies/erase": (200, lambda s: {"company_id": s.world.other_company_id, "confirmation": "Globex"}),
    "/v1/companies/get": (200, lambda s: {"company_id": s.world.company_id}),
    "/v1/companies/list": (200, lambda s: {"name_prefix": "glo"}),
    "/v1/users/create": (201, lambda s: {"email": "b@c.example", "role": "member", "company_id": s.world.company_id}),
    "/v1/users/invite": (201, lambda s: {"email": "b@c.example", "role": "member", "company_id": s.world.company_id}),
    "/v1/users/accept_invitation": (200, lambda s: {"invitation": s.invitation}),
    "/v1/users/get": (200, lambda s: {"user_id": s.world.member.user_id}),
    "/v1/users/list": (200, lambda s: {"role": "member", "active": True, "company_id": s.world.company_id}),
    "/v1/users/deactivate": (200, lambda s: {"user_id": s.world.member.user_id}),
    "/v1/tokens/create": (201, lambda s: {"user_id": s.world.member.user_id, "name": "sync"}),
    "/v1/tokens/get": (200, lambda s: {"token_id": s.world.member.token_id}),
    "/v1/tokens/list": (200, lambda s: {"user_id": s.world.member.user_id, "active": True}),
    "/v1/tokens/rotate": (200, lambda s: {"token_id": s.world.member.token_id, "overlap_s": 60}),
    "/v1/tokens/revoke": (200, lambda s: {"token_id": s.world.member.token_id}),
    "/v1/steps/list": (200, lambda s: {}),
    "/v1/steps/get": (200, lambda s: {"key": s.step_key}),
    "/v1/blueprints/create": (201, lambda s: {"name": "clean", "steps": [STEP_EXAMPLE]}),
    "/v1/blueprints/get": (200, lambda s: {"blueprint_id": s.blueprint_id}),
    "/v1/blueprints/list": (200, lambda s: {"archived": False}),
    "/v1/blueprints/preview": (200, lambda s: {"submission_id": s.submission_id, "blueprint_id": s.blueprint_id}),
    "/v1/blueprints/archive": (200, lambda s: {"blueprint_id": s.blueprint_id}),
    "/v1/submissions/create": (
        201,
        lambda s: {
            "company_id": s.world.company_id,
            "blueprint_id": s.blueprint_id,
            "records": [{"a": 1}],
            "wait_s": 10,
            "include_results": True,
        },
    ),
    "/v1/submissions/upload": (
        201,
        lambda s: {"company_id": s.world.company_id, "blueprint_id": s.blueprint_id, "read": '{"delimiter": ","}'},
    ),
    "/v1/submissions/get": (200, lambda s: {"submission_id": s.submission_id}),
    "/v1/submissions/list": (200, lambda s: {"company_id": s.world.company_id, "blueprint_id": s.blueprint_id}),
    "/v1/runs/create": (201, lambda s: {"submission_id": s.submission_id}),
    "/v1/runs/get": (200, lambda s: {"run_id": s.run_id, "wait_s": 10, "include_results": True}),
    "/v1/runs/list": (200, lambda s: {"submission_id": s.submission_id, "status": "succeeded"}),
    "/v1/runs/cancel": (200, lambda s: {"run_id": s.run_id, "reason": "wrong file"}),
    "/v1/runs/retry": (201, lambda s: {"run_id": s.run_id}),
    "/v1/audit/verify_run": (201, lambda s: {"run_id": s.run_id}),
    "/v1/audit/verification": (200, lambda s: {"verification_run_id": s.verification_id}),
    "/v1/step_results/list": (200, lambda s: {"run_id": s.run_id}),
    "/v1/step_results/get": (200, lambda s: {"run_id": s.run_id, "step_index": 1}),
    "/v1/results/get": (200, lambda s: {"run_id": s.run_id}),
    "/v1/results/download": (200, lambda s: {"run_id": s.run_id, "format": "csv"}),
    "/v1/runs/diff": (200, lambda s: {"run_id": s.run_id, "before_run_id": s.run_id}),
    "/v1/entity_sets/list": (200, lambda s: {"company_id": s.world.company_id, "name": "people"}),
    "/v1/entity_sets/get": (200, lambda s: {"set_id": s.set_id, "record_key": "crm-1"}),
    "/v1/audit/checkpoint": (200, lambda s: {"min_position": s.position}),
    "/v1/audit/inclusion": (200, lambda s: {"run_id": s.run_id}),
    "/v1/audit/consistency": (200, lambda s: {"from_size": 1, "min_position": s.position}),
    "/v1/audit/export": (200, lambda s: {"submission_id": s.submission_id, "previous_sizes": [1]}),
    "/v1/events/list": (200, lambda s: {"submission_id": s.submission_id}),
    "/v1/events/stream": (200, lambda s: {"submission_id": s.submission_id}),
    "/v1/events/trace": (200, lambda s: {"position": s.position}),
}


@pytest_asyncio.fixture(loop_scope="session")
async def state(
    client: httpx.AsyncClient, world: World, service: Service, database: asyncpg.Pool, nats: Client, proving: AuditKey
) -> State:
    blueprint_id, step_key = new_id(), f"step_{new_id()[:8]}"
    await insert(
        database, "blueprints_v1", blueprint_id=blueprint_id, org_id=world.org_id, name="clean", description=None,
        steps='[{"key": "first", "config": {}}]', created_at=AT, position=next(positions),
    )  # fmt: skip
    await insert(
        database, "steps_v1", step_key=step_key, version="1", summary="Does it.", config_schema='{"type": "object"}',
        has_effects=False, registered_at=AT, position=next(positions),
    )  # fmt: skip
    body = HAPPY["/v1/submissions/create"][1](State(world, blueprint_id, "", "", step_key))
    answer = await client.post("/v1/submissions/create", json=body, headers=world.admin.headers)
    assert answer.status_code == 201, answer.text
    created = answer.json()
    invitation = await add_invitation(database, world.org_id, world.company_id)
    set_id = await _add_set(database, nats, world, created["run_id"])
    verification_id = await _add_verification(database, service, world, created["run_id"], created["submission_id"])
    return State(
        world, blueprint_id, created["submission_id"], created["run_id"], step_key, invitation, set_id=set_id,
        position=created["position"], verification_id=verification_id,
    )  # fmt: skip


async def _add_verification(
    database: asyncpg.Pool, service: Service, world: World, run_id: str, submission_id: str
) -> str:
    """A run that verifies another one, and that has begun: in the log and in the read models."""
    verification_id, digest = new_id(), "0" * 64
    expected = ExpectedStep(
        step_version="1", input_digest=digest, output_digest=digest, rejects_digest=None, entities_version=None,
        position=1,
    )  # fmt: skip
    started = RunStarted(
        originator_id=verification_id, originator_version=1, company_id=world.company_id, submission_id=submission_id,
        blueprint_id=new_id(), plan=tuple(BlueprintStep(key=key) for key in STEP_KEYS),
        verifies=Verifies(run_id=run_id, steps=(expected, expected), position=1),
    )  # fmt: skip
    entry = decision(world.org_id, "run", [started], f"due.{STEP_KEYS[0]}", world.company_id)
    position = (await service.log.append(entry)).position
    await insert(
        database, "runs_v2", run_id=verification_id, org_id=world.org_id, company_id=world.company_id,
        submission_id=submission_id, blueprint_id=new_id(), status="running", step_keys=list(STEP_KEYS),
        started_at=AT, position=position, last_position=position,
    )  # fmt: skip
    await insert(
        database, "verifications_v1", run_id=verification_id, org_id=world.org_id, company_id=world.company_id,
        verifies=run_id, position=position,
    )  # fmt: skip
    await service.signal(position)
    return verification_id


async def _add_set(database: asyncpg.Pool, nats: Client, world: World, run_id: str) -> str:
    """An entity set of one record."""
    record = {"key": "crm-1", "entity": new_id(), "parent": None, "parent_score": None, "value:name": "ann"}
    data = encode_records([record])
    await BlobStore(nats).put(Owner(world.org_id, world.company_id), digest_of(data), data)
    set_id = new_id()
    await insert(
        database, "entity_sets_v1", set_id=set_id, org_id=world.org_id, company_id=world.company_id, name="people",
        version=1, snapshot_digest=digest_of(data), snapshot_size_bytes=len(data), snapshot_rows=1,
        snapshot_inline=False, snapshot_format="json", last_run_id=run_id, created_at=AT, updated_at=AT,
        position=next(positions), last_position=1,
    )  # fmt: skip
    return set_id


def test_no_endpoint_is_left_out() -> None:
    assert set(HAPPY) == set(ENDPOINTS)


@pytest.mark.parametrize("path", HAPPY)
async def test_answers_as_documented(path: str, client: httpx.AsyncClient, state: State) -> None:
    status, body = HAPPY[path]
    answer = await client.post(path, **sending(path, body(state)), headers=state.headers(path))
    assert answer.status_code == status, answer.text
    document = (await client.get("/openapi.json")).json()
    if path.endswith(("/download", "/stream", "/export")):
        kinds = document["paths"][path]["post"]["responses"][str(status)]["content"]
        assert answer.headers["Content-Type"].partition(";")[0] in kinds
        assert answer.text
        return
    described = document["paths"][path]["post"]["responses"][str(status)]["content"]["application/json"]["schema"]
    jsonschema.validate(answer.json(), {**described, "components": document["components"]})
    if "items" in answer.json() and path != "/v1/runs/diff":  # a run does not differ from itself
        assert answer.json()["items"]


@pytest.mark.parametrize("path", HAPPY)
async def test_nobody_without_credentials(path: str, client: httpx.AsyncClient) -> None:
    answer = await client.post(path, content=b"not json", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "unauthenticated"


OTHERS: list[tuple[str, Body]] = [
    (path, HAPPY[path][1])
    for path in (
        "/v1/companies/get", "/v1/users/get", "/v1/users/deactivate", "/v1/tokens/create", "/v1/tokens/get",
        "/v1/tokens/rotate", "/v1/tokens/revoke", "/v1/submissions/get", "/v1/runs/create", "/v1/runs/get",
        "/v1/runs/cancel",
        "/v1/runs/retry", "/v1/step_results/list", "/v1/step_results/get", "/v1/results/get", "/v1/events/list",
        "/v1/events/stream",
        "/v1/results/download", "/v1/runs/diff", "/v1/blueprints/preview", "/v1/audit/verify_run",
        "/v1/audit/verification", "/v1/audit/inclusion", "/v1/audit/export",
    )
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), OTHERS, ids=[path for path, _ in OTHERS])
async def test_a_thing_of_another_company_is_like_an_unknown_one(
    path: str, body: Body, client: httpx.AsyncClient, state: State, service: Service, database: asyncpg.Pool
) -> None:
    """By a company_admin of the other company, and by one who asks for an id that does not exist."""
    outsider = await add_person(database, state.world.org_id, "company_admin", state.world.other_company_id)
    sent = len(service.commands)
    asked = body(state)
    seen = await client.post(path, json=asked, headers=outsider.headers)
    name = next(name for name in asked if name.endswith("_id"))
    unknown = await client.post(path, json={**asked, name: (missing := new_id())}, headers=outsider.headers)
    assert seen.status_code == unknown.status_code == 404, (seen.text, unknown.text)
    assert _anonymous(seen, asked[name]) == _anonymous(unknown, missing)
    assert len(service.commands) == sent, "nothing was asked of the service"


def _anonymous(answer: httpx.Response, thing_id: str) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    return problem | {"detail": problem["detail"].replace(thing_id, "…"), "request_id": None}


@pytest.mark.parametrize(
    "path",
    [path for path, _ in OTHERS if not ENDPOINTS[path].command] + ["/v1/blueprints/get"],
)
async def test_a_thing_of_another_org_is_like_an_unknown_one(
    path: str, client: httpx.AsyncClient, state: State
) -> None:
    asked = HAPPY[path][1](state)
    seen = await client.post(path, json=asked, headers=state.world.stranger.headers)
    assert seen.status_code == 404, seen.text


@pytest.mark.parametrize("path", [path for path in HAPPY if path.endswith("/list") and "step" not in path])
async def test_lists_hold_nothing_of_another_org(path: str, client: httpx.AsyncClient, state: State) -> None:
    everything = await client.post(path, json={}, headers=state.world.admin.headers)
    stranger = await client.post(path, json={}, headers=state.world.stranger.headers)
    assert everything.status_code == stranger.status_code == 200
    ids = {str(item) for item in everything.json()["items"]}
    assert ids
    assert not ids & {str(item) for item in stranger.json()["items"]}
