"""The whole access model on the running system: every endpoint, role, target and way in, as the one table says.

What is refused with 404 answers byte for byte as what does not exist.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from gateway.permissions import ENDPOINTS, ROLES, TARGETS, Outcome, Reach, Role, Rule, Target
from tests.security.support import (
    METHODS,
    Caller,
    Method,
    Things,
    World,
    gathered,
    new_company,
    new_session,
    new_token,
    org_of,
    same_answer,
    submit,
    unknown,
)  # fmt: skip

Body = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One way to name a target: the body, of ids of the target `t` and of the caller's own company `o`.

    `fresh`: the kind of thing that a call uses up. `reach`: that of the thing which is named, if not the endpoint's.
    `ok`: the status of a call that goes through. `lists`: a filter, whose foreign answer is that of an unknown id.
    `names`: it names something at all.
    """

    body: Callable[[Things, Things], Body]
    fresh: str | None = None
    reach: Reach | None = None
    ok: int = 200
    lists: bool = False
    names: bool = True

    def outcome(self, rule: Rule, role: Role, target: Target) -> Outcome:
        reach = (self.reach or rule.reach) if self.names else "platform"
        return replace(rule, reach=reach).outcome(role, target)


def by(name: str, /, attribute: str | None = None, **more: Any) -> Case:
    """The body that names one thing of the target."""
    ok = more.pop("ok", 200)
    fresh, reach, lists = more.pop("fresh", None), more.pop("reach", None), more.pop("lists", False)
    return Case(lambda t, o: {name: getattr(t, attribute or name), **more}, fresh, reach, ok, lists)


def nothing(ok: int = 200, **body: Any) -> Case:
    """The endpoint names nothing: it is about the caller's own org, or lists what the caller sees."""
    return Case(lambda t, o: body, ok=ok, names=False)


def _rules(company_id: str) -> list[Body]:
    rule = {"name": "staff", "claim": "app_metadata.org", "match": "equals", "value": "x", "role": "member"}
    return [rule | {"company_id": company_id}]


NEW_USER = {"email": "new@example.com", "role": "member"}
STEPS = [{"key": "test_count"}]
RECORDS = [{"n": 1}]

