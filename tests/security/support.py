"""Hostile tenants: callers of every role by both ways in, things of every company, and a ledger of what was seen."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import jwt

from cli.bootstrap import create_org
from cli.system import Endpoints
from events.context import Role
from events.entities import entity_set_id
from gateway.permissions import Target
from tests.gateway.support import sending
from tests.system.client import SYSTEM_JWT_SECRET

Method = Literal["token", "jwt"]
METHODS: tuple[Method, ...] = ("token", "jwt")
REQUEST_ID = "the-same-for-all"
"""Sent with every request, so that answers can be compared byte by byte."""

WAITS = {"key": "test_flaky", "config": {"marker": "", "failures": 99}, "retry": {"attempts": 3, "backoff_s": 3600}}
"""A step whose second attempt is due in an hour: its run stays `running`, and holds no process."""


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class Ledger:
    """Every secret that was given out or sent, and every error body that came back, over the whole test run."""

    secrets: set[str] = field(default_factory=set)
    errors: set[str] = field(default_factory=set)

    def note(self, response: httpx.Response) -> None:
        credential = response.request.headers.get("authorization", "").partition(" ")[2]
        if len(credential) > 20:
            self.secrets.add(credential)
        if response.status_code >= 400:
            self.errors.add(response.text)
        elif response.headers.get("content-type") == "application/json":
            content = response.json()
            for name in ("token", "invitation"):
                if isinstance(content.get(name), str):
                    self.secrets.add(content[name])


LEDGER = Ledger()


async def _noted(response: httpx.Response) -> None:
    await response.aread()
    LEDGER.note(response)


def http(base_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, timeout=60, event_hooks={"response": [_noted]})


def mint(identity: str, key: Any = SYSTEM_JWT_SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """A session's JWT; a claim that is None is left out."""
    now = int(time.time())
    claims = {"sub": identity, "aud": "authenticated", "iat": now, "exp": now + 3600} | changes
    headers = claims.pop("headers", None)
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers=headers)


