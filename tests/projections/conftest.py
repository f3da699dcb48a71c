"""Servers of these tests' own: they delete and rewind the log, which others would not survive."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from nats.aio.client import Client

from cli import embedded
from cli.embedded import EmbeddedConfig
from cli.supervisor import Supervisor
from events.connection import connect
from events.log import EventLog
from events.settings import Settings
from migrations.database import migrate
from migrations.streams import migrate_streams
from projections.catalogue import PROJECTIONS
from projections.database import create_pool
from tests.projections.support import World, make_log_anew

TABLES = [table.name for projection in PROJECTIONS for table in projection.tables]
TRUNCATE = ", ".join(f"data_engine.{name}" for name in [*TABLES, "projection_checkpoints", "projection_dead_letters"])

EMPTY_ARCHIVE = """
BEGIN; SET LOCAL session_replication_role = replica; -- a superuser's way past the triggers
TRUNCATE data_engine.event_log, data_engine.event_log_head; COMMIT
"""


@pytest.fixture(scope="session")
async def own_servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedConfig]:
    home = tmp_path_factory.mktemp("projections")
    folder = embedded.DataFolder(home)
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "run" / "state.json", lambda _name, _what: None)
    await supervisor.start(embedded.nats_spec(home, config))
    await supervisor.start(embedded.postgres_spec(home, config))
    await migrate(config.database_url)
    yield config
    await supervisor.stop(abruptly=True)
    folder.close()


@pytest.fixture(scope="session")
async def own_connection(own_servers: EmbeddedConfig) -> AsyncIterator[Client]:
    connection = await connect([own_servers.nats_url], "tests")
    await migrate_streams(connection, replicas=1)
    yield connection
    await connection.close()


@pytest.fixture(scope="session", params=["session", "transaction"])
async def own_pool(own_servers: EmbeddedConfig, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Pool]:
    """With prepared statements and without."""
    settings = Settings(
        _env_file=None,
        nats_url=own_servers.nats_url,
        database_url=own_servers.database_url,
        database_pooling=request.param,
    )
    async with await create_pool(settings) as pool:
        yield pool


@pytest.fixture
async def world(own_servers: EmbeddedConfig, own_connection: Client, own_pool: asyncpg.Pool) -> World:
    """An empty log and empty read models."""
    await make_log_anew(own_connection)
    await own_pool.execute(f"DROP SCHEMA IF EXISTS data_engine_rebuild CASCADE; TRUNCATE {TRUNCATE}")
    await own_pool.execute(EMPTY_ARCHIVE)
    settings = Settings(_env_file=None, nats_url=own_servers.nats_url, database_url=own_servers.database_url)
    return World(settings, own_connection, own_pool, EventLog(own_connection))
