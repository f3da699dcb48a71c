"""A company is erased: nothing readable of it is left, and every stored decision is as it was, byte for byte."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from nats.aio.client import Client

from cli.embedded import EmbeddedConfig
from events.ids import new_id
from events.leaf import leaf_bytes
from events.settings import Settings
from projections.rebuild import rebuild
from tests.system.client import Org

MARKER = "Erika Mustermann"
ROWS = [{"name": f"{MARKER} {number}", "email": f"erika{number}@secret-domain.example"} for number in range(400)]
"""Enough for a blob; what is below 8 KiB is inline."""


async def stored(connection: Client, org_id: str) -> dict[int, bytes]:
    """What the log holds of an org: leaf bytes by position."""
    stream = connection.jetstream()
    last = (await stream.stream_info("EVENTS")).state.last_seq
    found = {}
    for position in range(1, last + 1):
        message = await stream.get_msg("EVENTS", position)
        if message.subject and message.subject.startswith(f"events.{org_id}."):
            found[position] = leaf_bytes(position, message.subject, message.data or b"")
    return found


async def in_streams(connection: Client, *markers: bytes) -> list[str]:
    """Subjects of the messages of any stream that have a marker in subject, header or body."""
    stream, found = connection.jetstream(), []
    for info in await stream.streams_info():
        for position in range(info.state.first_seq, info.state.last_seq + 1):
            try:
                message = await stream.get_msg(info.config.name, position)
            except Exception:  # noqa: BLE001 - a position that was erased or acknowledged
                continue
            text = b"\n".join([message.subject.encode(), repr(message.headers).encode(), message.data or b""])
            if any(marker in text for marker in markers):
                found.append(f"{info.config.name}: {message.subject}")
    return found


def in_files(folder: Path, *markers: bytes) -> list[str]:
    """Files below a folder that have a marker in their bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(marker in path.read_bytes() for marker in markers)]


@pytest.fixture(scope="module")
async def database(servers: EmbeddedConfig) -> AsyncIterator[asyncpg.Pool]:
    """The operator's."""
    async with asyncpg.create_pool(servers.database_url, min_size=1, max_size=2) as pool:
        yield pool


@pytest.fixture
async def company(org: Org) -> Org:
    """A company that handed in records, small and large, with a user, a token, and an error that quotes a record."""
    made = await org.call("companies/create", {"name": f"{MARKER} GmbH"})
    org.company_id = made["company_id"]
    cast = {"key": "cast_types", "config": {"casts": [{"field": "name", "to": "integer"}], "on_error": "fail"}}
    plans = ([{"key": "normalize_text", "config": {"fields": ["name"], "case": "upper"}}], [cast])
    for plan in plans:
        blueprint_id = await org.blueprint(*plan)
        for rows in (ROWS[:3], ROWS):
            ended = await org.ended(await org.submit(blueprint_id, rows, name=f"{MARKER}'s list"))
            assert ended["status"] in ("succeeded", "failed")
    user = {"email": "erika@secret-domain.example", "name": MARKER, "role": "member", "company_id": org.company_id}
    await org.call("users/create", user)
    return org


@pytest.fixture
async def nats_folder(connection: Client) -> Path:
    """Where the nats-server of this run keeps its streams: the folder of the process that listens on our port."""
    port = connection.connected_url.port if connection.connected_url else 0
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "nats-server" and any(
            found.laddr.port == port for found in process.net_connections("tcp") if found.status == "LISTEN"
        ):
            config = Path(process.cmdline()[process.cmdline().index("-c") + 1])
            return config.parent
    raise AssertionError("no nats-server listens on our port")


async def erase(org: Org, key: str | None = None) -> dict:
    body = {"company_id": org.company_id, "confirmation": org.company_id}
    return await org.call("companies/erase", body, key)


async def test_nothing_readable_is_left_and_the_log_is_as_it_was(
    company: Org, connection: Client, system_settings: Settings, nats_folder: Path, database: asyncpg.Pool
) -> None:
    markers = (MARKER.encode(), b"secret-domain.example", b"ERIKA MUSTERMANN", b"erika mustermann")
    assert await in_streams(connection, *markers) == [], "sealed from the first moment on"
    before = await stored(connection, company.org_id)
    erased = await erase(company)
    assert erased["in_force"]
    after = await stored(connection, company.org_id)
    assert {position: after[position] for position in before} == before
    assert await in_streams(connection, *markers) == []
    assert in_files(nats_folder, *markers) == []
    assert in_files(system_settings.home / "logs", *markers) == []
    for table in await tables(database):
        rows = await database.fetch(f"SELECT t::text AS row FROM data_engine.{table} t")
        assert not [row for row in rows if any(marker.decode() in row["row"] for marker in markers)], table


async def tables(database: asyncpg.Pool) -> list[str]:
    rows = await database.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'data_engine'::regnamespace AND relkind = 'r'"
    )
    return [row["relname"] for row in rows]


async def test_what_is_left_is_a_tombstone(company: Org) -> None:
    listed = await company.call("submissions/list", {"company_id": company.company_id})
    submission, key = listed["items"][0], new_id()
    first = await erase(company, key)
    again = await erase(company, key)
    assert (again["repeated"], again["position"]) == (True, first["position"])
    assert (await erase(company))["position"] == first["position"]
    shown = await company.call("companies/get", {"company_id": company.company_id})
    assert shown["name"] is None
    assert shown["erased_at"]
    named = {"submission_id": submission["submission_id"]}
    assert (await company.post("submissions/get", named)).status_code == 404
    left = (await company.call("events/list", named))["items"]
    assert left, "that something was decided, and when, is still known"
    assert not any(decision["events"] for decision in left)
    assert (await company.call("submissions/list", {"company_id": company.company_id}))["items"] == []
    blueprint_id = await company.blueprint("test_count")
    body = {"company_id": company.company_id, "blueprint_id": blueprint_id, "records": [{"n": 1}]}
    refused = await company.post("submissions/create", body)
    assert (refused.status_code, refused.json()["code"]) == (410, "erased")
    user = {"email": "a@example.com", "role": "member", "company_id": company.company_id}
    assert (await company.post("users/create", user)).status_code == 410


async def test_live_and_rebuilt_are_the_same(company: Org, connection: Client, database: asyncpg.Pool) -> None:
    await erase(company)
    for result in await rebuild(database, connection, check_only=True):
        assert result.identical, result


async def test_users_and_tokens_of_the_company_act_no_more(company: Org) -> None:
    user = await company.call(
        "users/create", {"email": "b@example.com", "role": "company_admin", "company_id": company.company_id}
    )
    token = await company.call("tokens/create", {"user_id": user["user_id"], "name": "sync"})
    body = {"min_position": token["position"]}
    headers = {"Authorization": f"Bearer {token['token']}"}
    await company.call("companies/list", body)  # once this answers, the token is known everywhere
    assert (await company.http.post("companies/list", json=body, headers=headers)).status_code == 200
    assert (await erase(company))["in_force"]
    assert (await company.http.post("companies/list", json=body, headers=headers)).status_code == 401


async def test_erasing_is_refused_without_confirmation_and_while_runs_are_open(company: Org) -> None:
    wrong = {"company_id": company.company_id, "confirmation": "Another GmbH"}
    refused = await company.post("companies/erase", wrong)
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "/confirmation")
    unknown = new_id()
    answer = await company.post("companies/erase", {"company_id": unknown, "confirmation": unknown})
    assert answer.status_code == 404