@dataclass
class Caller:
    """Somebody with a credential; `ask` gives the answer, `call` what it says, or fails."""

    http: httpx.AsyncClient
    credential: str
    org_id: str | None = None
    user_id: str = ""
    token_id: str = ""

    async def ask(
        self, endpoint: str, body: Any = None, key: str | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        path = endpoint if endpoint.startswith("/") else f"/v1/{endpoint}"
        sent = {"Authorization": f"Bearer {self.credential}", "X-Request-Id": REQUEST_ID}
        if self.org_id is not None:
            sent["X-Data-Engine-Org"] = self.org_id
        if key is not None:
            sent["Idempotency-Key"] = key
        return await self.http.post(path, **sending(path, {} if body is None else body), headers=sent | (headers or {}))

    async def call(self, endpoint: str, body: Any = None, key: str | None = None) -> dict[str, Any]:
        response = await self.ask(endpoint, body, key)
        assert response.status_code in (200, 201), (endpoint, response.status_code, response.text)
        return response.json()

    def by(self, credential: str, org_id: str | None = None) -> "Caller":
        return Caller(self.http, credential, org_id)


@dataclass(frozen=True)
class Things:
    """Ids of what belongs to one company, and of what belongs to its org."""

    org_id: str = field(default_factory=new_id)
    company_id: str = field(default_factory=new_id)
    blueprint_id: str = field(default_factory=new_id)
    user_id: str = field(default_factory=new_id)
    token_id: str = field(default_factory=new_id)
    submission_id: str = field(default_factory=new_id)
    run_id: str = field(default_factory=new_id)
    failed_run_id: str = field(default_factory=new_id)
    set_id: str = field(default_factory=new_id)
    position: int = 10**12
    """Of the submission."""
    verification_id: str = field(default_factory=new_id)

    def ids(self) -> tuple[str, ...]:
        """Those of the company."""
        return (
            self.company_id, self.user_id, self.token_id, self.submission_id, self.run_id, self.failed_run_id,
            self.set_id, self.verification_id,
        )  # fmt: skip


def unknown() -> Things:
    """Ids of nothing."""
    return Things()


@dataclass
class World:
    """One org with two companies and somebody of every role in the first, and another org."""

    admin: Caller
    foreign_admin: Caller
    callers: dict[tuple[Role, Method], Caller]
    things: dict[Target, Things]
    fails: dict[str, str]
    waits: dict[str, str]
    marker: str

    @property
    def own(self) -> Things:
        return self.things["own company"]

    @property
    def http(self) -> httpx.AsyncClient:
        return self.admin.http

    def owner(self, target: Target) -> Caller:
        """The admin of the org that the target belongs to."""
        return self.foreign_admin if target == "other org" else self.admin

    async def fresh(self, kind: str, target: Target) -> str:
        """A new thing of the target's company, for a command that uses it up."""
        admin, things = self.owner(target), self.things[target]
        match kind:
            case "user_id":
                return await new_user(admin, things.company_id)
            case "token_id":
                body = {"user_id": things.user_id, "name": "fresh"}
                return str((await admin.call("tokens/create", body))["token_id"])
            case "blueprint_id":
                return await blueprint(admin, "test_count")
            case "company_id":
                return str((await admin.call("companies/create", {"name": "Erasable"}))["company_id"])
            case "run_id":
                return (await submit(admin, things.company_id, self.waits[things.org_id]))["run_id"]
            case "invitation":
                return str((await invite(admin, "member", things.company_id))["invitation"])
        raise AssertionError(kind)


async def blueprint(admin: Caller, *steps: Any) -> str:
    listed = [{"key": step} if isinstance(step, str) else step for step in steps]
    return str((await admin.call("blueprints/create", {"name": "b", "steps": listed}))["blueprint_id"])


async def submit(caller: Caller, company_id: str, blueprint_id: str, **more: Any) -> dict[str, Any]:
    body = {"company_id": company_id, "blueprint_id": blueprint_id, "records": [{"n": 1}], **more}
    return await caller.call("submissions/create", body)


async def new_user(admin: Caller, company_id: str | None, role: Role = "member") -> str:
    body = {"email": "somebody@example.com", "role": role, "company_id": company_id}
    return str((await admin.call("users/create", body))["user_id"])


async def new_token(admin: Caller, user_id: str, **more: Any) -> Caller:
    """Somebody with a new token of the user; usable when this returns."""
    made = await admin.call("tokens/create", {"user_id": user_id, "name": "a token", **more})
    await admin.call("orgs/get", {"min_position": made["position"]})
    return Caller(admin.http, made["token"], None, user_id, made["token_id"])


async def invite(admin: Caller, role: Role, company_id: str | None, **more: Any) -> dict[str, Any]:
    body = {"email": "guest@example.com", "role": role, "company_id": company_id, **more}
    made = await admin.call("users/invite", body)
    await admin.call("orgs/get", {"min_position": made["position"]})
    return made


async def new_session(admin: Caller, org_id: str, role: Role, company_id: str | None, identity: str = "") -> Caller:
    """A user by the real way: invited, and accepted by a session of a new identity."""
    invitation = (await invite(admin, role, company_id))["invitation"]
    caller = admin.by(mint(identity or f"sub-{new_id()}"))
    accepted = await caller.call("users/accept_invitation", {"invitation": invitation})
    caller.org_id, caller.user_id = org_id, accepted["user_id"]
    return caller


MATCH = {
    "key": "match_entities",
    "config": {
        "blocking": [[{"field": "n"}]],
        "comparisons": [{"fields": ["n"], "method": "exact", "weight": 1}],
        "threshold": 1,
        "entity_set": "things",
        "record_key": ["n"],
    },
}


async def company_things(admin: Caller, org_id: str, company_id: str, blueprint_id: str, fails: str) -> Things:
    """A user with a token, a submission with its run, and a run that failed."""
    user_id = await new_user(admin, company_id)
    token = await admin.call("tokens/create", {"user_id": user_id, "name": "t"})
    matches = await blueprint(admin, MATCH)
    done, failed, matched = await asyncio.gather(
        submit(admin, company_id, blueprint_id, wait_s=30),
        submit(admin, company_id, fails, wait_s=30),
        submit(admin, company_id, matches, wait_s=30),
    )
    statuses = [made["run"]["status"] for made in (done, failed, matched)]
    assert statuses == ["succeeded", "failed", "succeeded"]
    verified = await admin.call("audit/verify_run", {"run_id": done["run_id"], "wait_s": 30})
    assert verified["verification"]["report"]["verdict"] == "reproduced"
    return Things(
        org_id, company_id, blueprint_id, user_id, token["token_id"], done["submission_id"], done["run_id"],
        failed["run_id"], entity_set_id(company_id, "things"), done["position"], verified["verification_run_id"],
    )  # fmt: skip


async def org_of(http: httpx.AsyncClient, endpoints: Endpoints) -> tuple[Caller, str]:
    """A fresh org: its first admin, and its id."""
    made = await create_org([endpoints.nats_url], endpoints.database_url, f"org {new_id()}", "admin@example.com")
    return Caller(http, made.token, None, made.user_id), made.org_id


async def new_company(admin: Caller) -> str:
    made = await admin.call("companies/create", {"name": f"Company {new_id()}"})
    await admin.call("orgs/get", {"min_position": made["position"]})
    return str(made["company_id"])


async def build_world(http: httpx.AsyncClient, endpoints: Endpoints, marker: str) -> World:
    (admin, org_id), (foreign_admin, foreign_org_id) = await asyncio.gather(
        org_of(http, endpoints), org_of(http, endpoints)
    )
    companies = {target: await new_company(admin) for target in ("own company", "other company")}
    companies["other org"] = await new_company(foreign_admin)
    admins = {org_id: admin, foreign_org_id: foreign_admin}
    waits = {**WAITS, "config": {"marker": marker, "failures": 99}}
    refuses = {"key": "test_reject_all", "retry": {"attempts": 1}}
    works = {org: await blueprint(owner, "test_count") for org, owner in admins.items()}
    fails = {org: await blueprint(owner, refuses) for org, owner in admins.items()}
    waiting = {org: await blueprint(owner, waits) for org, owner in admins.items()}
    things: dict[Target, Things] = {}
    for target, org in (("own company", org_id), ("other company", org_id), ("other org", foreign_org_id)):
        things[target] = await company_things(admins[org], org, companies[target], works[org], fails[org])
    callers: dict[tuple[Role, Method], Caller] = {}
    for role in ("org_admin", "company_admin", "member"):
        company_id = None if role == "org_admin" else companies["own company"]
        session = await new_session(admin, org_id, role, company_id)
        callers[role, "jwt"] = session
        callers[role, "token"] = await new_token(admin, session.user_id)
    return World(admin, foreign_admin, callers, things, fails, waiting, marker)


def same_answer(answer: httpx.Response, other: httpx.Response, ids: Things, other_ids: Things) -> None:
    """Fails unless the two answers are the same but for the ids that were asked for."""
    assert faceless(answer, ids) == faceless(other, other_ids)


def faceless(answer: httpx.Response, ids: Things) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body, with the ids of `ids` named by what they are."""
    body = answer.content
    for name in ids.__dataclass_fields__:
        value = getattr(ids, name)
        if isinstance(value, str):  # a position is a number that other texts may hold too
            body = body.replace(value.encode(), f"<{name}>".encode())
    headers = sorted((name, value) for name, value in answer.headers.items() if name != "date")
    return answer.status_code, headers, body


async def gathered(*cells: Callable[[], Awaitable[None]]) -> int:
    """Run all cells at once; how many they were."""
    await asyncio.gather(*(cell() for cell in cells))
    return len(cells)
