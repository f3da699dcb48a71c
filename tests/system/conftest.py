"""The whole system as processes, beside this run's servers."""

from collections.abc import AsyncIterator

import pytest

from cli.system import System
from events.settings import Settings
from tests.system.client import Org, new_org

STEP_MODULES = ("services.steps.catalogue", "bench.steps", "tests.system.faulty_steps")


@pytest.fixture(scope="session")
async def system(settings: Settings) -> AsyncIterator[System]:
    """Gateway, command service, worker and projector, under the supervisor."""
    running = System(
        settings.model_copy(update={"port": 0, "step_modules": STEP_MODULES, "command_timeout_s": 2.0}),
        lambda _name, _what: None,
    )
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def org(system: System) -> AsyncIterator[Org]:
    """A fresh org with a company and an admin's token."""
    assert system.endpoints is not None
    fresh = await new_org(system.endpoints.gateway_url, system.endpoints.nats_url, system.endpoints.database_url)
    yield fresh
    await fresh.http.aclose()


@pytest.fixture
async def other_org(system: System) -> AsyncIterator[Org]:
    """Another tenant."""
    assert system.endpoints is not None
    fresh = await new_org(system.endpoints.gateway_url, system.endpoints.nats_url, system.endpoints.database_url)
    yield fresh
    await fresh.http.aclose()
