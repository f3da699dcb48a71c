"""A Postgres of these tests' own: they alter what nobody may alter."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from cli import embedded
from cli.database_roles import ensure_logins
from cli.embedded import EmbeddedConfig
from cli.supervisor import Supervisor
from events.settings import Settings
from migrations.database import migrate
from projections.database import create_pool
from tests.audit.archive import EMPTY
from tests.audit.typescript import SOURCE, said


@pytest.fixture(scope="session")
async def audit_postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedConfig]:
    home = tmp_path_factory.mktemp("audit")
    folder = embedded.DataFolder(home)
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "run" / "state.json", lambda _name, _what: None)
    await supervisor.start(embedded.postgres_spec(home, config))
    await migrate(config.database_url)
    await ensure_logins(config.database_url, config.logins)
    yield config
    await supervisor.stop(abruptly=True)
    folder.close()


def _settings(url: str) -> Settings:
    return Settings(_env_file=None, database_url=SecretStr(url))


@pytest.fixture(scope="session")
async def owner(audit_postgres: EmbeddedConfig) -> AsyncIterator[asyncpg.Pool]:
    """Connections of the superuser, who can do anything: the one that an auditor does not trust."""
    async with await create_pool(_settings(audit_postgres.database_url)) as pool:
        yield pool


@pytest.fixture(scope="session")
async def archiver_login(audit_postgres: EmbeddedConfig) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(_settings(audit_postgres.database_urls["archiver"])) as pool:
        yield pool


@pytest.fixture(scope="session")
async def gateway_login(audit_postgres: EmbeddedConfig) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(_settings(audit_postgres.database_urls["gateway"])) as pool:
        yield pool


@pytest.fixture
async def empty(owner: asyncpg.Pool) -> asyncpg.Pool:
    """The owner's connections to an empty archive."""
    await owner.execute(EMPTY)
    return owner


@pytest.fixture(scope="session")
async def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    folder = tmp_path_factory.mktemp("verifier") / "sdk"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "*.tsbuildinfo"))
    for command in (("npm", "ci", "--no-audit", "--no-fund"), ("npm", "run", "build")):
        code, out, err = await said(*command, cwd=folder)
        assert code == 0, out + err
    return folder / "dist" / "verify.js"