CASES: dict[str, tuple[Case, ...]] = {
    "/v1/submissions/create": (
        Case(lambda t, o: {"company_id": t.company_id, "blueprint_id": o.blueprint_id, "records": RECORDS}, ok=201),
        Case(
            lambda t, o: {"company_id": o.company_id, "blueprint_id": t.blueprint_id, "records": RECORDS},
            reach="org",
            ok=201,
        ),
    ),
    "/v1/submissions/upload": (
        Case(lambda t, o: {"company_id": t.company_id, "blueprint_id": o.blueprint_id}, ok=201),
        Case(lambda t, o: {"company_id": o.company_id, "blueprint_id": t.blueprint_id}, reach="org", ok=201),
    ),
    "/v1/submissions/get": (by("submission_id"),),
    "/v1/submissions/list": (
        by("company_id", lists=True),
        by("blueprint_id", lists=True, reach="org"),
    ),
    "/v1/runs/create": (by("submission_id", ok=201),),
    "/v1/runs/get": (by("run_id"), by("run_id", wait_s=1, include_results=True)),
    "/v1/runs/list": (
        by("company_id", lists=True),
        by("submission_id", lists=True),
        by("blueprint_id", lists=True, reach="org"),
    ),
    "/v1/runs/cancel": (by("run_id", fresh="run_id"),),
    "/v1/runs/retry": (by("run_id", "failed_run_id", ok=201),),
    "/v1/audit/verify_run": (by("run_id", ok=201),),
    "/v1/audit/verification": (by("verification_run_id", "verification_id"),),
    "/v1/step_results/list": (by("run_id"),),
    "/v1/step_results/get": (by("run_id", step_index=0),),
    "/v1/results/get": (by("run_id"), by("run_id", kind="input"), by("run_id", step_index=0, kind="rejects")),
    "/v1/results/download": (by("run_id"), by("run_id", format="parquet", kind="rejects")),
    "/v1/runs/diff": (Case(lambda t, o: {"run_id": t.run_id, "before_run_id": t.run_id}),),
    "/v1/entity_sets/list": (by("company_id", lists=True),),
    "/v1/entity_sets/get": (by("set_id"), by("set_id", record_key="1")),
    "/v1/events/stream": (by("run_id"), by("submission_id", after_position=1)),
    "/v1/events/trace": (by("position"),),
    "/v1/events/list": (by("run_id"), by("submission_id"), by("run_id", after_position=1, limit=1)),
    "/v1/audit/checkpoint": (nothing(),),
    "/v1/audit/inclusion": (by("run_id"), by("submission_id", limit=1)),
    "/v1/audit/consistency": (nothing(from_size=1),),
    "/v1/audit/export": (
        by("run_id"),
        by("submission_id", gzip=True),
        by("company_id"),
        by("company_id", to_position=9),
    ),
    "/v1/steps/list": (nothing(),),
    "/v1/steps/get": (nothing(key="test_count"),),
    "/v1/blueprints/create": (nothing(201, name="b", steps=STEPS),),
    "/v1/blueprints/get": (by("blueprint_id"),),
    "/v1/blueprints/list": (nothing(),),
    "/v1/blueprints/preview": (
        Case(lambda t, o: {"submission_id": t.submission_id, "steps": STEPS}),
        Case(lambda t, o: {"company_id": t.company_id, "records": RECORDS, "steps": STEPS}),
        Case(
            lambda t, o: {"company_id": o.company_id, "records": RECORDS, "blueprint_id": t.blueprint_id}, reach="org"
        ),
    ),
    "/v1/blueprints/archive": (by("blueprint_id", fresh="blueprint_id"),),
    "/v1/orgs/get": (nothing(),),
    "/v1/orgs/rename": (nothing(name="Acme"),),
    "/v1/orgs/configure": (Case(lambda t, o: {"sign_in_rules": _rules(t.company_id)}),),
    "/v1/companies/create": (nothing(201, name="Globex"),),
    "/v1/companies/erase": (
        Case(lambda t, o: {"company_id": t.company_id, "confirmation": t.company_id}, fresh="company_id"),
    ),
    "/v1/companies/get": (by("company_id"),),
    "/v1/companies/list": (nothing(),),
    "/v1/users/create": (by("company_id", ok=201, **NEW_USER),),
    "/v1/users/invite": (by("company_id", ok=201, **NEW_USER),),
    "/v1/users/accept_invitation": (),  # has a test of its own: it is for sessions that nobody is known for
    "/v1/users/get": (by("user_id"),),
    "/v1/users/list": (by("company_id", lists=True),),
    "/v1/users/deactivate": (by("user_id", fresh="user_id"),),
    "/v1/tokens/create": (by("user_id", ok=201, name="t"),),
    "/v1/tokens/get": (by("token_id"),),
    "/v1/tokens/list": (by("user_id", lists=True),),
    "/v1/tokens/rotate": (by("token_id", fresh="token_id", overlap_s=0),),
    "/v1/tokens/revoke": (by("token_id", fresh="token_id"),),
}


def test_every_endpoint_is_in_the_matrix() -> None:
    assert CASES.keys() == ENDPOINTS.keys()
    for path, rule in ENDPOINTS.items():
        assert CASES[path] or rule.session, path


@pytest.mark.parametrize("path", [path for path, cases in CASES.items() if cases])
async def test_endpoint(path: str, world: World) -> None:
    """Every role, target and way in."""
    rule = ENDPOINTS[path]

    def cell(case: Case, role: Role, target: Target, method: Method) -> Callable[[], Any]:
        async def check() -> None:
            if not case.names and target == "other org":
                await _cannot_be_named(world, path, case, role, method)
            else:
                await _check(world, path, case, rule, role, target, method)

        return check

    every = [
        cell(case, role, target, method)
        for case in CASES[path]
        for role in ROLES
        for target in TARGETS
        for method in METHODS
    ]
    assert await gathered(*every) == len(CASES[path]) * 18


