"""One trace follows a request through command, log, tasks and steps, to a real OTLP receiver."""

import json
import secrets
import signal
import subprocess
import sys

import pytest

from events.connection import connect
from events.keyring import use_keys
from events.keys import MasterKeys
from events.log import EventLog
from tests.observability.collector import Received

SERVER, PRODUCER, CONSUMER = 2, 4, 5
ALLOWED_ATTRIBUTES = {
    "http.request.method", "http.route", "http.response.status_code", "error.type",
    *(f"data_engine.{name}" for name in ("request_id", "org_id", "run_id", "position", "place")),
}  # fmt: skip


def traceparent() -> tuple[str, str, str]:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-01"


def path_of(spans: list[Received], span: Received, root: str) -> tuple[str, ...]:
    """The names from the root down to a span; fails when a parent is missing."""
    by_id = {each.span_id: each for each in spans}
    names = [span.name]
    while span.parent_id != root:
        span = by_id[span.parent_id]
        names.insert(0, span.name)
    return tuple(names)


async def post_traced(org, endpoint: str, body: dict) -> tuple[str, str, dict]:
    trace_id, span_id, header = traceparent()
    response = await org.http.post(endpoint, json=body, headers={"traceparent": header, "tracestate": "x=sesame"})
    assert response.status_code < 300, response.text
    return trace_id, span_id, {**response.json(), "request_id": response.headers["x-request-id"]}


async def submit_traced(org) -> tuple[str, str, dict]:
    slow = {"key": "test_slow", "config": {"seconds": 0.01}}  # has an effect: a task and a decision of its own
    blueprint = await org.blueprint("test_count", "test_count", slow, "test_count")
    body = {"company_id": org.company_id, "blueprint_id": blueprint, "records": [{"n": 0, "word": "open-sesame"}]}
    return await post_traced(org, "submissions/create", {**body, "wait_s": 30})


def is_whole(spans: list[Received]) -> bool:
    """Whether every process has exported its part of `submit_traced`."""
    names = [span.name for span in spans]
    return names.count("step test_count") == 3 and names.count("task test_count") == 2 and {
        "POST /v1/submissions/create", "command create_submission", "task test_slow", "step test_slow",
    } <= {*names}  # fmt: skip


async def test_one_trace_goes_from_the_request_to_the_last_step(observed, org):
    trace_id, caller, _ = await submit_traced(org)
    spans = await observed.collector.wait(trace_id, is_whole)
    way = ("POST /v1/submissions/create", "command create_submission", "append run")
    first, second, third = "task test_count", "task test_slow", "task test_count"
    then = (*way, first, "append run", second)
    # A set: a step that takes long is marked started, which is one more append below its task.
    assert {path_of(spans, span, caller) for span in spans} == {
        way[:1],
        way[:2],
        way,
        (*way, first),
        (*way, first, "step test_count"),
        (*way, first, "append run"),
        then,
        (*then, "step test_slow"),
        (*then, "append run"),
        (*then, "append run", third),
        (*then, "append run", third, "step test_count"),
        (*then, "append run", third, "append run"),
    }
    where = {span.name: span.process for span in spans}
    assert (where[way[0]], where[way[1]], where[first], where["step test_count"]) == (
        "gateway", "command-service", "worker", "worker",
    )  # fmt: skip
    kinds = {span.name: span.kind for span in spans}
    assert (kinds[way[0]], kinds[way[1]], kinds[way[2]], kinds[first]) == (SERVER, CONSUMER, PRODUCER, CONSUMER)
    assert {span.attributes.get("error.type") for span in spans} <= {None, "version_conflict"}


async def test_spans_carry_ids_and_nothing_of_the_payload(observed, org):
    trace_id, _, made = await submit_traced(org)
    spans = await observed.collector.wait(trace_id, is_whole)
    assert {key for span in spans for key in span.attributes} <= ALLOWED_ATTRIBUTES
    assert {span.scope for span in spans} == {"data-engine-x"}
    noted = [span for span in spans if not span.name.startswith("step ")]
    assert {span.attributes["data_engine.request_id"] for span in noted} == {made["request_id"]}
    assert {span.attributes["data_engine.org_id"] for span in noted} == {org.org_id}
    steps = [span for span in spans if span.name.startswith("step ")]
    assert [span.attributes["data_engine.place"] for span in steps] == ["inline", "inline", "isolated", "inline"]
    sent = b"".join(observed.collector.bodies)
    for secret in ("sesame", org.token, "Acme", "admin@example.com"):
        assert secret.encode() not in sent, secret
    assert observed.collector.paths == {"/v1/traces"}, "nothing but our own spans"


