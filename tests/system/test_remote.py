"""Steps that a worker in another language serves, against the running system; the client speaks docs/protocol.md."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from cli.embedded import EmbeddedConfig
from cli.system import System
from events.administration import STEP
from events.context import PLATFORM_ORG
from events.settings import Settings
from services.repository import Repository
from services.steps.base import Result, Rows, Step, StepConfig
from services.worker.service import register
from tests.system.client import Org
from tests.system.extra_worker import extra_worker
from tests.system.remote_client import RemoteWorker, upper

Start = Callable[..., RemoteWorker]


@pytest.fixture(scope="module")
async def engine(system: System, system_settings: Settings, tmp_path_factory) -> AsyncIterator[None]:
    """One more worker beside the system's, which serves whatever is announced: `dex worker --remote '*'`."""
    async with extra_worker(system, system_settings, tmp_path_factory.mktemp("engine"), "--remote", "*"):
        yield


@pytest.fixture
def worker(servers: EmbeddedConfig, engine: None) -> Start:
    """A remote worker of the user that is made for them."""
    return lambda answer=upper, **announcement: RemoteWorker(servers.nats_urls["remote-worker"], answer, **announcement)


def step(key: str = "remote_upper", **more) -> dict:
    return {"key": key, "config": {"field": "name"}, "retry": {"attempts": 1}, **more}


async def outputs(org: Org, made: dict) -> list[dict]:
    return (await org.call("results/get", {"run_id": made["run_id"], "min_position": made["position"]}))["records"]


async def test_a_run_goes_through_a_remote_step_and_python_steps(org, worker):
    async with worker() as remote:
        assert await remote.announce() == {"protocol": 1, "accepted": True}
        assert await remote.announce() == {"protocol": 1, "accepted": True}, "again, as every ten seconds"
        chain = [{"key": "normalize_text", "config": {"fields": ["name"]}}, step(), "test_count"]
        made = await org.submit(await org.blueprint(*chain), [{"name": " Åse  "}, {"name": 7}, {"name": "straße"}])
        run = await org.ended(made)
        assert run["status"] == "succeeded", run
        results = await org.steps(made, run["position"])
        assert await outputs(org, made) == [{"name": "ÅSE", "n": 1}, {"name": "STRASSE", "n": 1}]
    assert [(r["step_key"], r["status"]) for r in results][1] == ("remote_upper", "succeeded")
    assert results[1]["step_version"] == "remote+1"
    assert remote.requests[0]["step"] == "remote_upper"
    assert remote.requests[0]["version"] == "1"
    assert 0 < remote.requests[0]["deadline_ms"] <= 60_000


async def test_the_registry_shows_what_was_announced(org, worker):
    async with worker(key="remote_shown", version="2.0") as remote:
        await remote.announce()
        bad = {"name": "b", "steps": [{"key": "remote_shown", "config": {"field": 3}}]}
        response = await org.post("blueprints/create", bad)
        assert response.status_code == 422, response.text
        shown = await org.call("steps/get", {"key": "remote_shown"})
    assert shown["version"] == "remote+2.0"
    assert shown["config_schema"] == remote.announcement["config_schema"]


async def failed(org: Org, key: str, records: list | None = None, **more) -> dict:
    made = await org.submit(await org.blueprint(step(key, **more)), records or [{"name": "a"}])
    run = await org.ended(made)
    assert run["status"] == "failed", run
    (result,) = await org.steps(made, run["position"])
    return result["error"]


@pytest.mark.parametrize(
    "answer, code, word",
    [
        (b"\xff not JSON", "bad_answer", "JSON"),
        (b'{"records": [{"a": 1}], "records": []}', "bad_answer", "records"),
        (b'{"records": [{"a": 1e999}]}', "bad_answer", "float"),
        (b'{"records": [1]}', "bad_answer", "records.0"),
        ({}, "bad_answer", "either"),
        ({"records": []}, "bad_answer", '"rows"'),
        ({"records": [{}], "rows": [5]}, "bad_answer", "row 5"),
        ({"records": [], "rejects": [{"row": -1, "field": None, "code": "x"}]}, "bad_answer", "rejects.0.row"),
        ({"error": {"code": "no_list", "message": "No list \x00.", "retryable": False}}, "no_list", "list \\0"),
        (b"[" * 5_000, "bad_answer", "JSON"),
        (b'{"records": [{"a": "' + b"x" * 5_000_000 + b'"}]}', "bad_answer", "bytes"),
    ],
)  # fmt: skip
async def test_what_a_remote_worker_answers_is_checked(org, worker, answer, code, word):
    async with worker(lambda _: answer, key="remote_answers") as remote:
        await remote.announce()
        error = await failed(org, "remote_answers")
    assert error["code"] == code
    assert word in error["message"]


async def test_nobody_there_and_no_answer_are_tried_again(org, worker):
    async with worker(lambda _: None, key="remote_silent") as remote:
        await remote.announce()
        retry = {"attempts": 2, "backoff_s": 0.05, "timeout_s": 0.5}
        error = await failed(org, "remote_silent", retry=retry)
        assert error["code"] == "step_timeout"
        assert len(remote.requests) == 2
    assert (await failed(org, "remote_silent", retry=retry))["code"] == "remote_unavailable"


