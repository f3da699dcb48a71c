"""`dex` as a user runs it: the demo, a running system, and the commands beside it."""

import asyncio
import gzip
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from cli.documents import permissions
from cli.event_catalogue import event_catalogue
from migrations.database import versions

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 120


class Dex:
    """Runs `dex` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "DATA_ENGINE_HOME": str(home), "DATA_ENGINE_PORT": "0", "COLUMNS": "200"}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli.main", *arguments, cwd=ROOT, env=self.environment, stdout=pipe, stderr=pipe
        )

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def up(home: Path) -> AsyncIterator[Dex]:
    dex = Dex(home)
    process = await dex.start("up")
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        while b"Ctrl-C" not in (line := await process.stdout.readline()):
            assert line, (await process.stderr.read()).decode()  # type: ignore[union-attr]
    yield dex
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == 0
    assert not (home / "run" / "state.json").exists()


async def test_the_demo_shows_a_run_that_succeeded(home):
    code, out, err = await Dex(home)("demo", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["run"]["status"] == "succeeded"
    results = shown["step_results"]
    assert [r["step_key"] for r in results] == [
        "map_fields", "normalize_text", "extract_domain", "normalize_country", "deduplicate",
    ]  # fmt: skip
    assert results[0]["input"]["rows"] >= 500
    assert sum((r["rejects"] or {"rows": 0})["rows"] for r in results) > 0
    assert shown["before"]
    assert shown["after"][0]["domain"]


async def a_file_goes_in_and_comes_out(dex: Dex, folder: Path) -> None:
    """`dex submit` and `dex download`, with a token that `dex token create` made."""
    _, out, _ = await dex("token", "create", "for files", "--json")
    gateway_url = json.loads((dex.home / "run" / "state.json").read_text())["gateway_url"]
    headers = {"Authorization": f"Bearer {json.loads(out)['token']}"}
    async with httpx.AsyncClient(base_url=gateway_url, headers=headers) as http:
        await http.post("/v1/companies/create", json={"name": "Acme"})
        step = {"key": "normalize_text", "config": {"fields": ["name"], "case": "title"}}
        made = await http.post("/v1/blueprints/create", json={"name": "tidy", "steps": [step]})
        assert made.status_code == 201, made.text
    file = folder / "people.csv.gz"
    file.write_bytes(gzip.compress(b"name;city\n ada  byron ;Bonn\nragged\n"))
    arguments = (str(file), "--blueprint", "tidy", "--read", '{"delimiter": ";"}')
    code, out, err = await dex("preview", *arguments)
    assert code == 0, err
    assert "1 rows in, 1 rows out; changed: 1" in out
    assert "ada  byron  → Ada Byron" in out
    steps = folder / "steps.json"
    steps.write_text(json.dumps([step, {"key": "normalize_email", "config": {"field": "mail"}}]))
    code, out, err = await dex("preview", str(file), "--blueprint", str(steps), *arguments[3:], "--json")
    assert code == 1, "a step fails"
    assert [step["status"] for step in json.loads(out)["steps"]] == ["succeeded", "failed"]
    code, out, err = await dex("submit", *arguments, "--watch", "--json")
    assert code == 0, err
    run = json.loads(out)
    assert [(step["step_key"], step["output"]["rows"]) for step in run["step_results"]] == [
        ("read_file", 1),
        ("normalize_text", 1),
    ]
    code, out, err = await dex("submit", *arguments, "--watch")
    assert code == 0, err
    assert "has succeeded" in out
    code, out, err = await dex("audit", "verify-run", run["run_id"], "--out", str(folder / "report.json"))
    assert code == 0, err
    assert "reproduced" in out
    assert json.loads((folder / "report.json").read_text())["report"]["run_id"] == run["run_id"]
    _, key, _ = await dex("audit", "key")
    code, out, err = await dex("audit", "verify-report", str(folder / "report.json"), "--key", key.strip())
    assert code == 0, err
    assert "reproduced" in out
    for name, content in (("out.csv", '"Ada Byron","Bonn"'), ("out.jsonl", '{"name":"Ada Byron","city":"Bonn"}')):
        code, _, err = await dex("download", run["run_id"], str(folder / name))
        assert code == 0, err
        assert (folder / name).read_text().splitlines()[-1] == content
    code, out, err = await dex("download", run["run_id"], str(folder / "r.jsonl"), "--step", "0", "--kind", "rejects")
    assert code == 0, err
    assert json.loads((folder / "r.jsonl").read_text())["value"] == "ragged"
    code, _, err = await dex("download", run["run_id"], str(folder / "out.doc"))
    assert code == 1
    assert "say by the file's name what is wanted" in " ".join(err.split())


async def test_the_commands_beside_a_running_system(up, tmp_path):
    code, out, _ = await up("status", "--json")
    status = json.loads(out)
    assert (code, status["healthy"], status["faults"]) == (0, True, [])
    assert {p["process"] for p in status["processes"]} == {
        "gateway",
        "command-service",
        "worker",
        "projector",
        "archiver",
    }
    assert {p["lag"] for p in status["projections"]} == {0}

    code, out, err = await up("org", "create", "Second", "--admin-email", "a@example.com", "--json")
    assert code == 0, err
    code, out, err = await up("token", "create", "for the test", "--expires-days", "30", "--json")
    assert code == 0, err
    made = json.loads(out)
    code, out, err = await up("token", "rotate", made["token_id"], "--overlap-hours", "0", "--json")
    assert code == 0, err
    rotated = json.loads(out)
    assert rotated["in_force"]
    assert rotated["token"].startswith("dex_")
    assert rotated["token"] != made["token"]
    code, out, err = await up("token", "revoke", made["token_id"])
    assert (code, out.strip()) == (0, "Revoked."), err
    code, out, err = await up("token", "list", "--json")
    assert code == 0, err
    [listed] = [token for token in json.loads(out)["items"] if token["token_id"] == made["token_id"]]
    assert (listed["active"], listed["role"], listed["rotated_at"] is None) == (False, "org_admin", False)

    file = tmp_path / "rows.csv"
    file.write_text("name\n a  b \n")
    code, _, err = await up("submit", str(file), "--blueprint", "none")
    assert code == 1
    assert "There is no blueprint" in err or "Say which company" in err

    code, out, err = await up("log", "check", "--json")
    assert code == 0, err
    checked = json.loads(out)
    assert (checked["ok"], checked["faults"]) == (True, [])
    assert checked["compared"] == checked["archived"] > 0
    code, out, err = await up("log", "restore", "log")
    assert (code, "whole" in out) == (0, True), err
    code, out, err = await up("log", "trim", "--keep", "30d", "--json")
    assert (code, json.loads(out)) == (0, {"before": 1, "first_position": 1}), err
    code, _, err = await up("log", "trim", "--keep", "30 minutes")
    assert code == 1
    assert "write days or hours" in err

    code, out, err = await up("rebuild", "--json")
    assert code == 0, err
    assert json.loads(out)["identical"]
    code, _, err = await up("rebuild", "nonsense")
    assert code == 1
    assert "nonsense" in err

    code, _, err = await up("up")
    assert code == 1
    assert "running" in err


async def test_a_file_goes_in_and_comes_out(up, tmp_path):
    await a_file_goes_in_and_comes_out(up, tmp_path)


async def test_what_is_wrong_is_a_sentence_and_not_a_traceback(home):
    for arguments in (("status",), ("submit", "x.csv", "--blueprint", "b"), ("token", "create", "x")):
        code, out, err = await Dex(home)(*arguments)
        assert code == 1, arguments
        assert "Error:" in err
        assert "Traceback" not in out + err


async def test_a_database_that_is_not_migrated_is_named_with_what_to_do(home, servers):
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute("DROP DATABASE IF EXISTS not_migrated")
    await connection.execute("CREATE DATABASE not_migrated")
    await connection.close()
    dex = Dex(home)
    dex.environment["DATA_ENGINE_NATS_URL"] = servers.nats_url
    dex.environment["DATA_ENGINE_DATABASE_URL"] = f"{servers.database_url.rpartition('/')[0]}/not_migrated"
    code, out, err = await dex("status", "--json")
    assert code == 1, err
    assert f"migration {versions()[0]} is not applied: run `dex migrate`" in json.loads(out)["faults"]
    code, out, err = await dex("log", "check")
    assert (code, "run `dex migrate`" in err, "Traceback" in out + err) == (1, True, False)


async def test_documents_are_made_from_the_code(home):
    code, out, _ = await Dex(home)("docs", "asyncapi")
    assert code == 0
    channels = json.loads(out)["channels"]
    assert any("create_submission" in name for name in channels)
    assert any("map_fields" in name for name in channels)
    code, out, _ = await Dex(home)("docs", "openapi")
    assert code == 0
    assert "/v1/submissions/create" in json.loads(out)["paths"]


def test_the_permissions_in_the_docs_are_those_of_the_code():
    text = (ROOT / "docs" / "security.md").read_text()
    shown = text.partition("<!-- matrix: made by `dex docs permissions` -->")[2].partition("<!-- end of matrix -->")[0]
    assert shown.strip() == permissions().strip()


def test_the_event_catalogue_in_the_docs_is_that_of_the_code():
    assert (ROOT / "docs" / "events.md").read_text().strip() == event_catalogue().strip()
