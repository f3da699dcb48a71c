"""Attacks on the endpoints of the history by numbers, times and waiting: never a server error, never a wrong answer."""

import asyncio
from typing import Any

import asyncpg
import httpx
import pytest
from nats.aio.client import Client

from events.audit.checkpoint import AuditKey
from events.log import EventLog
from events.settings import Settings
from gateway.proved import NotProvedYetError, Proved
from gateway.state import Gateway
from projections.queries.reader import Reader, Scope
from tests.audit.support import company_decision
from tests.gateway.support import Person, Service, World
from tests.gateway.test_limits import Clock, check_refused, open_door
from tests.gateway.test_submissions import submit

RUN_ID = "0b9f2a4e-5a0f-5c3e-9d53-0d3e6f6c7a11"
LONG_AGO = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "1600-01-01T00:00:00+00:00:00.000001",
    "1677-09-21T00:00:00Z",
    "1969-12-31T23:59:59.999999Z",
]
"""Of some the nanoseconds since 1970 are no 64-bit number, and one is in the year 0 by UTC."""
TO_COME = ["2263-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00"]
ODD_ZONES = ["2026-01-01T00:00:00+14:00", "2026-01-01T00:00:00+00:00:30", "2026-01-01T00:00:00+23:59:59.999999"]
NO_TIMES = [
    "2016-12-31T23:59:60Z", "2026-01-01T00:00:00", "2026-01-01T24:00:00Z", "-0001-01-01T00:00:00Z", "", "\0", "x" * 40,
    "10000-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "NaN", "0",
]  # fmt: skip


async def ask(client: httpx.AsyncClient, person: Person, endpoint: str, **body: Any) -> httpx.Response:
    return await client.post(f"/v1/{endpoint}", json=body, headers=person.headers)


async def decided(client: httpx.AsyncClient, world: World, service: Service) -> int:
    """A submission is there, and the read models are where the log is."""
    await submit(client, world)
    end = (await service.log.state()).last_position
    await service.signal(end)
    return end


@pytest.mark.parametrize("time", [*LONG_AGO, *TO_COME, *ODD_ZONES])
async def test_times_at_the_edges_filter_events(
    time: str, client: httpx.AsyncClient, world: World, service: Service, proving: AuditKey
) -> None:
    """In the archive, where the filter is SQL."""
    position = await decided(client, world, service)
    assert (await ask(client, world.admin, "audit/checkpoint", min_position=position)).status_code == 200
    whole = (await ask(client, world.admin, "events/list")).json()["items"]
    from_then = {"recorded_from": True, "recorded_until": False}
    assert whole
    for name, is_lower_bound in from_then.items():
        for order in ("asc", "desc"):
            answer = await ask(client, world.admin, "events/list", order=order, **{name: time})
            assert answer.status_code == 200, answer.text
            expected = whole if is_lower_bound == (time not in TO_COME) else []
            assert sorted(one["position"] for one in answer.json()["items"]) == [one["position"] for one in expected]
        lines = (await ask(client, world.admin, "events/stream", **{name: time})).text.splitlines()
        assert '"end":true' in lines[-1]


@pytest.mark.parametrize("time", [*LONG_AGO, *ODD_ZONES])
async def test_what_was_known_long_ago_is_nothing(
    time: str, client: httpx.AsyncClient, world: World, service: Service
) -> None:
    await decided(client, world, service)
    for endpoint in ("submissions/list", "runs/list"):
        assert (await ask(client, world.admin, endpoint)).json()["items"]
        then = await ask(client, world.admin, endpoint, as_of=time)
        assert (then.status_code, then.json()) == (200, {"items": [], "next_cursor": None})
    assert (await ask(client, world.admin, "step_results/list", run_id=RUN_ID, as_of=time)).status_code == 404


@pytest.mark.parametrize("time", [*NO_TIMES, *TO_COME])
async def test_what_is_no_time_is_said_to_be_none(time: str, client: httpx.AsyncClient, world: World) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("runs/list", {"as_of": time}), ("submissions/list", {"as_of": time}),
        ("runs/get", {"run_id": RUN_ID, "as_of": time}), ("step_results/list", {"run_id": RUN_ID, "as_of": time}),
    ]  # fmt: skip
    if time not in TO_COME:
        asked += [("events/list", {"recorded_from": time}), ("events/stream", {"recorded_until": time})]
    for endpoint, body in asked:
        answer = await ask(client, world.admin, endpoint, **body)
        assert answer.status_code == 422, (endpoint, answer.text)


@pytest.mark.parametrize("number", [2**31, 2**53 + 1, 2**63 - 1])
async def test_a_checkpoint_of_a_position_that_is_not_yet_is_not_waited_for(
    number: int, client: httpx.AsyncClient, world: World, nats: Client, proving: AuditKey
) -> None:
    position = (await EventLog(nats).append(company_decision(world.org_id, None))).position
    assert (await ask(client, world.admin, "audit/checkpoint", position=position)).status_code == 200
    async with asyncio.timeout(5):
        answer = await ask(client, world.admin, "audit/checkpoint", position=number)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "/position")


