"""A world of tenants in the running system; and a system of these tests' own, for those that attack its log."""

from collections.abc import AsyncIterator

import httpx
import pytest

from cli.system import Endpoints, System, running_endpoints
from events.settings import Settings
from tests.security.support import World, build_world, http


@pytest.fixture(scope="session")
def endpoints(system: System) -> Endpoints:
    """Where the system under test is."""
    assert system.endpoints is not None
    return system.endpoints


@pytest.fixture(scope="session")
async def client(endpoints: Endpoints) -> AsyncIterator[httpx.AsyncClient]:
    """One HTTP client for all callers; what it sends and gets goes into the ledger."""
    async with http(endpoints.gateway_url) as opened:
        yield opened


@pytest.fixture(scope="session")
async def world(client: httpx.AsyncClient, endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Tenants that tests read, and make things in, but do not change: a test that does takes `build_world`'s parts."""
    return await build_world(client, endpoints, str(tmp_path_factory.mktemp("world") / "attempts"))


@pytest.fixture(scope="module")
async def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(_env_file=None, home=tmp_path_factory.mktemp("secured"), port=0, log_level="warning")


@pytest.fixture(scope="module")
async def own_system(own_settings: Settings) -> AsyncIterator[System]:
    """Embedded servers and the four processes, each with its own user."""
    running = System(own_settings, lambda _name, _what: None)
    await running.start()
    assert running_endpoints(own_settings) == running.endpoints
    yield running
    await running.stop(abruptly=True)