async def test_a_large_batch_is_asked_in_parts_and_rows_are_counted_in_it(org, worker):
    rows = 3000
    records = [{"name": None if n % 1000 == 999 else f"name {n}", "more": "x" * 1000} for n in range(rows)]
    async with worker(key="remote_parts") as remote:
        await remote.announce()
        made = await org.submit(await org.blueprint(step("remote_parts")), records)
        run = await org.ended(made)
        results = await org.steps(made, run["position"])
    assert run["status"] == "succeeded", run
    assert len(remote.requests) == 3
    assert results[0]["output"]["rows"] == rows - 3


async def test_a_step_over_whole_batches_is_asked_once(org, worker):
    def count(request: dict) -> dict:
        return {"records": [{"rows": len(request["records"])}]}

    async with worker(count, key="remote_whole", whole=True) as remote:
        await remote.announce()
        made = await org.submit(await org.blueprint(step("remote_whole")), [{"name": "x" * 1000}] * 2500)
        assert (await org.ended(made))["status"] == "succeeded"
    assert [len(request["records"]) for request in remote.requests] == [2500]


@pytest.mark.parametrize(
    "change, code, word",
    [
        ({"protocol": 2}, "announcement_invalid", "protocol"),
        ({"key": "steps.>"}, "announcement_invalid", "key"),
        ({"more": 1}, "announcement_invalid", "more"),
        ({"config_schema": {"type": "object", "$ref": "http://127.0.0.1:1/x"}}, "announcement_invalid", "fetched"),
        ({"config_schema": {"type": "object", "required": 3}}, "announcement_invalid", "JSON Schema"),
        ({"config_schema": {}}, "announcement_invalid", "object"),
        ({"config_schema": {"type": "object", "title": "\x00"}}, "announcement_invalid", "U+0000"),
        ({"summary": "a\x00"}, "announcement_invalid", "summary"),
        ({"key": "normalize_text"}, "step_taken", "normalize_text"),
        ({"key": "test_count"}, "step_taken", "test_count"),
    ],
)
async def test_an_announcement_that_cannot_be_served_is_refused(worker, change, code, word):
    remote = worker(**{"key": "remote_refused", **change})
    async with worker(key="remote_refused") as asking:
        asking.announcement = remote.announcement
        error = (await asking.announce())["error"]
    assert error["code"] == code
    assert word in error["message"]


async def test_a_new_version_takes_over_and_the_old_one_is_told_so(org, worker):
    async with worker(key="remote_versions") as old, worker(key="remote_versions", version="2") as new:
        assert (await old.announce()).get("accepted")
        assert (await new.announce()).get("accepted")
        assert (await old.announce())["error"]["code"] == "version_replaced"
        assert (await new.announce()).get("accepted")
        same = worker(key="remote_versions", version="2", summary="Something else.")
        async with same:
            assert (await same.announce())["error"]["code"] == "version_differs"
    assert (await org.call("steps/get", {"key": "remote_versions"}))["version"] == "remote+2"


async def test_a_worker_that_names_its_remote_steps_leaves_others_alone(system, system_settings, worker, tmp_path):
    """Both hear an announcement; the one that is not for it says nothing, and the other's answer arrives."""
    async with (
        extra_worker(system, system_settings, tmp_path, "--remote", "remote_named"),
        worker(key="remote_other") as remote,
    ):
        answers = await asyncio.gather(*(remote.announce() for _ in range(5)))
    assert answers == [{"protocol": 1, "accepted": True}] * 5


async def test_what_failed_for_a_while_is_tried_again_and_succeeds(org, worker):
    """A request that nobody answered, then an error that may pass, then an answer."""
    answers = iter([lambda _: None, lambda _: {"error": {"code": "busy", "message": "", "retryable": True}}, upper])
    async with worker(lambda request: next(answers)(request), key="remote_flaky") as remote:
        await remote.announce()
        retry = {"attempts": 3, "backoff_s": 0.05, "timeout_s": 0.5}
        made = await org.submit(await org.blueprint(step("remote_flaky", retry=retry)), [{"name": "a"}])
        run = await org.ended(made)
        assert run["status"] == "succeeded", run
        assert await outputs(org, made) == [{"name": "A"}]
    assert len(remote.requests) == 3


async def test_a_python_step_is_taken_over_only_when_its_key_is_named(system, system_settings, log, worker, tmp_path):
    python = Step("was_python", "1", "A step.", StepConfig, Rows(lambda frame, config, context: Result(frame)))
    await register(log, python)
    async with worker(key="was_python") as remote:
        assert (await remote.announce())["error"]["code"] == "step_taken"
        async with extra_worker(system, system_settings, tmp_path, "--remote", "was_python"):
            known = await Repository(log).fresh_thing(PLATFORM_ORG, STEP, "was_python")
            while known.registration.version != "remote+1":  # the other engine goes on refusing, and may be heard first
                await remote.announce()
                known = await Repository(log).fresh_thing(PLATFORM_ORG, STEP, "was_python")
