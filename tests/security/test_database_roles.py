"""The logins of the processes on Postgres, and the refusal to run as more than they are."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
from typer.testing import CliRunner

from cli import embedded
from cli.database_roles import GROUPS, LOGINS, Login, ensure_logins, refuse_privileged_role, role_facts, scram_verifier
from cli.main import app
from cli.supervisor import Supervisor
from cli.system import System
from events.errors import ConfigurationError
from events.settings import Settings
from migrations.database import migrate


@pytest.fixture(scope="module")
async def managed_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A database as a managed service gives it: the operator owns it, may make roles, and is no superuser."""
    home = tmp_path_factory.mktemp("managed")
    folder = embedded.DataFolder(home)
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "run" / "state.json", lambda _name, _what: None)
    await supervisor.start(embedded.postgres_spec(home, config))
    superuser = await asyncpg.connect(config.database_url)
    await superuser.execute("CREATE ROLE managed LOGIN CREATEROLE PASSWORD 'of the managed operator'")
    await superuser.execute("CREATE DATABASE managed OWNER managed")
    await superuser.close()
    host = f"{embedded.HOST}:{config.postgres_port}"
    yield f"postgresql://managed:of%20the%20managed%20operator@{host}/managed"
    await supervisor.stop(abruptly=True)
    folder.close()


async def test_an_operator_who_is_no_superuser_migrates_and_makes_the_logins(managed_url):
    with pytest.raises(ConfigurationError, match="dex migrate"):
        await ensure_logins(managed_url, {"gateway": Login(LOGINS["gateway"], "x")})
    await migrate(managed_url)
    for password in ("a first password / with ?signs@:", "another one %20"):
        logins = {process: Login(LOGINS[process], password) for process in GROUPS}
        await ensure_logins(managed_url, logins)
        for process, login in logins.items():
            connection = await asyncpg.connect(login.url(managed_url))
            facts = await role_facts(connection)
            assert await connection.fetchval("SELECT pg_has_role(current_user, $1, 'USAGE')", GROUPS[process])
            await connection.close()
            assert (facts.name, facts.excess(), facts.create_role) == (LOGINS[process], [], False)


async def test_the_owner_of_the_tables_is_too_much_for_a_process(managed_url):
    await migrate(managed_url)
    settings = Settings(_env_file=None, database_url=managed_url)
    with pytest.raises(ConfigurationError, match=r"managed, which owns \d+ tables"):
        await refuse_privileged_role(settings, "gateway")
    await refuse_privileged_role(settings.model_copy(update={"environment": "development"}), "gateway")


async def test_the_roles_of_a_system_are_let_in_and_its_operator_is_not(settings):
    for url in (settings.gateway_database_url, settings.projector_database_url):
        await refuse_privileged_role(settings.model_copy(update={"database_url": url}), "gateway")
    with pytest.raises(ConfigurationError, match="superuser"):
        await refuse_privileged_role(settings, "gateway")


@pytest.mark.parametrize("change", ["ALTER ROLE {} BYPASSRLS", "GRANT mighty TO {}"])
async def test_bypassing_row_security_is_too_much_in_any_way(settings, change):
    operator = await asyncpg.connect(settings.database_dsn)
    name = "data_engine_test_login"
    await operator.execute("CREATE ROLE mighty SUPERUSER")
    try:
        await ensure_logins(settings.database_dsn, {"gateway": Login(name, "of the test")})
        own = settings.model_copy(
            update={"database_url": _secret(Login(name, "of the test").url(settings.database_dsn))}
        )
        await refuse_privileged_role(own, "gateway")
        await operator.execute(change.format(name))
        with pytest.raises(ConfigurationError, match="BYPASSRLS"):
            await refuse_privileged_role(own, "gateway")
    finally:
        await operator.execute(f"DROP ROLE IF EXISTS {name}; DROP ROLE mighty")
        await operator.close()


def _secret(url: str) -> object:
    return Settings(_env_file=None, database_url=url).database_url


async def test_a_superuser_is_never_given_a_new_password(settings):
    operator = Login.of_url(settings.database_dsn)
    with pytest.raises(ConfigurationError, match="a login of its own"):
        await ensure_logins(settings.database_dsn, {"gateway": Login(operator.name, "taken over")})


@pytest.mark.parametrize("process", ["gateway", "projector", "archiver"])
def test_a_process_does_not_start_as_the_superuser(settings, process):
    environment = {
        **os.environ,
        "DATA_ENGINE_HOME": str(settings.home),
        "DATA_ENGINE_DATABASE_URL": settings.database_dsn,
        "DATA_ENGINE_NATS_URL": settings.nats_servers[0],
        "DATA_ENGINE_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", process], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "is a superuser" in done.stdout + done.stderr
    assert "dex database roles" in done.stdout + done.stderr


def test_the_command_makes_given_logins_and_shows_new_ones_once(managed_url, monkeypatch, tmp_path):
    given = Login("my_gateway", "given by the operator").url(managed_url)
    monkeypatch.chdir(tmp_path)
    for name, value in {"DATABASE_URL": managed_url, "NATS_URL": "nats://h", "GATEWAY_DATABASE_URL": given}.items():
        monkeypatch.setenv(f"DATA_ENGINE_{name}", value)
    assert CliRunner().invoke(app, ["migrate", "--help"]).exit_code == 0
    done = CliRunner().invoke(app, ["database", "roles"])
    assert done.exit_code == 0, done.output
    assert "my_gateway, a member of data_engine_gateway" in done.output
    assert "given by the operator" not in done.output
    assert "DATA_ENGINE_PROJECTOR_DATABASE_URL=postgresql://data_engine_projector_login:" in done.output
    assert "DATA_ENGINE_GATEWAY_DATABASE_URL" not in done.output


def test_a_verifier_is_what_postgresql_makes():
    """Of RFC 7677's example: user, pencil."""
    verifier = scram_verifier("pencil", salt=b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81")
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


def test_a_process_gets_its_own_urls_and_no_secret_of_others(own_system: System, own_settings: Settings):
    assert own_system.endpoints is not None
    settings = own_settings.model_copy(update={"jwt_secret": _secret("for-the-gateway"), "gateway_nats_url": None})
    others = {"operator": own_system.endpoints.nats_url, **own_system.endpoints.process_nats_urls}
    for name in ("gateway", "command-service", "worker", "projector", "archiver"):
        environment = own_system.endpoints.for_process(settings, name).as_environment()
        text = " ".join(environment.values())
        assert environment["DATA_ENGINE_NATS_URL"] == others[name]
        assert [other for other, url in others.items() if other != name and url in text] == []
        assert bool(environment["DATA_ENGINE_DATABASE_URL"]) == (name in GROUPS)
        assert ("for-the-gateway" in text) == (name == "gateway")
        assert own_system.endpoints.database_url not in text
        # an empty value takes back what a `.env` file or the parent's environment says
        assert environment["DATA_ENGINE_GATEWAY_DATABASE_URL"] == ""
