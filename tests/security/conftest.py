"""A system of these tests' own: they attack its log."""

from collections.abc import AsyncIterator

import pytest

from cli.system import System, running_endpoints
from events.settings import Settings


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
    await running.stop()
