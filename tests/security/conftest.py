"""A world of tenants in the running system, made once."""

from collections.abc import AsyncIterator

import httpx
import pytest

from cli.system import Endpoints, System
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
