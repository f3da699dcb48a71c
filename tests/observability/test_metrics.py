"""What the four processes serve to Prometheus: the right figures, and no tenant's data in any label."""

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from cli import embedded
from cli.main import app
from cli.system import Endpoints, System
from events.commands import COMMANDS
from events.metrics import OF_PROCESS, OUTCOMES
from events.settings import Settings
from gateway.limits import LIMIT_CODES
from gateway.observe import REASONS, STATUSES
from gateway.permissions import ENDPOINTS
from gateway.problems import REFUSALS
from projections.catalogue import PROJECTIONS
from services.worker.registry import load_steps
from tests.observability.conftest import STEP_MODULES, eventually

ROOT = Path(__file__).parents[2]

# label → its values, wherever it stands; `outcome` depends on the metric
VOCABULARY = {
    "endpoint": {*ENDPOINTS, "/health", "/openapi.json", "/docs", "/docs/oauth2-redirect", "unmatched"},
    "status": {*STATUSES},
    "reason": {*REASONS},
    "code": {*LIMIT_CODES, *REFUSALS},
    "command": {*COMMANDS},
    "kind": {"command", "task"},
    "step": {*load_steps(STEP_MODULES)},
    "place": {"inline", "isolated"},
    "by": {"own", "lent", "helped"},
    "projection": {projection.name for projection in PROJECTIONS},
    "generation": {"0", "1", "2"},  # of Python's garbage collector
}
PYTHON_INFO = {"implementation", "major", "minor", "patchlevel", "version"}


HTTP, COMMANDS_DONE, STEPS = (f"{name}_duration_seconds_count" for name in ("http_request", "command", "step"))


async def scraped(observed) -> dict[str, str]:
    """The text of each process's metrics."""
    async with httpx.AsyncClient() as http:
        answers = await asyncio.gather(*(http.get(url) for url in observed.metrics_urls.values()))
    assert all(answer.status_code == 200 for answer in answers)
    return {name: answer.text for name, answer in zip(observed.metrics_urls, answers, strict=True)}


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in found for s in family.samples}


def value(text: str, name: str, **labels: str) -> float:
    return samples(text).get((f"data_engine_{name}", frozenset(labels.items())), 0.0)


async def work(observed, org) -> set[str]:
    """Something of everything; what is the tenant's in it."""
    blueprint = await org.blueprint("test_count", {"key": "test_slow", "config": {"seconds": 0.01}})
    made = await org.submit(blueprint, [{"n": 0, "word": "open-sesame"}], wait_s=30)
    failing = await org.blueprint({"key": "test_reject_all", "retry": {"attempts": 1}})
    failed = await org.submit(failing, wait_s=30)
    user = await org.call("users/create", {"email": "eve@example.com", "name": "Eve", "role": "org_admin"})
    token = await org.call("tokens/create", {"name": "of Eve", "user_id": user["user_id"]})
    await org.call("companies/create", {"name": "Acme"}, key="once")
    repeated = await org.post("companies/create", {"name": "Acme"}, key="once")
    assert (await org.post("runs/get", {"run_id": org.org_id})).status_code == 404
    assert (await org.post(f"runs/{org.org_id}")).status_code == 404
    for header in ("Bearer dex_" + "a" * 48, "Bearer " + "x.y.z", "Basic abc"):
        response = await org.http.post("orgs/get", json={}, headers={"Authorization": header})
        assert response.status_code == 401
    return {
        org.org_id, org.company_id, org.token, blueprint, failing, made["run_id"], made["submission_id"],
        failed["run_id"], user["user_id"], token["token_id"], token["token"], repeated.headers["x-request-id"],
        "Acme", "eve@example.com", "Eve", "open-sesame", "not this",
    }  # fmt: skip


GREW = [
    # process, metric, labels, by how much
    ("gateway", HTTP, {"endpoint": "/v1/submissions/create", "status": "2xx"}, 2),
    ("gateway", HTTP, {"endpoint": "/v1/runs/get", "status": "4xx"}, 1),
    ("gateway", HTTP, {"endpoint": "unmatched", "status": "4xx"}, 1),
    ("gateway", "authentication_failures_total", {"reason": "token"}, 1),
    ("gateway", "authentication_failures_total", {"reason": "malformed"}, 2),
    ("command-service", COMMANDS_DONE, {"command": "create_submission", "outcome": "accepted"}, 2),
    ("command-service", COMMANDS_DONE, {"command": "create_company", "outcome": "accepted"}, 1),
    ("command-service", COMMANDS_DONE, {"command": "create_company", "outcome": "repeated"}, 1),
    ("command-service", "log_append_duration_seconds_count", {"outcome": "recorded"}, 7),
    ("command-service", "log_append_duration_seconds_count", {"outcome": "repeated"}, 1),
    ("worker", "tasks_total", {"step": "test_count", "outcome": "done"}, 1),
    ("worker", "tasks_total", {"step": "test_slow", "outcome": "done"}, 1),
    ("worker", "tasks_total", {"step": "test_reject_all", "outcome": "done"}, 1),
    ("worker", STEPS, {"step": "test_count", "outcome": "succeeded", "place": "inline"}, 1),
    ("worker", STEPS, {"step": "test_slow", "outcome": "succeeded", "place": "isolated"}, 1),
    ("worker", STEPS, {"step": "test_reject_all", "outcome": "failed", "place": "inline"}, 1),
]


