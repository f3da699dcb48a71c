"""A whole system on servers that a test stops, whose files it exchanges, and that it starts again, under the system."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import asyncpg
from nats.aio.client import Client
from pydantic import SecretStr

from cli import embedded
from cli.database_roles import ensure_logins
from cli.embedded import EmbeddedConfig
from cli.supervisor import ProcessSpec, Supervisor
from cli.system import System
from events.connection import connect
from events.errors import DataEngineError
from events.keyring import use_keys
from events.keys import MasterKeys
from events.settings import Settings
from migrations.database import migrate
from projections.archive.check import CheckResult, check
from projections.database import create_pool
from tests.conftest import process_settings
from tests.system.client import SYSTEM_JWT_SECRET, SYSTEM_MASTER_KEYS, Org, new_org

PATIENCE_S = 90
ASKED_EVERY_S = 0.1
"""The interval between two questions."""

T = TypeVar("T")


class Servers:
    """NATS and Postgres, each under a supervisor of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._folder = embedded.DataFolder(home)
        self.config: EmbeddedConfig = embedded.prepare(home)
        self._specs: dict[str, ProcessSpec] = {
            "nats": embedded.nats_spec(home, self.config),
            "postgres": embedded.postgres_spec(home, self.config),
        }
        self._running: dict[str, Supervisor] = {}

    async def start(self, name: str) -> None:
        """Start one of the two, and wait until it serves."""
        supervisor = Supervisor(self.home / "run" / f"{name}.json", lambda _name, _what: None)
        await supervisor.start(self._specs[name])
        self._running[name] = supervisor

    async def stop(self, name: str, *, abruptly: bool = False) -> None:
        """Stop one of the two; abruptly when its files are not needed."""
        await self._running.pop(name).stop(abruptly=abruptly)

    async def save(self, name: str) -> None:
        """Stop, copy its files, start again."""
        assert not self._saved(name).exists(), "an older copy would be mixed with this one"
        await self.stop(name)
        await asyncio.to_thread(shutil.copytree, self._files(name), self._saved(name))
        await self.start(name)

    async def put_back(self, name: str) -> None:
        """Stop, put the older copy in the place of its files, start again."""
        await self.stop(name, abruptly=True)
        await asyncio.to_thread(shutil.rmtree, self._files(name))
        await asyncio.to_thread(shutil.move, self._saved(name), self._files(name))
        await self.start(name)

    async def close(self) -> None:
        """Stop both."""
        for name in list(self._running):
            await self.stop(name, abruptly=True)
        self._folder.close()

    def _files(self, name: str) -> Path:
        return self.home / "nats" / "jetstream" if name == "nats" else self.home / "postgres" / "data"

    def _saved(self, name: str) -> Path:
        return self.home / "backup" / name


class Rewindable:
    """A running system, a connection and a pool of its operator's, and an org."""

    def __init__(self, servers: Servers, system: System, connection: Client, pool: asyncpg.Pool, org: Org) -> None:
        self.servers = servers
        self.system = system
        self.connection = connection
        self.pool = pool
        self.org = org
        self._logs_began_at = {path: path.stat().st_size for path in self._logs().glob("*.log")}

    def _logs(self) -> Path:
        return self.system._settings.home / "logs"

    async def checked(self) -> CheckResult:
        """What `dex log check` finds."""
        return await check(self.pool, self.connection)

    async def quiet(self) -> CheckResult:
        """Wait until all is archived, and nothing comes any more."""
        last = 0

        async def is_quiet() -> CheckResult | None:
            nonlocal last
            found = await self.checked()
            before, last = last, found.log.last_position
            return found if before == last and not found.not_archived else None

        return await until(is_quiet)

    def says(self, process: str) -> str:
        """What a process wrote into its log since this began."""
        path = self._logs() / f"{process}.log"
        return path.read_bytes()[self._logs_began_at[path] :].decode()

    async def told(self, process: str, what: str) -> None:
        """Wait until a process has written this into its log."""

        async def is_told() -> bool:
            return what in self.says(process)

        await until(is_told)

    async def dex(self, *command: str) -> tuple[int, str]:
        """A command of the operator's, in a process of its own: its exit code, and what it printed."""
        home = self.system._settings.home
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli.main", *command,
            env={**os.environ, "DATA_ENGINE_HOME": str(home), "COLUMNS": "300"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        printed, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode is not None
        return process.returncode, printed.decode()


async def until(asked: Callable[[], Awaitable[T | None]]) -> T:
    """Ask until the answer is one; a server that is on its way up is asked again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if answer := await asked():
                    return answer
            except (DataEngineError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(ASKED_EVERY_S)
            await asyncio.sleep(ASKED_EVERY_S)


@asynccontextmanager
async def rewindable_servers(folder: Path) -> AsyncIterator[Servers]:
    """Servers in a folder, migrated."""
    servers = Servers(folder)
    try:
        await servers.start("nats")
        await servers.start("postgres")
        await migrate(servers.config.database_url)
        await ensure_logins(servers.config.database_url, servers.config.logins)
        yield servers
    finally:
        await servers.close()


@asynccontextmanager
async def rewindable_system(home: Path, servers: Servers) -> AsyncIterator[System]:
    """A system on them."""
    config = servers.config
    settings = Settings(
        _env_file=None, home=home, port=0, nats_url=config.nats_url, database_url=config.database_url,
        **process_settings(config), log_level="info", log_format="text", command_timeout_s=2.0, task_ack_wait_s=2.0,
        step_modules=("tests.system.faulty_steps",), jwt_secret=SecretStr(SYSTEM_JWT_SECRET),
        tenant_key=SecretStr("the-key-of-the-system-under-test-x"), master_keys=SecretStr(SYSTEM_MASTER_KEYS),
        audit_key=SecretStr(config.audit_key),
    )  # fmt: skip
    system = System(settings, lambda _name, _what: None)
    await system.start()
    yield system
    await system.stop(abruptly=True)


@asynccontextmanager
async def rewindable(servers: Servers, system: System) -> AsyncIterator[Rewindable]:
    """An operator's connections to the system, and an org of its own."""
    endpoints = system.endpoints
    assert endpoints is not None
    connection = await connect([endpoints.nats_url], "test")
    use_keys(connection, MasterKeys(SYSTEM_MASTER_KEYS))
    settings = Settings(_env_file=None, nats_url=endpoints.nats_url, database_url=endpoints.database_url)
    async with await create_pool(settings) as pool:
        org = await new_org(endpoints.gateway_url, endpoints.nats_url, endpoints.database_url)
        yield Rewindable(servers, system, connection, pool, org)
        await org.http.aclose()
    await connection.close()