async def _check(world: World, path: str, case: Case, rule: Rule, role: Role, target: Target, method: Method) -> None:
    caller, things = world.callers[role, method], world.things[target]
    expected = case.outcome(rule, role, target)
    if case.fresh is not None and expected != "403":
        things = replace(things, **{case.fresh: await world.fresh(case.fresh, target)})
    answer = await caller.ask(path, case.body(things, world.own))
    where = (path, role, target, method, answer.status_code, answer.text[:300])
    if expected == "403":
        assert answer.status_code == 403, where
        await _same_for_unknown(caller, path, case, world, answer, things)
    elif expected == "404":
        assert answer.status_code == 404 or (case.lists and answer.json()["items"] == []), where
        await _same_for_unknown(caller, path, case, world, answer, things)
    else:
        assert answer.status_code == case.ok, where
        _nothing_foreign(world, rule, role, answer, where)
        if case.lists:
            assert answer.json()["items"], where


async def _same_for_unknown(
    caller: Caller, path: str, case: Case, world: World, answer: httpx.Response, things: Things
) -> None:
    nobody = unknown()
    same_answer(answer, await caller.ask(path, case.body(nobody, world.own)), things, nobody)


def _nothing_foreign(world: World, rule: Rule, role: Role, answer: httpx.Response, where: object) -> None:
    """No id of what the caller may not see is anywhere in the answer."""
    for target in TARGETS:
        hidden = target == "other org" or (target == "other company" and role != "org_admin")
        if hidden:
            things = world.things[target]
            ids = (*things.ids(), things.org_id) if target == "other org" else things.ids()
            assert not [thing_id for thing_id in ids if thing_id in answer.text], where


async def _cannot_be_named(world: World, path: str, case: Case, role: Role, method: Method) -> None:
    """An endpoint about the caller's own org: neither the header nor the body can name another one."""
    foreign, nobody, caller = world.things["other org"], unknown(), world.callers[role, method]
    body = case.body(world.own, world.own)
    answers = [await caller.ask(path, body, headers={"X-Data-Engine-Org": ids.org_id}) for ids in (foreign, nobody)]
    assert answers[0].status_code == 401
    same_answer(answers[0], answers[1], foreign, nobody)
    answers = [await caller.ask(path, body | {"org_id": ids.org_id}) for ids in (foreign, nobody)]
    assert answers[0].status_code == (422 if role in ENDPOINTS[path].roles else 403)
    same_answer(answers[0], answers[1], foreign, nobody)


LISTS = {
    "/v1/companies/list": "company_id",
    "/v1/users/list": "user_id",
    "/v1/tokens/list": "token_id",
    "/v1/submissions/list": "submission_id",
    "/v1/runs/list": "run_id",
    "/v1/blueprints/list": "blueprint_id",
    "/v1/entity_sets/list": "set_id",
}


def test_every_list_is_walked() -> None:
    assert {path for path in ENDPOINTS if path.endswith("/list")} - LISTS.keys() == {
        "/v1/steps/list", "/v1/step_results/list", "/v1/events/list",
    }  # fmt: skip


@pytest.mark.parametrize("path", LISTS)
async def test_lists_hold_what_the_caller_may_see(path: str, world: World) -> None:
    """Walked to the end without a filter: the own things are there, and nothing foreign."""
    rule, name = ENDPOINTS[path], LISTS[path]
    for role in ROLES:
        for method in METHODS:
            if role not in rule.roles:
                continue
            found = await _walk(world.callers[role, method], path, name)
            for target in TARGETS:
                visible = rule.outcome(role, target) == "yes"
                assert (getattr(world.things[target], name) in found) == visible, (path, role, target, method)


async def _walk(caller: Caller, path: str, name: str) -> set[str]:
    found: set[str] = set()
    cursor = None
    while True:
        page = await caller.call(path, {"limit": 200, "cursor": cursor})
        found |= {item[name] for item in page["items"]}
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def test_the_log_of_a_company_bound_caller_holds_its_companys_decisions_only(world: World) -> None:
    for role in ROLES:
        for method in METHODS:
            caller, after = world.callers[role, method], 0
            companies: set[str | None] = set()
            while after is not None:
                page = await caller.call("events/list", {"after_position": after, "limit": 500})
                companies |= {item["company_id"] for item in page["items"]}
                text = str(page)
                for target in TARGETS:
                    if target == "other org" or (target == "other company" and role != "org_admin"):
                        assert not [thing_id for thing_id in world.things[target].ids() if thing_id in text]
                after = page["next_after_position"]
            if role == "org_admin":
                assert companies >= {None, world.own.company_id, world.things["other company"].company_id}
            else:
                assert companies == {world.own.company_id}


