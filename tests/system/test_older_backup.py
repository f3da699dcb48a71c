"""NATS is restored from an older backup: every follower refuses it and says so; one command brings back the rest."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cli import embedded
from cli.supervisor import ProcessFailedError
from cli.system import Endpoints, System
from events.connection import connect
from events.settings import Settings
from projections.archive.check import check
from projections.database import create_pool
from tests.system.client import Org, new_org

PATIENCE_S = 60


@pytest.fixture
def own_settings(home: Path) -> Settings:
    """A system of the test's own, whose API is at one port all the time."""
    return Settings(
        _env_file=None, home=home, port=embedded.free_port(), log_level="warning",
        step_modules=("tests.system.faulty_steps",),
    )  # fmt: skip


@asynccontextmanager
async def running(settings: Settings, **what: tuple[str, ...]) -> AsyncIterator[Endpoints]:
    """The whole system, or its servers only."""
    system = System(settings, lambda _name, _what: None)
    endpoints = await system.start(**what)
    try:
        yield endpoints
    finally:
        await system.stop()


@asynccontextmanager
async def calling(made: Org) -> AsyncIterator[Org]:
    """The org with connections of its own: those to a gateway that was stopped are gone."""
    await made.http.aclose()
    org = Org(made.base_url, made.org_id, made.token, made.company_id, made.position)
    try:
        yield org
    finally:
        await org.http.aclose()


async def archived(endpoints: Endpoints, position: int) -> None:
    """Wait until the archive has a position."""
    settings = Settings(_env_file=None, nats_url=endpoints.nats_url, database_url=endpoints.database_url)
    connection = await connect([endpoints.nats_url], "test")
    try:
        async with asyncio.timeout(PATIENCE_S), await create_pool(settings) as pool:
            while (await check(pool, connection)).archive.position < position:
                await asyncio.sleep(0.1)  # the interval between two questions
    finally:
        await connection.close()


def dex(home: Path, *command: str) -> tuple[int, str]:
    """What a command of the operator's prints, in a process of its own."""
    environment = {**os.environ, "DATA_ENGINE_HOME": str(home), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *command], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


async def test_what_an_older_backup_of_nats_lacks_comes_back_from_the_archive(own_settings: Settings) -> None:
    home, saved = own_settings.home, own_settings.home.parent / "backup"
    async with running(own_settings) as endpoints:
        made = await new_org(endpoints.gateway_url, endpoints.nats_url, endpoints.database_url)
        async with calling(made) as org:
            blueprint_id = await org.blueprint("test_count")
            await org.ended(first := await org.submit(blueprint_id, [{"n": 1}]))
    shutil.copytree(home / "nats", saved)
    async with running(own_settings) as endpoints, calling(made) as org:
        ended = await org.ended(second := await org.submit(blueprint_id, [{"n": 2}], "second"))
        steps = await org.steps(second)
        await archived(endpoints, (await org.call("runs/get", {"run_id": second["run_id"]}))["position"])
    assert ended["status"] == "succeeded"
    shutil.rmtree(home / "nats")
    shutil.copytree(saved, home / "nats")

    with pytest.raises(ProcessFailedError, match=r"(?s)The log was cut: .* dex up --servers"):
        await System(own_settings, lambda _name, _what: None).start()
    async with running(own_settings, processes=()):
        code, told = await asyncio.to_thread(dex, home, "log", "check")
        assert (code, "log_cut" in told, "dex log restore log" in told) == (1, True, True), told
        code, told = await asyncio.to_thread(dex, home, "log", "restore", "log")
        assert (code, "was made anew" in told) == (0, True), told

    async with running(own_settings), calling(made) as org:
        await goes_on(org, blueprint_id, first, second, steps)


async def goes_on(org: Org, blueprint_id: str, first: dict, second: dict, steps: list[dict]) -> None:
    """Nothing is lost, nothing is done twice, and what is new is done."""
    assert (await org.ended(first))["status"] == "succeeded"
    assert await org.steps(second) == steps
    again = await org.submit(blueprint_id, [{"n": 2}], "second")
    assert (again["run_id"], again["position"]) == (second["run_id"], second["position"])
    third = await org.submit(blueprint_id, [{"n": 3}])
    assert (await org.ended(third))["status"] == "succeeded"
    assert third["position"] > second["position"]
    events = await org.call("events/list", {"run_id": second["run_id"], "min_position": third["position"]})
    assert len({item["position"] for item in events["items"]}) == len(events["items"])
    finished = [item for item in events["items"] if item["position"] > second["position"]]
    assert len(finished) == 1  # its one step, recorded once