async def test_the_log_keeps_the_trace_in_a_header_and_not_in_the_body(observed, org):
    trace_id, _, made = await submit_traced(org)
    nats = await connect([observed.nats_url], "tests")
    assert observed.system.endpoints is not None
    assert observed.system.endpoints.master_keys is not None
    use_keys(nats, MasterKeys(observed.system.endpoints.master_keys))
    history = await EventLog(nats).history(org.org_id, "run", made["run_id"])
    for recorded in history:
        message = await nats.jetstream().get_msg("EVENTS", seq=recorded.position)
        assert message.headers["traceparent"].split("-")[1] == trace_id
        assert "tracestate" not in message.headers
        assert trace_id.encode() not in message.data
        assert recorded.decision.request_id == made["request_id"]
    assert len(history) >= 4
    await nats.close()


async def test_failures_are_told_by_code(observed, org):
    blueprint = await org.blueprint({"key": "test_reject_all", "retry": {"attempts": 1}})
    body = {"company_id": org.company_id, "blueprint_id": blueprint, "records": [{"n": 0}], "wait_s": 30}
    trace_id, _, _ = await post_traced(org, "submissions/create", body)
    spans = await observed.collector.wait(trace_id, lambda found: len(found) == 6)
    assert {span.name: span.attributes["error.type"] for span in spans if span.failed} == {
        "step test_reject_all": "refused"
    }


async def test_a_deferred_command_stays_in_its_trace_and_its_log_lines_name_the_request(observed, org):
    observed.system.supervisor.kill("command-service", signal.SIGSTOP)
    try:
        trace_id, caller, answer = await post_traced(org, "companies/create", {"name": "Later"})
    finally:
        observed.system.supervisor.kill("command-service", signal.SIGCONT)
    assert "command_id" in answer
    done = "command create_company"  # asked, and then deferred: done twice, recorded once
    spans = await observed.collector.wait(trace_id, lambda found: [s.name for s in found].count(done) == 2)
    assert {path_of(spans, span, caller) for span in spans if span.name == done} == {
        ("POST /v1/companies/create", done)
    }
    (line,) = await observed.entries("command-service", command_id=answer["command_id"])
    assert line["event"] == "deferred_command_done"
    assert line["request_id"] == answer["request_id"]
    assert line["org_id"] == org.org_id


@pytest.mark.parametrize(
    "header", ["", "garbage", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "00-" + "g" * 32 + "-" + "1" * 16 + "-01"]
)
async def test_a_trace_begins_here_when_the_caller_names_none(observed, org, header):
    response = await org.http.post("orgs/get", json={}, headers={"traceparent": header})
    assert response.status_code == 200
    (line,) = await observed.entries("gateway", request_id=response.headers["x-request-id"])
    (span,) = await observed.collector.wait(line["trace_id"], lambda found: len(found) == 1)
    assert (span.name, span.parent_id) == ("POST /v1/orgs/get", "")


def test_nothing_of_opentelemetry_is_imported_by_a_worker_that_traces_nothing():
    code = (
        "import sys, cli.processes; from events import tracing; from events.settings import Settings\n"
        "with tracing.exporting('worker', Settings(_env_file=None)), tracing.span('x', 'SERVER'):\n"
        "    assert tracing.carried() == {}\n"
        "    tracing.happened('y', 1); tracing.note(org_id='o')\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.trace', 'opentelemetry.sdk'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PATH": ""})
    assert ran.stdout.strip() == "[]"


def test_an_endpoint_without_the_packages_is_a_clear_error():
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from cli.processes import run_process, serve_commands; from events.settings import Settings\n"
        "settings = Settings(_env_file=None, otlp_endpoint='http://127.0.0.1:4318', nats_url='nats://127.0.0.1:1')\n"
        "sys.exit(run_process('command-service', settings, serve_commands))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PATH": ""})
    assert ran.returncode == 1
    assert "install data-engine-x[otlp]" in json.loads(ran.stdout)["reason"]
