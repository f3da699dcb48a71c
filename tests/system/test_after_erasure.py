"""What every endpoint says of a company that was erased, asked before and after; and what was on its way meanwhile."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from nats.aio.client import Client

from cli.system import System
from events import subjects
from events.audit.checkpoint import AuditKey
from events.audit.verify import verify
from events.ids import new_id
from events.settings import Settings
from tests.system.client import Org
from tests.system.test_erasure import erase, in_streams

MARKER = f"Marker{uuid.uuid4().hex[:12]}"
ROWS = [{"name": f"{MARKER} {number}", "email": f"e{number}@example.com"} for number in range(300)]
RULES = {
    "blocking": [[{"field": "email"}]],
    "comparisons": [{"fields": ["email"], "method": "exact", "weight": 1}],
    "threshold": 0.9,
    "entity_set": "customers",
    "record_key": ["email"],
}


def marked(text: str) -> bool:
    return MARKER.lower() in text.lower()


@dataclass
class Things:
    """A company and what there is of it."""

    org: Org
    position: int = 0
    ids: dict[str, str] = field(default_factory=dict)

    def asked(self) -> list[tuple[str, dict]]:
        """Endpoints that show what a company has, each with a body that finds it."""
        ids = self.ids
        run, submission = {"run_id": ids["run"]}, {"submission_id": ids["submission"]}
        other = {"run_id": ids["small_run"]}
        return [
            ("submissions/get", submission),
            ("runs/get", run),
            ("runs/diff", {"run_id": ids["second"], "before_run_id": ids["run"]}),
            ("step_results/list", run),
            ("step_results/get", run | {"step_index": 0}),
            ("results/get", run),
            ("results/get", run | {"step_index": 0, "kind": "input"}),
            ("results/get", other),
            *(("results/download", {**run, "format": form}) for form in ("csv", "jsonl", "parquet", "arrow")),
            ("results/download", other | {"format": "jsonl"}),
            ("entity_sets/get", {"set_id": ids["set"]}),
            ("users/get", {"user_id": ids["user"]}),
            ("tokens/get", {"token_id": ids["token"]}),
            ("audit/verification", {"verification_run_id": ids["verification"]}),
        ]

    def then(self) -> list[tuple[str, dict]]:
        """The same as of a moment at which all of it was there, as far as that can be asked."""
        moments = {"submissions/get", "runs/get", "step_results/list", "step_results/get"}
        return [(name, body | {"as_of": self.position}) for name, body in self.asked() if name in moments]

    def changed(self) -> list[tuple[str, dict]]:
        """Endpoints that would do something with it."""
        ids = self.ids
        company = {"company_id": self.org.company_id}
        return [
            ("runs/create", {"submission_id": ids["submission"]}),
            ("runs/retry", {"run_id": ids["failed_run"]}),
            ("runs/cancel", {"run_id": ids["failed_run"]}),
            ("audit/verify_run", {"run_id": ids["run"]}),
            ("blueprints/preview", {"blueprint_id": ids["blueprint"], **company, "records": [{"name": "x"}]}),
            ("submissions/create", {**company, "blueprint_id": ids["blueprint"], "records": [{"name": "x"}]}),
            ("users/create", {**company, "email": "n@example.com", "role": "member"}),
            ("users/invite", {**company, "email": "n@example.com", "role": "member"}),
            ("users/deactivate", {"user_id": ids["user"]}),
            ("tokens/create", {"user_id": ids["user"], "name": "n"}),
            ("tokens/rotate", {"token_id": ids["token"]}),
            ("tokens/revoke", {"token_id": ids["token"]}),
        ]


@pytest.fixture
async def things(org: Org) -> Things:
    org.company_id = (await org.call("companies/create", {"name": f"{MARKER} GmbH"}))["company_id"]
    text = {"key": "normalize_text", "config": {"fields": ["name"], "case": "title"}}
    cast = {"key": "cast_types", "config": {"casts": [{"field": "name", "to": "integer"}], "on_error": "fail"}}
    blueprint = await org.blueprint(text, {"key": "match_entities", "config": RULES})
    made = await org.submit(blueprint, ROWS, name=f"{MARKER}'s list")
    assert (await org.ended(made))["status"] == "succeeded"
    small = await org.submit(blueprint, ROWS[:3])
    assert (await org.ended(small))["status"] == "succeeded"
    failed = await org.submit(await org.blueprint(cast), ROWS[:3])
    assert (await org.ended(failed))["status"] == "failed"
    user = await org.call("users/create", {"email": f"{MARKER}@example.com", "name": MARKER, "role": "member",
                                           "company_id": org.company_id})  # fmt: skip
    token = await org.call("tokens/create", {"user_id": user["user_id"], "name": f"{MARKER}'s"})
    verifying = await org.call("audit/verify_run", {"run_id": made["run_id"], "wait_s": 30})
    second = await org.call("runs/create", {"submission_id": made["submission_id"]})
    assert (await org.ended(second))["status"] == "succeeded"
    sets = await org.call("entity_sets/list", {"company_id": org.company_id, "min_position": token["position"]})
    ids = {
        "run": made["run_id"], "submission": made["submission_id"], "small_run": small["run_id"],
        "failed_run": failed["run_id"], "blueprint": blueprint, "user": user["user_id"], "token": token["token_id"],
        "set": sets["items"][0]["set_id"], "verification": verifying["verification_run_id"], "second": second["run_id"],
    }  # fmt: skip
    position = (await org.call("runs/get", {"run_id": second["run_id"]}))["last_position"]
    return Things(org, position, ids)


async def test_nothing_is_found_that_was_found_before(things: Things) -> None:
    org = things.org
    for endpoint, body in (*things.asked(), *things.then()):
        before = await org.post(endpoint, body)
        assert before.status_code < 300, (endpoint, body, before.text)
    assert (await erase(org))["in_force"]
    for endpoint, body in (*things.asked(), *things.then(), *things.changed()):
        after = await org.post(endpoint, body)
        assert after.status_code in (404, 410), (endpoint, body, after.status_code, after.text)
        assert after.headers["content-type"] == "application/problem+json"
        assert not marked(after.text), (endpoint, after.text)


async def test_lists_and_replays_say_that_something_was_decided_and_not_what(things: Things) -> None:
    org, ids = things.org, things.ids
    of_company = {"company_id": org.company_id}
    lists = [
        ("submissions/list", of_company),
        ("runs/list", of_company),
        ("runs/list", of_company | {"as_of": things.position}),
        ("runs/list", {"submission_id": ids["submission"]}),
        ("entity_sets/list", of_company),
    ]
    for endpoint, body in lists:
        assert (await org.call(endpoint, body))["items"], (endpoint, body)
    before = (await org.call("events/list", {"run_id": ids["run"]}))["items"]
    assert marked(str(before))
    position = (await erase(org))["position"]
    for endpoint, body in lists:
        assert (await org.call(endpoint, body | {"min_position": position}))["items"] == [], (endpoint, body)
    after = (await org.call("events/list", {"run_id": ids["run"]}))["items"]
    assert [item["position"] for item in after] == [item["position"] for item in before]
    assert not any(item["events"] for item in after)
    for endpoint, body in (
        ("events/list", of_company),
        ("events/stream", of_company),
        ("events/stream", {"run_id": ids["run"]}),
        ("events/trace", {"position": before[0]["position"]}),
        ("users/list", {}),
        ("tokens/list", {}),
        ("companies/list", {}),
        ("companies/get", of_company),
        ("blueprints/list", {}),
        ("entity_sets/list", {}),
    ):
        answer = await org.post(endpoint, body)
        assert answer.status_code == 200, (endpoint, body, answer.text)
        assert not marked(answer.text), endpoint


async def test_proofs_hold_and_exports_have_nothing_to_read(
    things: Things, connection: Client, system_settings: Settings
) -> None:
    org, ids = things.org, things.ids
    before = await org.call("audit/checkpoint", {"min_position": things.position})
    before_items = (await org.call("events/list", {"run_id": ids["run"]}))["items"]
    position = (await erase(org))["position"]
    told: asyncio.Queue[int] = asyncio.Queue()

    async def receive(message: object) -> None:
        told.put_nowait(orjson.loads(message.data)["position"])  # type: ignore[attr-defined]

    subscription = await connection.subscribe(subjects.PROVED, cb=receive)
    await connection.flush()
    await org.call("blueprints/create", {"name": "afterwards", "steps": [{"key": "test_count"}]})
    async with asyncio.timeout(20):
        while await told.get() < position:
            continue
    await subscription.unsubscribe()
    checkpoint = await org.call("audit/checkpoint", {"min_position": position})
    assert system_settings.audit_key is not None
    key = AuditKey.of(system_settings.audit_key.get_secret_value(), system_settings.audit_origin)
    for body in ({}, {"company_id": org.company_id}, {"from_position": things.position}):
        asked = body | {"min_position": position, "previous_sizes": [before["size"]]}
        exported = await org.post("audit/export", asked)
        assert exported.status_code == 200, (body, exported.text)
        assert not marked(exported.text), body
        report = verify(exported.content.splitlines(), checkpoint=checkpoint["checkpoint"],
                        key=key.verifier(org.org_id), previous=[before["checkpoint"]])  # fmt: skip
        assert report.ok, (body, report.finding)
    for endpoint in ("audit/inclusion", "audit/export"):  # which decisions a run had is a read model's to say
        assert (await org.post(endpoint, {"run_id": ids["run"]})).status_code == 404
    for item in before_items:
        proof = await org.call("audit/inclusion", {"position": item["position"]})
        assert [found["position"] for found in proof["items"]] == [item["position"]]


@asynccontextmanager
async def commands_held_back(connection: Client) -> AsyncIterator[None]:
    """Meanwhile no service is given a deferred command."""
    pause = f"$JS.API.CONSUMER.PAUSE.{subjects.COMMANDS}.command-service"

    async def until(time: datetime | None) -> None:
        request = {} if time is None else {"pause_until": time.isoformat()}
        answer = orjson.loads((await connection.request(pause, orjson.dumps(request), timeout=5)).data)
        assert "error" not in answer, answer

    await until(datetime.now(UTC) + timedelta(minutes=10))
    try:
        yield
    finally:
        await until(None)


async def waiting(connection: Client) -> int:
    return (await connection.jetstream().stream_info(subjects.COMMANDS)).state.messages


async def test_what_was_deferred_before_is_dropped_afterwards(
    things: Things, connection: Client, system: System
) -> None:
    org, ids = things.org, things.ids
    company = {"company_id": org.company_id}
    deferred = [
        ("submissions/create", {**company, "blueprint_id": ids["blueprint"], "records": ROWS[:2], "name": MARKER}),
        ("submissions/create", {**company, "blueprint_id": ids["blueprint"], "records": ROWS}),
        ("users/create", {**company, "email": f"{MARKER}@example.com", "name": MARKER, "role": "member"}),
        ("runs/create", {"submission_id": ids["submission"]}),  # names no company: sealed by the master key
    ]
    dead = (await connection.jetstream().stream_info(subjects.DEAD_LETTERS)).state.messages
    async with commands_held_back(connection):
        system.supervisor.kill("command-service", signal.SIGSTOP)  # it is there, and does not answer
        try:
            answers = await asyncio.gather(*(org.post(endpoint, body) for endpoint, body in deferred))
        finally:
            system.supervisor.kill("command-service", signal.SIGKILL)  # and never will
        assert [answer.status_code for answer in answers] == [202] * len(deferred)
        assert await waiting(connection) == len(deferred)
        assert await in_streams(connection, MARKER.encode()) == []
        body, key = {"company_id": org.company_id, "confirmation": org.company_id}, new_id()
        async with asyncio.timeout(60):
            while (answered := await org.post("companies/erase", body, key)).status_code == 503:
                continue  # the service is not there again yet
        assert answered.status_code == 200, answered.text
        assert await waiting(connection) == len(deferred), "it is erased while they wait"
    async with asyncio.timeout(60):
        while await waiting(connection):
            await org.call("companies/list")
    assert (await connection.jetstream().stream_info(subjects.DEAD_LETTERS)).state.messages == dead
    for answer in answers[:2]:
        made = {"submission_id": answer.json()["submission_id"], "min_position": answered.json()["position"]}
        assert (await org.post("submissions/get", made)).status_code == 404
    later = await org.call("events/list", {"after_position": answered.json()["position"]})
    assert later["items"] == [], "nothing was recorded of it"


async def test_open_runs_refuse_it_until_they_are_cancelled(things: Things) -> None:
    org = things.org
    waits = {"key": "test_flaky", "config": {"marker": "", "failures": 99}, "retry": {"attempts": 3, "backoff_s": 3600}}
    made = await org.submit(await org.blueprint(waits), ROWS[:1])
    body = {"company_id": org.company_id, "confirmation": org.company_id}
    refused = await org.post("companies/erase", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "runs_open")
    assert "cancel them" in refused.json()["detail"]
    await org.call("runs/cancel", {"run_id": made["run_id"]})
    assert (await erase(org))["in_force"]
    assert (await org.post("runs/get", {"run_id": made["run_id"]})).status_code == 404
