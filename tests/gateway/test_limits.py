"""Limits per org, per token and per address, over HTTP with real servers; time is a clock that the tests move."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from events.commands import CreateSubmission
from events.errors import LimitExceededError, StateConflictError
from events.ids import new_id
from events.limits import Limits
from events.settings import Settings
from gateway.app import create_app
from gateway.limits import FAILURES_BURST_S, KEYS_MAX, Buckets, Limiter, Want, network_of
from gateway.open_runs import FRESH_S, FULL_S, OpenRuns
from gateway.server import behind_proxies
from gateway.state import Gateway, open_gateway
from projections.queries.reader import Reader
from tests.gateway.support import Person, Service, World, session

JSON = {"Content-Type": "application/json"}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


class Door:
    """A gateway of its own with limits of its own, and a client of it."""

    def __init__(self, gateway: Gateway, settings: Settings, address: str = "192.0.2.1") -> None:
        self.gateway = gateway
        transport = httpx.ASGITransport(create_app(settings, gateway), raise_app_exceptions=False, client=(address, 1))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def ask(self, who: Person | dict[str, str], path: str = "orgs/get", **body: Any) -> httpx.Response:
        headers = who.headers if isinstance(who, Person) else who
        return await self.client.post(f"/v1/{path}", json=body, headers=headers)

    async def submit(self, who: Person, company_id: str, key: str | None = None, **fields: Any) -> httpx.Response:
        body = {"company_id": company_id, "blueprint_id": BLUEPRINT, "records": [{"n": 1}]} | fields
        headers = who.headers | ({"Idempotency-Key": key} if key else {})
        return await self.client.post("/v1/submissions/create", json=body, headers=headers)


BLUEPRINT = new_id()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextlib.asynccontextmanager
async def open_door(settings: Settings, clock: Clock, **limits: float) -> AsyncIterator[Door]:
    changed = settings.model_copy(update={"limit_burst_s": 1.0} | {f"limit_{k}": v for k, v in limits.items()})
    async with open_gateway(changed, clock) as gateway:
        door = Door(gateway, changed)
        async with door.client:
            yield door


def check_refused(answer: httpx.Response, code: str, limit: float, retry_after_s: int) -> None:
    assert answer.status_code == 429, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == str(retry_after_s)
    problem = answer.json()
    assert problem["type"] == "/problems/too-many-requests"
    assert (problem["code"], problem["limit"], problem["retry_after_s"]) == (code, limit, retry_after_s)


async def test_requests_of_a_token(settings: Settings, clock: Clock, world: World) -> None:
    async with open_door(settings, clock, token_requests_per_s=0.5, org_requests_per_s=100) as door:
        assert (await door.ask(world.admin)).status_code == 200  # more than the bucket holds, and it was full
        for _ in range(5):
            check_refused(await door.ask(world.admin), "limit_token_requests_per_s", 0.5, 2)
        assert (await door.ask(world.member)).status_code == 200, "another token of the org"
        clock.pass_s(1.5)
        check_refused(await door.ask(world.admin), "limit_token_requests_per_s", 0.5, 1)
        clock.pass_s(1)
        assert (await door.ask(world.admin)).status_code == 200, "what was refused took nothing"


async def test_requests_of_an_org(settings: Settings, clock: Clock, world: World) -> None:
    async with open_door(settings, clock, token_requests_per_s=5, org_requests_per_s=8) as door:
        answers = [await door.ask(world.admin) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        answers = [await door.ask(world.member) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429]
        check_refused(answers[-1], "limit_org_requests_per_s", 8, 1)
        assert (await door.ask(world.stranger)).status_code == 200, "another org"
        clock.pass_s(1)
        assert (await door.ask(world.member)).status_code == 200


async def test_a_users_sessions_are_one_token(settings: Settings, clock: Clock, world: World) -> None:
    async with open_door(settings, clock, token_requests_per_s=1) as door:
        assert (await door.ask(session(world.admin))).status_code == 200
        later = session(world.admin, extra=1)
        check_refused(await door.ask(later), "limit_token_requests_per_s", 1, 1)
        assert (await door.ask(world.admin)).status_code == 200, "its API token is another"


async def test_who_may_not_is_counted_too(settings: Settings, clock: Clock, world: World) -> None:
    async with open_door(settings, clock, token_requests_per_s=3) as door:
        answers = [await door.ask(world.member, "orgs/rename", name="x") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [403] * 3 + [429]


async def test_bytes_that_are_declared_are_refused_unread(settings: Settings, clock: Clock, world: World) -> None:
    async with open_door(settings, clock, org_bytes_per_s=10_000, token_bytes_per_s=20_000) as door:
        read = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal read
            for _ in range(6):
                read += 1000
                yield b" " * 998 + b"{}" if read == 6000 else b" " * 1000

        headers = world.admin.headers | JSON | {"Content-Length": "6000"}
        answer = await door.client.post("/v1/orgs/get", content=body(), headers=headers)
        assert (answer.status_code, read) == (200, 6000)
        read = 0
        answer = await door.client.post("/v1/orgs/get", content=body(), headers=headers)
        check_refused(answer, "limit_org_bytes_per_s", 10_000, 1)
        assert read == 0
        clock.pass_s(1)
        assert (await door.client.post("/v1/orgs/get", content=body(), headers=headers)).status_code == 200


async def test_bytes_that_stream_in_are_counted_as_they_come(settings: Settings, clock: Clock, world: World) -> None:
    async with open_door(settings, clock, org_bytes_per_s=10_000) as door:
        read = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal read
            for _ in range(100):
                read += 1000
                yield b" " * 1000

        answer = await door.client.post("/v1/orgs/get", content=body(), headers=world.admin.headers | JSON)
        check_refused(answer, "limit_org_bytes_per_s", 10_000, 1)
        assert read == 11_000


async def test_a_body_above_the_bucket_is_taken_now_and_then(settings: Settings, clock: Clock, world: World) -> None:
    """Else what `body_max_bytes` allows could never be sent to an org with a small limit."""
    async with open_door(settings, clock, token_bytes_per_s=1000) as door:
        large = b" " * 5000 + b"{}"
        headers = world.admin.headers | JSON
        assert (await door.client.post("/v1/orgs/get", content=large, headers=headers)).status_code == 200
        refused = await door.client.post("/v1/orgs/get", content=b"{}", headers=headers)
        check_refused(refused, "limit_token_bytes_per_s", 1000, 5)
        clock.pass_s(5)
        assert (await door.client.post("/v1/orgs/get", content=b"{}", headers=headers)).status_code == 200


async def test_rows(settings: Settings, clock: Clock, world: World, service: Service) -> None:
    async with open_door(settings, clock, org_rows_per_s=100, token_rows_per_s=70) as door:
        sixty = {"records": [{"n": number} for number in range(60)]}
        assert (await door.submit(world.admin, world.company_id, **sixty)).status_code == 201
        refused = await door.submit(world.admin, world.company_id, key="rows", **sixty)
        check_refused(refused, "limit_token_rows_per_s", 70, 1)
        other = await door.submit(world.member, world.company_id, **sixty)
        check_refused(other, "limit_org_rows_per_s", 100, 1)
        assert len(service.commands) == 1, "a refusal does nothing"
        clock.pass_s(1)
        again = await door.submit(world.admin, world.company_id, key="rows", **sixty)
        assert (again.status_code, again.json()["repeated"]) == (201, False)


async def test_an_orgs_own_limits(settings: Settings, clock: Clock, world: World, database: asyncpg.Pool) -> None:
    own = Limits(token_requests_per_s=2).model_dump_json(exclude_none=True)
    await database.execute("UPDATE data_engine.orgs_v2 SET limits = $2 WHERE org_id = $1::uuid", world.org_id, own)
    async with open_door(settings, clock) as door:
        answers = [await door.ask(world.admin) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert {(await door.ask(world.stranger)).status_code for _ in range(10)} == {200}


def test_limits_are_merged() -> None:
    defaults = Settings(_env_file=None).limits
    merged = Limits(org_open_runs=0).merged(defaults)
    assert merged == defaults.model_copy(update={"org_open_runs": 0})
    assert all(value is not None for value in merged.model_dump().values())


# --- Strangers ---


async def test_failed_authentications_of_an_address(
    settings: Settings, clock: Clock, world: World, database: asyncpg.Pool
) -> None:
    async with open_door(settings, clock, address_failures_per_s=0.2) as door:
        most = round(0.2 * FAILURES_BURST_S)
        assert (await door.ask(world.admin)).status_code == 200
        guesses = [await door.ask({"Authorization": f"Bearer dex_{number:040}"}) for number in range(most + 5)]
        assert [answer.status_code for answer in guesses] == [401] * most + [429] * 5
        check_refused(guesses[-1], "limit_address_failures_per_s", 0.2, 5)
        assert (await door.ask({})).status_code == 429
        assert (await door.ask(world.admin)).status_code == 200, "who is known here already"
        assert (await door.ask(world.member)).status_code == 429, "who is not must wait"
        elsewhere = Door(door.gateway, settings, "192.0.2.2")
        async with elsewhere.client:
            assert (await elsewhere.ask(world.member)).status_code == 200
            assert (await elsewhere.ask({})).status_code == 401
        clock.pass_s(5)
        assert (await door.ask(world.company_admin)).status_code == 200
        assert len(door.gateway.limiter._buckets) == 3 * 2 + 2 * 3 - 4, "no key for a guess"


async def test_trusted_proxies_say_who_the_client_is(settings: Settings, clock: Clock) -> None:
    """Behind one, clients are told apart; anybody else's X-Forwarded-For is only text."""
    async with open_door(settings, clock, address_failures_per_s=0.02) as door:
        app, proxies = behind_proxies(
            create_app(settings, door.gateway), settings.model_copy(update={"trusted_proxies": "192.0.2.0/24"})
        )
        assert "192.0.2.7" in proxies
        assert "198.51.100.1" not in proxies
        found: dict[str, list[int]] = {}
        for peer in ("192.0.2.7", "198.51.100.1"):
            transport = httpx.ASGITransport(app, client=(peer, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                for said in ("203.0.113.1", "203.0.113.2", "203.0.113.1"):
                    answer = await client.post("/v1/orgs/get", json={}, headers={"X-Forwarded-For": said})
                    found.setdefault(peer, []).append(answer.status_code)
        assert found == {"192.0.2.7": [401, 401, 429], "198.51.100.1": [401, 429, 429]}


async def test_a_limit_does_not_tell_whether_an_org_is_there(settings: Settings, clock: Clock, world: World) -> None:
    async with open_door(settings, clock, org_requests_per_s=1) as door:
        assert [(await door.ask(world.stranger)).status_code for _ in range(2)] == [200, 429]
        answers = [
            await door.ask(session(world.admin) | {"X-Data-Engine-Org": org_id})
            for org_id in (world.stranger.org_id, new_id())
        ]
        told = [answer.json() | {"request_id": None} for answer in answers]
        assert [answer.status_code for answer in answers] == [401, 401]
        assert told[0] == told[1]


def test_networks() -> None:
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
    assert network_of("") == ""


def test_memory_is_bounded_under_many_keys() -> None:
    limiter = Limiter(Settings(_env_file=None), clock := Clock())
    tracemalloc.start()
    for number in range(KEYS_MAX + 50_000):
        limiter.admit("org", str(number), None, requests=1)
        limiter.note_failure(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        clock.pass_s(1e-3)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(limiter._buckets) == KEYS_MAX
    assert len(limiter._addresses) <= KEYS_MAX
    assert size < 64 * 1024 * 1024
    assert ("org_requests_per_s", "org") in limiter._buckets._full_at, "it was in use all the time"


@given(
    rate=st.floats(0.1, 1000), burst_s=st.floats(0.1, 100),
    steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 2000)), max_size=50),
)  # fmt: skip
def test_a_bucket_gives_no_more_than_its_rate_and_keeps_its_word(
    rate: float, burst_s: float, steps: list[tuple[float, float]]
) -> None:
    buckets, taken, largest = Buckets(clock := Clock(), burst_s), 0.0, 0.0
    began_s = clock.now_s
    for pause_s, cost in steps:
        clock.pass_s(pause_s)
        want = Want(("k", ""), cost, rate)
        refused = buckets.take(want, look_only=True)
        clock.pass_s(refused[0] if refused else 0)
        assert buckets.take(want) is None
        taken, largest = taken + cost, max(largest, cost)
        assert taken <= rate * (burst_s + clock.now_s - began_s) + largest + 1e-3 * rate


