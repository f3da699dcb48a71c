"""A whole system with everything that can be observed turned on, and a collector that takes its traces."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cli.system import System, read_state
from events.settings import Settings
from tests.observability.collector import Collector
from tests.system.client import Org, new_org

T = TypeVar("T")
JWT_SECRET = "a-shared-secret-of-these-tests-0123456789"
STEP_MODULES = ("services.steps.catalogue", "tests.system.faulty_steps")


LOOK_EVERY_S, LOOK_FOR_S = 0.02, 20.0


async def eventually(look: Callable[[], Awaitable[T]], found: Callable[[T], object] = bool) -> T:
    """What `look` gives once it is `found`, or at last: a process logs and counts a moment after it has answered."""
    end_s = time.monotonic() + LOOK_FOR_S
    while True:
        seen = await look()
        if found(seen) or time.monotonic() > end_s:
            return seen
        await asyncio.sleep(LOOK_EVERY_S)  # the interval between two looks


@dataclass
class Observed:
    """A running system, and where its traces and logs are."""

    system: System
    collector: Collector
    home: Path

    @property
    def base_url(self) -> str:
        assert self.system.endpoints is not None
        return self.system.endpoints.gateway_url

    @property
    def nats_url(self) -> str:
        assert self.system.endpoints is not None
        return self.system.endpoints.nats_url

    @property
    def database_url(self) -> str:
        assert self.system.endpoints is not None
        return self.system.endpoints.database_url

    @property
    def metrics_urls(self) -> dict[str, str]:
        return read_state(self.home)["metrics"]

    async def entries(self, process: str, **fields: object) -> list[dict[str, Any]]:
        """The entries of a process's log that have these fields, once there is one."""

        async def look() -> list[dict[str, Any]]:
            lines = (json.loads(line) for line in self.log(process).splitlines() if line.startswith("{"))
            return [line for line in lines if fields.items() <= line.items()]

        return await eventually(look)

    def log(self, process: str) -> str:
        return (self.home / "logs" / f"{process}.log").read_text()


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="package")
async def observed(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Observed]:
    """Servers and processes of their own, because their logs are searched too."""
    home = tmp_path_factory.mktemp("observed")
    settings = Settings(
        _env_file=None,
        home=home,
        port=0,
        step_modules=STEP_MODULES,
        command_timeout_s=1.0,
        jwt_secret=JWT_SECRET,
        log_level="debug",
        log_format="json",
        otlp_endpoint=collector.url,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")  # what must make no difference
        system = System(settings, lambda _name, _what: None)
        await system.start()
        yield Observed(system, collector, home)
        await system.stop(abruptly=True)


@pytest.fixture
async def org(observed: Observed) -> AsyncIterator[Org]:
    """A fresh org with a company and an admin's token."""
    fresh = await new_org(observed.base_url, observed.nats_url, observed.database_url)
    yield fresh
    await fresh.http.aclose()
