"""`dex security check` on the real system: nothing to say when all is well, and a name for everything that is weak."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from cli import embedded
from cli.security.check import check_security
from cli.security.local import check_ports
from cli.security.nats import matches
from cli.security.report import Audited, Finding
from cli.supervisor import ProcessSpec, Supervisor
from cli.system import Endpoints, System, read_state
from events.settings import Settings


@pytest.fixture
def endpoints(own_system: System) -> Endpoints:
    assert own_system.endpoints is not None
    return own_system.endpoints


@contextlib.asynccontextmanager
async def executed(endpoints: Endpoints, sql: str, undo: str) -> AsyncIterator[None]:
    """Something done to the database, and undone."""
    operator = await asyncpg.connect(endpoints.database_url)
    try:
        await operator.execute(sql)
        yield
    finally:
        await operator.execute(undo)
        await operator.close()


def weak(findings: list[Finding], area: str) -> dict[str, str]:
    """Where a weak setting was found in an area, and what it was."""
    return {found.where: found.what for found in findings if found.severity == "weak" and found.area == area}


def command(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "security", "check", *arguments],
        env={**os.environ, "DATA_ENGINE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_a_system_as_it_starts_has_no_weak_setting(own_system, own_settings, endpoints):
    done = await asyncio.to_thread(command, own_settings.home, "--json")
    found = json.loads(done.stdout)
    assert [finding for finding in found["findings"] if finding["severity"] == "weak"] == []
    assert (done.returncode, found["weak"]) == (0, 0)
    seen = {(finding["area"], finding["where"]) for finding in found["findings"]}
    for name in (
        "gateway",
        "command-service",
        "worker",
        "projector",
        "archiver",
        "remote-worker",
        "streams",
        "door",
        "transport",
        "durability",
    ):
        assert ("nats", name) in seen
    for name in ("gateway", "projector", "archiver", "operator", "data_engine.runs_v2", "data_engine.credentials"):
        assert ("postgres", name) in seen
    for area, where in (("tokens", "API tokens"), ("tokens", "invitations"), ("secrets", "sessions")):
        assert (area, where) in seen
    assert sum(finding["area"] == "ports" for finding in found["findings"]) >= 3
    assert sum(finding["area"] == "files" for finding in found["findings"]) >= 3


async def test_it_never_prints_a_secret(own_system, own_settings, endpoints):
    done = await asyncio.to_thread(command, own_settings.home, DATA_ENGINE_JWT_SECRET="short-and-secret")
    assert done.returncode == 1
    kept = json.loads((own_settings.home / "embedded.json").read_text())
    secrets = [kept["nats_password"], kept["postgres_password"], "short-and-secret"]
    secrets += [*kept["nats_passwords"].values(), *kept["database_passwords"].values()]
    text = "".join((done.stdout + done.stderr).split())
    assert [secret for secret in secrets if secret in text] == []


async def test_processes_that_connect_as_the_operator_are_weak(own_settings, endpoints):
    everybody = replace(endpoints, process_nats_urls={}, process_database_urls={})
    found = await check_security(own_settings, everybody)
    everything = "dex is a superuser and has BYPASSRLS and has CREATEROLE"
    assert weak(found, "postgres") == dict.fromkeys(("gateway", "projector", "archiver"), everything)
    assert set(weak(found, "nats")) == {"gateway", "command-service", "worker", "projector", "archiver"}
    assert all("operator's own user" in what for what in weak(found, "nats").values())


async def test_a_process_with_the_wrong_password_is_named(own_settings, endpoints):
    urls = {**endpoints.process_database_urls, "gateway": endpoints.database_url.replace(":", ":not", 2)}
    found = await check_security(own_settings, replace(endpoints, process_database_urls=urls))
    assert list(weak(found, "postgres")) == ["gateway"]


@pytest.mark.parametrize(
    "sql, undo, where, what",
    [
        (
            "CREATE TABLE data_engine.bare_v1 (org_id uuid)",
            "DROP TABLE data_engine.bare_v1",
            "data_engine.bare_v1",
            "row-level security is off",
        ),
        (
            "CREATE TABLE data_engine.bare_v1 (org_id uuid); ALTER TABLE data_engine.bare_v1 ENABLE ROW LEVEL SECURITY",
            "DROP TABLE data_engine.bare_v1",
            "data_engine.bare_v1",
            "row-level security without a policy",
        ),
        (
            "ALTER TABLE data_engine.runs_v2 DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE data_engine.runs_v2 ENABLE ROW LEVEL SECURITY",
            "data_engine.runs_v2",
            "row-level security is off",
        ),
        (
            "GRANT SELECT ON data_engine.steps_v1 TO PUBLIC",
            "REVOKE ALL ON data_engine.steps_v1 FROM PUBLIC",
            "data_engine.steps_v1",
            "PUBLIC has SELECT",
        ),
        (
            "GRANT USAGE ON SCHEMA data_engine TO PUBLIC",
            "REVOKE ALL ON SCHEMA data_engine FROM PUBLIC",
            "data_engine",
            "PUBLIC has USAGE",
        ),
        (
            "GRANT EXECUTE ON FUNCTION data_engine.token_caller(text) TO PUBLIC",
            "REVOKE ALL ON FUNCTION data_engine.token_caller(text) FROM PUBLIC",
            "data_engine.token_caller",
            "anybody may call a function that runs as the owner",
        ),
        (
            "ALTER ROLE data_engine_gateway_login BYPASSRLS",
            "ALTER ROLE data_engine_gateway_login NOBYPASSRLS",
            "gateway",
            "data_engine_gateway_login has BYPASSRLS",
        ),
        (
            "CREATE TABLE data_engine.own (n int); ALTER TABLE data_engine.own OWNER TO data_engine_projector",
            "DROP TABLE data_engine.own",
            "projector",
            "data_engine_projector_login owns 1 tables of data_engine",
        ),
    ],
)
async def test_what_is_weak_in_postgres_is_named(own_settings, endpoints, sql, undo, where, what):
    async with executed(endpoints, sql, undo):
        found = await check_security(own_settings, endpoints)
    assert weak(found, "postgres") == {where: what}


async def nats_server(folder: Path, text: str) -> tuple[Supervisor, int]:
    """A nats-server with a configuration of the test's own."""
    port = embedded.free_port()
    (folder / "nats.conf").write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}" }}\n{text}')

    async def ready() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    argv = [str(Path(sys.executable).parent / "nats-server"), "-c", str(folder / "nats.conf")]
    supervisor = Supervisor(folder / "state.json", lambda _name, _what: None)
    await supervisor.start(ProcessSpec("nats", argv, folder / "nats.log", ready=ready))
    return supervisor, port