# --- Open runs ---


@pytest_asyncio.fixture(loop_scope="session")
async def held(service: Service) -> AsyncIterator[Service]:
    """Runs stay open until they are released, and a command that is repeated is answered as it was before."""
    submission, finish = service.submission, service.finish
    done: dict[str, int] = {}

    async def submit_once(command: CreateSubmission) -> int:
        if command.command_id not in done:
            done[command.command_id] = await submission(command)
        return done[command.command_id]

    async def finish_once(command: CreateSubmission) -> int:
        return await finish(command) if done.pop(command.command_id, None) else 0

    service.submission, service.finish = submit_once, finish_once  # type: ignore[method-assign]
    service.hold = asyncio.Event()
    yield service
    service.hold.set()
    await asyncio.gather(*service._tasks, return_exceptions=True)


async def test_open_runs_of_an_org(settings: Settings, clock: Clock, world: World, held: Service, nats: Client) -> None:
    async with open_door(settings, clock, org_open_runs=3) as door:
        first = await door.submit(world.admin, world.company_id, key="first")
        for who in (world.admin, world.member):
            assert (await door.submit(who, world.company_id)).status_code == 201
        blobs = (await nats.jetstream().stream_info("BLOBS")).state.messages
        large = {"records": [{"text": new_id() * 1000}]}
        refused = await door.submit(world.admin, world.company_id, key="fourth", **large)
        check_refused(refused, "limit_org_open_runs", 3, 1)
        assert (await nats.jetstream().stream_info("BLOBS")).state.messages == blobs, "nothing was done"
        run_id = first.json()["run_id"]
        submission_id = first.json()["submission_id"]
        for path, body in (("runs/create", {"submission_id": submission_id}), ("runs/retry", {"run_id": run_id})):
            check_refused(await door.ask(world.admin, path, **body), "limit_org_open_runs", 3, 1)
        assert len(held.commands) == 3
        assert (await door.submit(world.admin, world.company_id, start_run=False)).status_code == 201
        assert (await door.submit(world.stranger, world.strange_company_id)).status_code == 201, "another org"
        again = await door.submit(world.admin, world.company_id, key="first")
        assert (again.status_code, again.json()["run_id"]) == (201, run_id), "the same command opens nothing"
        check_refused(
            await door.submit(world.admin, world.company_id, key="fourth", **large), "limit_org_open_runs", 3, 1
        )

        assert held.hold is not None
        held.hold.set()
        await asyncio.gather(*held._tasks)
        clock.pass_s(1)
        late = await door.submit(world.admin, world.company_id, key="fourth", **large)
        assert (late.status_code, late.json()["repeated"]) == (201, False)