async def test_metrics_tell_what_was_done(observed, org):
    before = await scraped(observed)
    await work(observed, org)

    async def differing() -> list[tuple]:
        after = await scraped(observed)
        return [
            (process, name, labels, expected, grew)
            for process, name, labels, expected in GREW
            if (grew := value(after[process], name, **labels) - value(before[process], name, **labels)) != expected
        ]

    assert await eventually(differing, lambda found: not found) == []
    after = await scraped(observed)
    assert value(after["gateway"], HTTP, endpoint="/health", status="2xx") >= 1
    assert value(after["worker"], "tasks_in_hand") == 0
    for name in ("projector_position", "projector_batch_decisions_sum"):
        assert value(after["projector"], name) - value(before["projector"], name) >= 10
    assert value(after["projector"], "projector_lag_positions") == 0


async def test_no_label_and_no_line_carries_a_tenants_data(observed, org):
    tenants = await work(observed, org)
    for process, text in (await scraped(observed)).items():
        served = set()
        for family in text_string_to_metric_families(text):
            served.add(family.name)
            for sample in family.samples:
                check_labels(family.name, sample.labels)
        own = {name for name in served if name.startswith("data_engine_")}
        assert own == {metric.describe()[0].name for metric in OF_PROCESS[process]}
        assert {"process_cpu_seconds", "process_resident_memory_bytes", "python_info"} <= served
        assert [datum for datum in tenants if datum in text] == []
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", text), "an id"


def check_labels(metric: str, labels: dict[str, str]) -> None:
    for name, found in labels.items():
        if name == "le":
            float(found)
        elif name == "outcome":
            assert found in OUTCOMES[metric]
        elif metric == "python_info":
            assert name in PYTHON_INFO
        else:
            assert found in VOCABULARY[name], (metric, name, found)


async def test_the_public_port_serves_no_metrics(observed):
    async with httpx.AsyncClient() as http:
        for method in ("GET", "POST"):
            assert (await http.request(method, f"{observed.base_url}/metrics")).status_code == 404


async def test_status_says_where_they_are(observed):
    assert len(set(observed.metrics_urls.values())) == 5
    assert set(observed.metrics_urls) == set(OF_PROCESS)
    environment = {"DATA_ENGINE_HOME": str(observed.home)}
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["status", "--json"], env=environment)
    for url in observed.metrics_urls.values():
        assert url in shown.stdout


async def test_no_two_processes_are_given_the_same_port(home, monkeypatch):
    """What was chosen is not bound yet, so the kernel may well name it again."""
    system = System(Settings(_env_file=None, home=home), lambda _name, _what: None)
    system.endpoints = Endpoints("", "", "http://127.0.0.1:7001")
    offered = iter([7001, 7002, 7002, 7001, 7003])
    monkeypatch.setattr(embedded, "free_port", lambda _host: next(offered))
    assert [system._metrics_url(name).rpartition(":")[2] for name in ("gateway", "worker")] == [
        "7002/metrics",
        "7003/metrics",
    ]
    await system.stop(abruptly=True)


def test_the_documentation_lists_every_metric_with_its_labels():
    text = (ROOT / "docs" / "operations.md").read_text()
    for process, collectors in OF_PROCESS.items():
        for metric in collectors:
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
            assert process in row, (name, process)
            assert row.split("|")[2].strip() == family.type
            assert row.split("|")[3].strip() == labels
            assert family.documentation in row


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_port_that_is_taken_is_a_clear_error(name):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code = (
            "import sys; from cli.processes import run_process, serve_worker; from events.settings import Settings\n"
            f"settings = Settings(_env_file=None, metrics_port={taken.getsockname()[1]})\n"
            f"sys.exit(run_process({name!r}, settings, serve_worker))"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "DATA_ENGINE_METRICS_PORT" in ran.stdout