async def test_a_nats_without_users_is_named(own_settings, endpoints, tmp_path):
    supervisor, port = await nats_server(tmp_path, "")
    open_to_all = replace(endpoints, nats_url=f"nats://127.0.0.1:{port}", process_nats_urls={})
    found = weak(await check_security(own_settings, open_to_all), "nats")
    await supervisor.stop()
    assert found["door"] == "anonymous connections are accepted"
    assert {"gateway", "worker", "streams"} <= set(found)


async def test_users_without_permissions_are_named(own_settings, endpoints, tmp_path):
    names = ("operator", "gateway", "command-service", "worker", "projector", "archiver")
    users = "\n".join(f'{{ user: "{name}", password: "a-long-password" }}' for name in names)
    supervisor, port = await nats_server(tmp_path, f"authorization {{ users: [\n{users}\n] }}")
    urls = {name: f"nats://{name}:a-long-password@127.0.0.1:{port}" for name in names}
    shared = replace(endpoints, nats_url=urls["operator"], process_nats_urls=urls)
    found = [finding for finding in await check_security(own_settings, shared) if finding.severity == "weak"]
    await supervisor.stop()
    assert "door" not in [finding.where for finding in found]
    for name in names[1:]:
        assert any(f.where == name and "STREAM.UPDATE, STREAM.DELETE, STREAM.PURGE" in f.what.replace(".EVENTS", "")
                   for f in found)  # fmt: skip
    assert any(f.where == "gateway" and "may write to the log" in f.what for f in found)
    assert any(f.where == "projector" and "by a reply subject" in f.what for f in found)