async def test_many_who_wait_for_a_proof_look_as_one(nats: Client) -> None:
    """Each of thousands that looks for itself every second would hold all connections to the database."""
    looks, at_once, most = 0, 0, 0
    let_go = asyncio.Event()

    async def read() -> int:
        nonlocal looks, at_once, most
        looks, at_once = looks + 1, at_once + 1
        most = max(most, at_once)
        await let_go.wait()
        at_once -= 1
        return 7

    proved = Proved(nats, read)
    waiting = [asyncio.create_task(proved.wait(8, timeout_s=0)) for _ in range(500)]
    waiting += [asyncio.create_task(proved.wait(7)) for _ in range(500)]
    while not looks:
        await asyncio.sleep(0)
    let_go.set()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [NotProvedYetError] * 500 + [type(None)] * 500
    assert (looks, most) == (1, 1)


async def test_to_verify_a_run_counts_the_rows_that_are_executed_again(
    settings: Settings, world: World, service: Service, database: asyncpg.Pool
) -> None:
    """Otherwise a request of a hundred bytes, said again and again, is as many rows as the largest run has."""
    clock = Clock()
    async with open_door(settings, clock, org_rows_per_s=100, token_rows_per_s=70) as door:
        run_id = (await door.submit(world.admin, world.company_id)).json()["run_id"]
        await database.execute("UPDATE data_engine.runs_v2 SET input_rows = 60 WHERE run_id = $1::uuid", run_id)
        commands = len(service.commands)
        assert (await door.ask(world.admin, "audit/verify_run", run_id=run_id)).status_code == 201
        refused = await door.ask(world.admin, "audit/verify_run", run_id=run_id)
        check_refused(refused, "limit_token_rows_per_s", 70, 1)
        check_refused(
            await door.ask(world.company_admin, "audit/verify_run", run_id=run_id), "limit_org_rows_per_s", 100, 1
        )
        assert len(service.commands) == commands + 1, "a refusal does nothing"
        clock.pass_s(1)
        assert (await door.ask(world.admin, "audit/verify_run", run_id=run_id)).status_code == 201


async def test_one_orgs_slow_queries_leave_connections_to_the_others(
    settings: Settings, world: World, database: asyncpg.Pool
) -> None:
    """Twenty that do not end at once hold half of the pool, and the other org is answered."""
    lock = 5_000_006
    pool = await asyncpg.create_pool(settings.database_dsn, min_size=1, max_size=4)
    reader = Reader(pool, per_org_max=2)
    own, stranger = Scope(world.org_id), Scope(world.stranger.org_id)
    async with pool, database.acquire() as held:
        await held.execute("SELECT pg_advisory_lock($1)", lock)
        sql = f"SELECT 1 AS done, pg_advisory_xact_lock_shared({lock})"
        slow = [asyncio.create_task(reader.rows(own, sql)) for _ in range(20)]
        try:
            while pool.get_size() - pool.get_idle_size() < 2:
                await asyncio.sleep(0)
            async with asyncio.timeout(3):
                answers = await asyncio.gather(*(reader.rows(stranger, "SELECT 1 AS done") for _ in range(20)))
        finally:
            await held.execute("SELECT pg_advisory_unlock($1)", lock)
        answers += await asyncio.gather(*slow)
    assert [[row["done"] for row in answer] for answer in answers] == [[1]] * 40
    assert not reader.under_way


async def test_an_org_reads_so_much_of_its_history_at_once_and_no_more(
    client: httpx.AsyncClient, gateway: Gateway, settings: Settings, world: World, service: Service
) -> None:
    """Each may be a thousand histories to fold, or thousands of decisions to decode, for a request of some bytes."""
    position = await decided(client, world, service)
    asked: dict[str, dict[str, Any]] = {
        "events/list": {}, "events/trace": {"position": position}, "runs/list": {"as_of": position, "status": "failed"},
    }  # fmt: skip
    places = [gateway.history_reads.enter(world.org_id) for _ in range(settings.history_reads_per_org_max)]
    report = {"verification_run_id": (await ask(client, world.admin, "runs/list")).json()["items"][0]["run_id"]}
    refused = await ask(client, world.admin, "audit/verification", **report)
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_history_reads")
    for endpoint, body in asked.items():
        refused = await ask(client, world.admin, endpoint, **body)
        assert (refused.status_code, refused.json()["code"]) == (429, "limit_history_reads"), endpoint
        assert (await ask(client, world.stranger, endpoint, **body)).status_code in (200, 404), endpoint
    places.pop()()
    for endpoint, body in asked.items():
        assert (await ask(client, world.admin, endpoint, **body)).status_code == 200, endpoint
    assert (await ask(client, world.admin, "events/trace", position=10**12)).status_code == 404
    assert gateway.history_reads.under_way(world.org_id) == len(places)
    for leave in places:
        leave()
