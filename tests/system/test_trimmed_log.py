"""A whole system whose hot log was trimmed: everybody answers as before, from the archive."""

import asyncio
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator

import pytest

from cli.system import System
from events.connection import connect
from events.history import LEASE_S
from events.keyring import use_keys
from events.keys import MasterKeys
from events.log import EventLog
from events.settings import Settings
from projections.archive.check import check
from projections.archive.trim import trim
from projections.database import create_pool
from projections.rebuild import rebuild
from tests.system.client import Org, new_org
from tests.system.test_faults import insist

KEEP_S = 2.0
PATIENCE_S = 90


@pytest.fixture(scope="module")
async def own_system(tmp_path_factory) -> AsyncIterator[System]:
    """One for all: what is trimmed last was written while its processes were killed."""
    settings = Settings(
        _env_file=None,
        home=tmp_path_factory.mktemp("trimmed"),
        port=0,
        step_modules=("tests.system.faulty_steps",),
        log_level="warning",
    )
    running = System(settings, lambda _name, _what: None)
    await running.start()
    yield running
    await running.stop(abruptly=True)


@pytest.mark.parametrize("victim", ["archiver", "postgres", "nats"])
async def test_killed_while_it_archives_there_is_no_gap_and_no_double(own_system, victim):
    endpoints = own_system.endpoints
    org: Org = await new_org(endpoints.gateway_url, endpoints.nats_url, endpoints.database_url)
    blueprint_id = await org.blueprint("test_count")
    connection = await connect([endpoints.nats_url], "test")
    settings = Settings(_env_file=None, nats_url=endpoints.nats_url, database_url=endpoints.database_url)
    made: list[dict] = []
    for number in range(5):
        writing = asyncio.gather(*(accepted(org, blueprint_id, number) for number in range(20)))
        with contextlib.suppress(ProcessLookupError):  # it was killed a moment ago, and is not back yet
            own_system.supervisor.kill(victim, signal.SIGKILL)
        made += await asyncio.wait_for(writing, PATIENCE_S)
    for submission in made:  # what is checked, and trimmed later, has come to its end
        body = {"run_id": submission["run_id"], "min_position": submission["position"], "wait_s": 20}
        while (await insist(org, "runs/get", body))["status"] == "running":
            continue
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with await create_pool(settings) as pool:
                    found = await check(pool, connection)
            except Exception:  # noqa: BLE001 - the servers may be on their way up
                await asyncio.sleep(0.2)
                continue
            assert found.ok, found.faults
            if not found.not_archived:
                break
            await asyncio.sleep(0.1)  # the interval between two questions
    assert found.archived == found.compared == found.log.last_position
    await connection.close()
    await org.http.aclose()


async def accepted(org: Org, blueprint_id: str, number: int) -> dict:
    """Submit until it is accepted, as a client would."""
    body = {"company_id": org.company_id, "blueprint_id": blueprint_id, "records": [{"n": number}]}
    return await insist(org, "submissions/create", body, str(uuid.uuid4()))


async def everything_trimmed(pool, connection) -> int:
    """Trim all that there is; the position that the log begins at."""
    last = (await EventLog(connection).state()).last_position
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await check(pool, connection)
            if found.ok and not found.not_archived:
                break
            await asyncio.sleep(0.1)  # the interval between two questions
    await asyncio.sleep(KEEP_S)  # they must be of an age
    done = await trim(pool, connection, KEEP_S, lease_s=2 * LEASE_S)
    assert done.first_position == last + 1
    return done.first_position


async def test_a_trimmed_log_answers_as_before(own_system):
    endpoints = own_system.endpoints
    org: Org = await new_org(endpoints.gateway_url, endpoints.nats_url, endpoints.database_url)
    blueprint_id = await org.blueprint("test_count", "test_count")
    key, other = str(uuid.uuid4()), str(uuid.uuid4())
    made = await org.submit(blueprint_id, [{"n": 1}], key)
    await org.ended(made)
    failing = await org.submit(await org.blueprint("test_reject_all"), [{"n": 1}], other)
    await org.ended(failing)
    before = await org.call("events/list", {"run_id": made["run_id"], "min_position": failing["position"]})
    whole = await org.call("events/list", {"limit": 500})
    connection = await connect([endpoints.nats_url], "test")
    use_keys(connection, MasterKeys(endpoints.master_keys))
    settings = Settings(_env_file=None, nats_url=endpoints.nats_url, database_url=endpoints.database_url)
    async with await create_pool(settings) as pool:
        first = await everything_trimmed(pool, connection)

        again = await org.submit(blueprint_id, [{"n": 1}], key)
        assert {name: again[name] for name in ("submission_id", "run_id", "position")} == {
            name: made[name] for name in ("submission_id", "run_id", "position")
        }
        body = {"company_id": org.company_id, "blueprint_id": blueprint_id, "records": [{"n": 2}]}
        refused = await org.post("submissions/create", body, key)
        assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused")
        assert (await EventLog(connection).state()).last_position == first - 1  # nothing was written

        assert await org.call("events/list", {"run_id": made["run_id"]}) == before
        assert (await org.call("events/list", {"limit": 500}))["items"] == whole["items"]
        retried = await org.call("runs/retry", {"run_id": failing["run_id"]})
        assert (await org.ended(retried))["status"] == "failed"
        fresh = await org.submit(blueprint_id, [{"n": 5}])
        assert (await org.ended(fresh))["status"] == "succeeded"
        assert fresh["position"] >= first

        results = await rebuild(pool, connection)
        assert all(result.identical and result.compared for result in results)
    await connection.close()
    await org.http.aclose()
