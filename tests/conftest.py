"""Real servers for all tests: one nats-server and one PostgreSQL a test run, from the wheels, on free ports; and for
those that ask for it the whole system beside them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from pydantic import SecretStr

from cli import embedded
from cli.database_roles import ensure_logins
from cli.embedded import EmbeddedConfig
from cli.supervisor import Supervisor
from cli.system import System
from events.connection import connect
from events.keyring import use_keys
from events.keys import MasterKeys
from events.log import EventLog
from events.settings import Settings
from migrations.database import migrate
from migrations.streams import migrate_streams
from tests.system.client import SYSTEM_JWT_SECRET, SYSTEM_MASTER_KEYS, Org, new_org

STEP_MODULES = ("services.steps.catalogue", "bench.steps", "tests.system.faulty_steps")


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedConfig]:
    """The servers of this run, migrated."""
    home = tmp_path_factory.mktemp("servers")
    folder = embedded.DataFolder(home)
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "run" / "state.json", lambda _name, _what: None)
    await supervisor.start(embedded.nats_spec(home, config))
    await supervisor.start(embedded.postgres_spec(home, config))
    await migrate(config.database_url)
    await ensure_logins(config.database_url, config.logins)
    connection = await connect([config.nats_url], "migrate")
    await migrate_streams(connection, replicas=1)
    await connection.close()
    yield config
    await supervisor.stop(abruptly=True)
    folder.close()


def process_settings(servers: EmbeddedConfig) -> dict[str, str]:
    """What each process connects as, as settings of servers that are not embedded."""
    nats = {f"{name.replace('-', '_')}_nats_url": url for name, url in servers.nats_urls.items()}
    return nats | {f"{name}_database_url": url for name, url in servers.database_urls.items()}


@pytest.fixture(scope="session")
def settings(servers: EmbeddedConfig, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that name this run's servers; tests change copies."""
    return Settings(
        _env_file=None,
        home=tmp_path_factory.mktemp("home"),
        nats_url=servers.nats_url,
        database_url=servers.database_url,
        **process_settings(servers),
        task_ack_wait_s=2.0,
        log_format="text",
        log_level="warning",
    )


@pytest.fixture(scope="session")
async def connection(servers: EmbeddedConfig) -> AsyncIterator[Client]:
    """A connection to this run's nats-server."""
    connected = await connect([servers.nats_url], "tests")
    use_keys(connected, MasterKeys(SYSTEM_MASTER_KEYS))
    yield connected
    await connected.close()


@pytest.fixture
def log(connection: Client) -> EventLog:
    """The log of this run's nats-server."""
    return EventLog(connection)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data folder of the test's own."""
    return tmp_path / "home"


@pytest.fixture(scope="session")
def system_settings(settings: Settings) -> Settings:
    """What the processes of the system under test are set to."""
    changes = {
        "port": 0, "step_modules": STEP_MODULES, "command_timeout_s": 2.0, "uploads_per_org_max": 64,
        "streams_per_org_max": 24,
        "history_reads_per_org_max": 400,
        "previews_per_org_max": 64,
    }  # fmt: skip
    secrets = {
        "jwt_secret": SecretStr(SYSTEM_JWT_SECRET),
        "tenant_key": SecretStr("the-key-of-the-system-under-test-x"),
        "master_keys": SecretStr(SYSTEM_MASTER_KEYS),
        "audit_key": SecretStr(embedded.new_key()),
    }
    return settings.model_copy(update=changes | secrets)


@pytest.fixture(scope="session")
async def system(system_settings: Settings) -> AsyncIterator[System]:
    """Gateway, command service, worker and projector, under the supervisor."""
    running = System(system_settings, lambda _name, _what: None)
    await running.start()
    yield running
    await running.stop(abruptly=True)


@pytest.fixture
async def org(system: System) -> AsyncIterator[Org]:
    """A fresh org with a company and an admin's token."""
    assert system.endpoints is not None
    fresh = await new_org(system.endpoints.gateway_url, system.endpoints.nats_url, system.endpoints.database_url)
    yield fresh
    await fresh.http.aclose()


@pytest.fixture(scope="session")
async def org_factory(system: System) -> AsyncIterator[Callable[[], Awaitable[Org]]]:
    """Makes orgs that live as long as the test run."""
    made: list[Org] = []

    async def make() -> Org:
        assert system.endpoints is not None
        made.append(
            await new_org(system.endpoints.gateway_url, system.endpoints.nats_url, system.endpoints.database_url)
        )
        return made[-1]

    yield make
    for fresh in made:
        await fresh.http.aclose()


@pytest.fixture
async def other_org(system: System) -> AsyncIterator[Org]:
    """Another tenant."""
    assert system.endpoints is not None
    fresh = await new_org(system.endpoints.gateway_url, system.endpoints.nats_url, system.endpoints.database_url)
    yield fresh
    await fresh.http.aclose()