async def test_accepting_an_invitation_is_for_sessions_alone(world: World) -> None:
    """Whoever has a user in the org stays that user; in another org the same session may become one more."""
    for role in ROLES:
        for target in TARGETS:
            body = {"invitation": await world.fresh("invitation", target)}
            assert (await world.callers[role, "token"].ask("users/accept_invitation", body)).status_code == 401
            if target != "other org":
                assert (await world.callers[role, "jwt"].ask("users/accept_invitation", body)).status_code == 409
                continue
            session = await new_session(world.admin, world.own.org_id, role, None if role == "org_admin" else
                                        world.own.company_id)  # fmt: skip
            accepted = await session.call("users/accept_invitation", body)
            assert (accepted["org_id"], accepted["role"]) == (world.things[target].org_id, "member")
            assert (await session.call("orgs/get"))["org_id"] == world.own.org_id
            session.org_id = None
            assert (await session.ask("orgs/get")).status_code == 401, "it must say which of its orgs it means"


async def test_members_of_an_org_that_does_not_let_them_work(client: httpx.AsyncClient, endpoints: Any) -> None:
    admin, org_id = await org_of(client, endpoints)
    company_id = await new_company(admin)
    session = await new_session(admin, org_id, "member", company_id)
    token = await new_token(admin, session.user_id)
    blueprint_id = (await admin.call("blueprints/create", {"name": "b", "steps": STEPS}))["blueprint_id"]
    made = await submit(admin, company_id, blueprint_id, wait_s=30)
    assert (await admin.call("orgs/configure", {"members_may_work": False}))["in_force"]
    work = {
        "submissions/create": {"blueprint_id": blueprint_id, "records": RECORDS},
        "submissions/upload": {"blueprint_id": blueprint_id},
        "runs/create": {"submission_id": made["submission_id"]},
        "runs/cancel": {"run_id": made["run_id"]},
        "runs/retry": {"run_id": made["run_id"]},
        "audit/verify_run": {"run_id": made["run_id"]},
        "blueprints/preview": {"submission_id": made["submission_id"], "steps": STEPS},
    }
    assert work.keys() == {path.removeprefix("/v1/") for path, rule in ENDPOINTS.items() if rule.work}
    reads = {"runs/get": {"run_id": made["run_id"]}, "submissions/list": {}, "results/get": {"run_id": made["run_id"]}}
    for caller in (session, token):
        for path, body in work.items():
            assert (await caller.ask(path, body)).status_code == 403, path
        for path, body in reads.items():
            assert (await caller.ask(path, body)).status_code == 200, path
    assert (await admin.ask("runs/create", work["runs/create"])).status_code == 201


TOKEN_TOPICS = {"token.created", "token.rotated", "token.revoked"}
ORG_TOPICS = {"org.created", "org.renamed", "org.configured"}


async def test_what_only_admins_are_shown_is_not_in_the_log_of_others(world: World) -> None:
    """`events/list` is for everyone; `tokens/list` and an org's sign-in rules are not."""
    for role in ROLES:
        for method in METHODS:
            page = await world.callers[role, method].call("events/list", {"limit": 500})
            topics = {event["topic"] for item in page["items"] for event in item["events"]}
            assert bool(topics & TOKEN_TOPICS) == (role in ENDPOINTS["/v1/tokens/list"].roles), (role, method)
            assert bool(topics & ORG_TOPICS) == (role == "org_admin"), (role, method)


async def test_what_was_made_a_moment_ago_is_ones_own_at_once(world: World) -> None:
    """A 404 waits for the read models, so that nobody gets one for what it has just made itself."""
    for caller in (world.callers["member", "token"], world.callers["company_admin", "jwt"]):
        for _ in range(10):
            made = await submit(caller, world.own.company_id, world.waits[world.own.org_id])
            await caller.call("runs/create", {"submission_id": made["submission_id"]})
            await caller.call("runs/cancel", {"run_id": made["run_id"]})