async def test_open_runs_of_a_user(settings: Settings, clock: Clock, world: World, held: Service) -> None:
    async with open_door(settings, clock, user_open_runs=2) as door:
        answers = [await door.submit(world.admin, world.company_id) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        check_refused(answers[-1], "limit_user_open_runs", 2, 1)
        assert (await door.submit(world.member, world.company_id)).status_code == 201
        clock.pass_s(10 * FRESH_S)
        check_refused(await door.submit(world.admin, world.company_id), "limit_user_open_runs", 2, 1)


async def test_at_once_they_are_no_more_than_the_limit(
    settings: Settings, clock: Clock, world: World, held: Service
) -> None:
    async with open_door(settings, clock, org_open_runs=5) as door:
        answers = await asyncio.gather(*(door.submit(world.admin, world.company_id) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [201] * 5 + [429] * 15
        key = new_id()
        again = await asyncio.gather(*(door.submit(world.admin, world.company_id, key=key) for _ in range(5)))
        assert {answer.status_code for answer in again} == {429}


async def test_the_same_command_at_once_counts_once(
    settings: Settings, clock: Clock, world: World, held: Service
) -> None:
    async with open_door(settings, clock, org_open_runs=2) as door:
        opened = door.gateway.open_runs
        limits = door.gateway.limiter.effective(None)
        user, run = world.admin.user_id, new_id()
        first, second = [await opened.admit(world.org_id, user, limits, run, repeatable=True) for _ in range(2)]
        with first, second:
            await opened.admit(world.org_id, user, limits, new_id(), repeatable=True)
            with pytest.raises(LimitExceededError):
                await opened.admit(world.org_id, user, limits, new_id(), repeatable=False)


async def test_two_gateways_share_the_count(settings: Settings, clock: Clock, world: World, held: Service) -> None:
    async with open_door(settings, clock, org_open_runs=3) as one, open_door(settings, clock, org_open_runs=3) as other:
        assert [(await one.submit(world.admin, world.company_id)).status_code for _ in range(2)] == [201] * 2
        clock.pass_s(2 * FRESH_S)
        answers = [await other.submit(world.admin, world.company_id) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 429]
        clock.pass_s(2 * FRESH_S)
        assert (await one.submit(world.admin, world.company_id)).status_code == 429


async def test_quick_runs_one_after_the_other_never_meet_a_small_limit(
    settings: Settings, clock: Clock, world: World, held: Service
) -> None:
    assert held.hold is not None
    held.hold.set()
    async with open_door(settings, clock, org_open_runs=1) as door:
        for _ in range(20):
            answer = await door.submit(world.admin, world.company_id, wait_s=10)
            assert (answer.status_code, answer.json()["run"]["status"]) == (201, "succeeded")


async def test_a_rejected_command_opens_nothing(settings: Settings, clock: Clock, world: World, held: Service) -> None:
    def reject(command: Any) -> Any:
        raise StateConflictError("no")

    held.answer = reject
    async with open_door(settings, clock, org_open_runs=1) as door:
        for _ in range(3):
            answer = await door.ask(world.admin, "runs/create", submission_id=new_id())
            assert answer.status_code == 409


async def test_a_frozen_org_opens_no_runs(settings: Settings, clock: Clock, world: World, held: Service) -> None:
    async with open_door(settings, clock, org_open_runs=0) as door:
        check_refused(await door.submit(world.admin, world.company_id), "limit_org_open_runs", 0, 1)
        assert (await door.ask(world.admin)).status_code == 200


async def test_without_a_database_what_is_opened_here_counts(settings: Settings, servers: Any, clock: Clock) -> None:
    pool = await asyncpg.create_pool(servers.dsn, min_size=0)
    await pool.close()
    opened, limits = OpenRuns(Reader(pool), clock), Limits(org_open_runs=2, user_open_runs=2)
    org, user = new_id(), new_id()
    for _ in range(2):
        await opened.admit(org, user, limits, new_id(), repeatable=False)
    for _ in range(2):
        with pytest.raises(LimitExceededError):
            await opened.admit(org, user, limits, new_id(), repeatable=False)
        clock.pass_s(2 * FULL_S)
    await opened.admit(new_id(), user, limits, new_id(), repeatable=False)