@pytest.mark.parametrize(
    "change, what",
    [
        ({"jwt_secret": "too-short", "jwt_issuer": "i"}, "shorter than 32 bytes"),
        ({"jwt_secret": "super-secret-jwt-token-with-at-least-32-characters-long", "jwt_issuer": "i"}, "a common one"),
        ({"jwt_secret": "x" * 40}, "JWT_ISSUER is not set"),
        ({"jwt_secret": "x" * 40, "jwt_issuer": "i", "jwt_audience": ""}, "JWT_AUDIENCE is not set"),
        ({"jwt_jwks_url": "http://keys.example.com/jwks", "jwt_issuer": "i"}, "plain http"),
    ],
)
async def test_weak_sessions_are_named_and_only_noted_in_development(own_settings, endpoints, change, what):
    weak_settings = Settings(_env_file=None, home=own_settings.home, **change)
    found = weak(await check_security(weak_settings, endpoints), "secrets")
    assert list(found) == ["sessions"]
    assert what in found["sessions"]
    developing = Settings(_env_file=None, home=own_settings.home, environment="development", **change)
    assert weak(await check_security(developing, endpoints), "secrets") == {}


@pytest.mark.parametrize("login", ["gateway:gateway", "gateway:changeme", "gateway:short", "gateway"])
async def test_passwords_that_are_guessed_are_named(own_settings, endpoints, login):
    host = endpoints.nats_url.rpartition("@")[2]
    urls = {**endpoints.process_nats_urls, "gateway": f"nats://{login}@{host}"}
    found = await check_security(own_settings, replace(endpoints, process_nats_urls=urls))
    assert list(weak(found, "secrets")) == ["gateway (nats)"]
    assert weak(found, "nats") == {"gateway": "cannot connect"}


@pytest.mark.parametrize("name", ["embedded.json", "credentials.json", "run/state.json", "nats/nats.conf"])
async def test_files_that_others_can_read_are_named(own_settings, endpoints, name):
    path = own_settings.home / name
    if not path.exists():
        path.write_text("{}")
    path.chmod(0o644)
    try:
        assert weak(await check_security(own_settings, endpoints), "files") == {
            str(path): "others can open it (mode 0644)"
        }
    finally:
        path.chmod(0o600)


async def test_a_server_that_is_open_to_the_network_is_named(own_settings, endpoints, tmp_path):
    program = "import socket, time; s = socket.create_server(('0.0.0.0', 0)); time.sleep(600)"

    async def ready() -> None:
        assert not [finding for finding in ports(own_settings, endpoints, pid()) if "not started" in finding.what]

    def pid() -> int:
        return supervisor.processes["nats"].pid

    supervisor = Supervisor(tmp_path / "state.json", lambda _name, _what: None)
    await supervisor.start(ProcessSpec("nats", [sys.executable, "-c", program], tmp_path / "log", ready=ready))
    found = ports(own_settings, endpoints, pid())
    await supervisor.stop()
    assert [(f.severity, f.what) for f in found] == [("weak", "nats is open to the network")]


def ports(settings: Settings, endpoints: Endpoints, pid: int) -> list[Finding]:
    """What is said of a system whose nats-server is the process with this id."""
    state = {**read_state(settings.home), "processes": {"nats": {"pid": pid}}}
    return [f for f in check_ports(Audited(settings, endpoints, state)) if f.what.startswith("nats")]


@pytest.mark.parametrize(
    "pattern, subject, expected",
    [
        ("a.b", "a.b", True), ("a.b", "a.c", False), ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("a.>", "a", False),
        (">", "a.b", True), ("a.>", "a.b.c", True), ("b.>", "a.b", False), ("a.* commands", "a.b", True),
    ],
)  # fmt: skip
def test_subjects_and_patterns(pattern, subject, expected):
    assert matches(pattern, subject) is expected
