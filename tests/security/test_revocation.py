"""A withdrawal of access holds when the call has returned, on every gateway: told, deaf, or stopped meanwhile."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cli.embedded import free_port
from cli.processes import GATEWAY
from cli.supervisor import Supervisor
from cli.system import Endpoints, System
from events.settings import Settings
from gateway.app import create_app
from gateway.state import open_gateway
from tests.security.support import Caller, http, new_company, new_session, new_token, new_user, org_of

SECOND = "gateway-2"
ROUNDS = 3
"""Of each of the four ways to withdraw, at once."""


@pytest.fixture(scope="module")
async def second(system: System, endpoints: Endpoints, home_of_second: Path) -> AsyncIterator[tuple[Supervisor, str]]:
    """Another gateway process of the same system, and its address."""
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    spec = system._process(GATEWAY, replace(endpoints, gateway_url=url))
    supervisor = Supervisor(home_of_second / "state.json", lambda _name, _what: None)
    env = {**spec.env, "DATA_ENGINE_METRICS_PORT": str(free_port("127.0.0.1"))}
    log_path = spec.log_path.with_name(f"{SECOND}.log")
    await supervisor.start(replace(spec, name=SECOND, log_path=log_path, env=env))
    yield supervisor, url
    await supervisor.stop(abruptly=True)


@pytest.fixture(scope="module")
def home_of_second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("second")


@asynccontextmanager
async def deaf_gateway(settings: Settings, endpoints: Endpoints) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway in this process that hears none of the projector's signals, as if NATS had lost them all."""
    settings = endpoints.applied_to(settings)
    async with open_gateway(settings) as gateway:
        await gateway.signals._subscription.unsubscribe()
        gateway.signals._subscription = None
        transport = httpx.ASGITransport(create_app(settings, gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://deaf") as opened:
            yield opened


Victim = tuple[Caller, str, dict[str, Any]]


async def victims(client: httpx.AsyncClient, endpoints: Endpoints) -> tuple[Caller, list[Victim]]:
    """People whose access is about to end, with the call that ends it; and who may make it."""
    admin, org_id = await org_of(client, endpoints)
    company_id = await new_company(admin)

    async def token() -> Caller:
        return await new_token(admin, await new_user(admin, company_id))

    async def every_way() -> list[Victim]:
        revoked, rotated, of_user = await token(), await token(), await token()
        session = await new_session(admin, org_id, "member", company_id)
        return [
            (revoked, "tokens/revoke", {"token_id": revoked.token_id}),
            (rotated, "tokens/rotate", {"token_id": rotated.token_id, "overlap_s": 0}),
            (session, "users/deactivate", {"user_id": session.user_id}),
            (of_user, "users/deactivate", {"user_id": of_user.user_id}),
        ]

    made = await asyncio.gather(*(every_way() for _ in range(ROUNDS)))
    return admin, [victim for some in made for victim in some]


async def withdraw_and_ask(admin: Caller, asked: httpx.AsyncClient, people: list[Victim]) -> list[int]:
    """Withdraw on the admin's gateway while the others are kept warm; what each says the moment the call is back."""

    async def one(victim: Victim) -> list[int]:
        caller, endpoint, body = victim
        there = replace(caller, http=asked)
        for warm in (caller, there, caller, there):
            assert (await warm.ask("orgs/get")).status_code == 200
        done = asyncio.Event()
        hammering = asyncio.create_task(hammer(there, done))
        assert (await admin.call(endpoint, body))["in_force"]
        answers = await asyncio.gather(*(each.ask("orgs/get") for each in (there, caller, there)))
        done.set()
        await hammering
        return [answer.status_code for answer in answers]

    return [status for statuses in await asyncio.gather(*(one(victim) for victim in people)) for status in statuses]


async def hammer(caller: Caller, done: asyncio.Event) -> None:
    """Requests without a pause, so that whatever may be kept is kept as fresh as can be; until the first refusal."""
    while not done.is_set() and (status := (await caller.ask("orgs/get")).status_code) != 401:
        assert status == 200


async def test_on_another_process(client: httpx.AsyncClient, endpoints: Endpoints, second: tuple[Any, str]) -> None:
    """Both ways: withdrawn here and asked there, and the other way about."""
    async with http(second[1]) as there:
        for ours, theirs in ((client, there), (there, client)):
            admin, people = await victims(ours, endpoints)
            assert set(await withdraw_and_ask(admin, theirs, people)) == {401}
            assert len(people) == 12


async def test_on_a_process_that_is_stopped_meanwhile(
    client: httpx.AsyncClient, endpoints: Endpoints, second: tuple[Supervisor, str]
) -> None:
    """It hears and polls nothing, and what it kept must not count when it goes on: with requests that wait for it."""
    supervisor, url = second
    async with http(url) as there:
        admin, people = await victims(client, endpoints)
        theirs = [replace(caller, http=there) for caller, _, _ in people]
        for caller in theirs:
            assert (await caller.ask("orgs/get")).status_code == 200
        lines = [await Line.to(url) for _ in people]
        supervisor.kill(SECOND, signal.SIGSTOP)
        try:
            answers = await asyncio.gather(*(admin.call(endpoint, body) for _, endpoint, body in people))
            await asyncio.gather(*(line.ask(caller) for line, caller in zip(lines, theirs, strict=True)))
        finally:
            supervisor.kill(SECOND, signal.SIGCONT)
        assert all(answer["in_force"] for answer in answers)
        assert {await line.status() for line in lines} == {401}
        assert {(await caller.ask("orgs/get")).status_code for caller in theirs} == {401}


@dataclass
class Line:
    """A connection whose request is sent, all of it, before anybody reads it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, url: str) -> "Line":
        place = urlsplit(url)
        return cls(*await asyncio.open_connection(place.hostname, place.port))

    async def ask(self, caller: Caller) -> None:
        fields = {
            "Host": "x", "Authorization": f"Bearer {caller.credential}", "Content-Type": "application/json",
            "Content-Length": "2", "Connection": "close",
        }  # fmt: skip
        if caller.org_id:
            fields["X-Data-Engine-Org"] = caller.org_id
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"POST /v1/orgs/get HTTP/1.1\r\n{lines}\r\n{{}}".encode())
        await self.writer.drain()

    async def status(self) -> int:
        answer = await asyncio.wait_for(self.reader.read(), 30)
        self.writer.close()
        return int(answer.split(b" ", 2)[1])


async def test_on_a_gateway_that_hears_no_signal(
    client: httpx.AsyncClient, endpoints: Endpoints, system_settings: Settings
) -> None:
    """Both ways: it notices by itself, and what is withdrawn through it holds elsewhere too."""
    async with deaf_gateway(system_settings, endpoints) as deaf:
        admin, people = await victims(client, endpoints)
        assert set(await withdraw_and_ask(admin, deaf, people)) == {401}
        admin, people = await victims(client, endpoints)
        assert set(await withdraw_and_ask(replace(admin, http=deaf), client, people)) == {401}


async def test_a_wait_that_began_before(client: httpx.AsyncClient, endpoints: Endpoints, tmp_path: Path) -> None:
    """A run is waited for by somebody whose access ends meanwhile: its results are not handed over."""
    admin, _ = await org_of(client, endpoints)
    company_id = await new_company(admin)
    flaky = {"key": "test_flaky", "config": {"marker": str(tmp_path / "attempts"), "failures": 1}}
    steps = [flaky | {"retry": {"attempts": 2, "backoff_s": 5.0}}]
    blueprint = await admin.call("blueprints/create", {"name": "b", "steps": steps})
    work = {"company_id": company_id, "blueprint_id": blueprint["blueprint_id"], "records": [{"secret": "of the run"}]}
    made = await admin.call("submissions/create", work)
    victim = await new_token(admin, await new_user(admin, company_id))
    body = {"run_id": made["run_id"], "min_position": made["position"], "wait_s": 30, "include_results": True}
    waiting = asyncio.create_task(victim.ask("runs/get", body))
    assert (await victim.ask("runs/get", body | {"wait_s": 0})).status_code == 200  # the one before is there by now
    assert (await admin.call("tokens/revoke", {"token_id": victim.token_id}))["in_force"]
    assert not waiting.done()
    answer = await waiting
    assert answer.status_code == 401, answer.text
    assert "of the run" not in answer.text
