"""Every process is killed with SIGKILL while 200 runs are under way; nothing that was accepted is lost or doubled."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import pytest

from cli.system import System
from events.connection import connect
from events.keyring import use_keys
from events.keys import MasterKeys
from events.log import EventLog
from events.settings import Settings
from projections.database import create_pool
from projections.rebuild import rebuild
from services.domain import run as runs
from tests.domain.test_run_machine import check_history
from tests.system.client import Org, new_org

RUNS = 200
INFLIGHT = 16
VICTIMS = ("gateway", "command-service", "worker", "projector", "archiver", "nats", "postgres")
PATIENCE_S = 150


@pytest.fixture
async def own_system(home) -> AsyncIterator[System]:
    """A system of the test's own, embedded servers included, so that they can be killed."""
    settings = Settings(
        _env_file=None,
        home=home,
        port=0,
        step_modules=("tests.system.faulty_steps", "services.steps.catalogue"),
        task_ack_wait_s=2.0,
        log_level="warning",
    )
    running = System(settings, lambda _name, _what: None)
    await running.start()
    yield running
    await running.stop(abruptly=True)


async def insist(org: Org, endpoint: str, body: dict, key: str | None = None) -> dict:
    """Call until it is answered, as a client would: the same key again after a lost or a deferred answer."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                response = await org.post(endpoint, body, key)
            except httpx.TransportError:
                await asyncio.sleep(0.1)  # a client's pause between two tries
                continue
            if response.status_code in (200, 201):
                return response.json()
            assert response.status_code in (202, 503), (response.status_code, response.text)
            await asyncio.sleep(0.1)


async def one_run(org: Org, blueprint_id: str, number: int) -> str:
    body = {"company_id": org.company_id, "blueprint_id": blueprint_id, "records": [{"n": number}]}
    made = await insist(org, "submissions/create", body, str(uuid.uuid4()))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            run = await insist(
                org, "runs/get", {"run_id": made["run_id"], "wait_s": 5, "min_position": made["position"]}
            )
            if run["status"] != "running":
                assert run["status"] == "succeeded", run
                return made["run_id"]


async def test_every_process_is_killed_while_runs_are_under_way(own_system):
    endpoints = own_system.endpoints
    org = await new_org(endpoints.gateway_url, endpoints.nats_url, endpoints.database_url)
    blueprint_id = await org.blueprint("test_count", "test_count", "test_count", "test_count", "test_count")
    done: list[str] = []
    victims = iter(VICTIMS)
    numbers = iter(range(RUNS))

    async def client() -> None:
        for number in numbers:
            done.append(await one_run(org, blueprint_id, number))
            if len(done) % (RUNS // (len(VICTIMS) + 1)) == 0 and (victim := next(victims, None)) is not None:
                own_system.supervisor.kill(victim, signal.SIGKILL)

    async with aclosing(org.http):
        await asyncio.gather(*(client() for _ in range(INFLIGHT)))
    assert next(victims, None) is None, "every process was killed"
    assert {name: own_system.supervisor.processes[name].restarts for name in VICTIMS} == dict.fromkeys(VICTIMS, 1)
    await check_log_and_read_models(own_system, org, done)


async def check_log_and_read_models(system: System, org: Org, run_ids: list[str]) -> None:
    """Exactly one result a step in the log, and read models that are what the log gives."""
    settings = system.endpoints.applied_to(Settings(_env_file=None))
    connection = await connect([system.endpoints.nats_url], "check")
    assert system.endpoints.master_keys is not None
    use_keys(connection, MasterKeys(system.endpoints.master_keys))
    log = EventLog(connection)
    assert len(set(run_ids)) == RUNS
    for run_id in run_ids:
        events = [
            event for recorded in await log.history(org.org_id, "run", run_id) for event in recorded.decision.events
        ]
        check_history(run_id, events)
        assert len(runs.fold(run_id, events).results) == 5
    async with await create_pool(settings) as pool:
        results = await rebuild(pool, connection)
    assert [(r.name, r.only_live, r.only_rebuilt, r.dead_letters) for r in results if not r.identical] == []
    assert next(r.rows for r in results if r.name == "runs_v2") == RUNS
    assert next(r.rows for r in results if r.name == "step_results_v1") == RUNS * 5
    await connection.close()
