"""`dex keys` as an operator runs it: what there is, other keys and master keys, a kill, faulty settings."""

import asyncio
import base64
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nats.aio.client import Client

from cli import embedded
from cli.supervisor import Supervisor
from events.connection import connect
from events.ids import new_id
from events.key_store import KeyStore, absent_in
from events.keyring import Keyring
from events.keys import MasterKeys, Owner
from events.log import EventLog
from migrations.streams import migrate_streams
from tests.events.test_sealing import company
from tests.system.test_erasure import in_files

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 60
COMPANIES = 200


def master(name: str, byte: int = 1) -> str:
    return f"{name}:{base64.b64encode(bytes([byte]) * 32).decode()}"


OLD, NEW = master("old"), master("new", 2)


@dataclass
class Keys:
    """A nats-server with KEYS of its own, and `dex keys` on it."""

    home: Path
    connection: Client
    environment: dict[str, str]

    def store(self, masters: str = OLD) -> KeyStore:
        return KeyStore(self.connection, MasterKeys(masters))

    async def start(self, *arguments: str, masters: str | None = OLD) -> asyncio.subprocess.Process:
        environment = self.environment if masters is None else {**self.environment, "DATA_ENGINE_MASTER_KEYS": masters}
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli.main", "keys", *arguments, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe
        )

    async def __call__(self, *arguments: str, masters: str | None = OLD) -> tuple[int, str, str]:
        process = await self.start(*arguments, masters=masters)
        out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
        assert process.returncode is not None
        assert b"Traceback" not in err
        return process.returncode, out.decode(), " ".join(err.decode().split())

    async def status(self, masters: str = OLD) -> dict:
        code, out, err = await self("status", "--json", masters=masters)
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
async def keys(home: Path) -> AsyncIterator[Keys]:
    home.mkdir()
    folder = embedded.DataFolder(home)
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "run" / "state.json", lambda _name, _what: None)
    await supervisor.start(embedded.nats_spec(home, config))
    connection = await connect([config.nats_url], "test")
    await migrate_streams(connection, replicas=1)
    names = {name: value for name, value in os.environ.items() if not name.startswith("DATA_ENGINE_")}
    urls = {"DATA_ENGINE_NATS_URL": config.nats_url, "DATA_ENGINE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    yield Keys(home, connection, {**names, **urls, "DATA_ENGINE_HOME": str(home / "cli"), "COLUMNS": "200"})
    await connection.close()
    await supervisor.stop(abruptly=True)
    folder.close()


async def test_status_counts_and_shows_no_key(keys: Keys) -> None:
    owners = [Owner(new_id(), new_id()) for _ in range(3)]
    for owner in owners:
        await keys.store().create(owner)
    await keys.store().rotate(owners[0])
    await keys.store().erase(owners[1], datetime.now(UTC))
    unsealed = Owner(new_id(), new_id())
    await keys.store().rotate(unsealed)  # a company from before there were keys
    assert await keys.status() == {
        "companies": 3, "erased": 1, "keys": 4, "keys_by_master_key": {"old": 4}, "not_encrypted_from_the_beginning": 1,
        "absent_replicas": [],
    }  # fmt: skip
    code, out, _ = await keys("status")
    assert code == 0
    assert "keys by master key: {'old': 4}" in out
    assert not re.search(r"[A-Za-z0-9+/]{30,}", out)


def test_nodes_that_are_away_or_behind_are_told() -> None:
    """As nats-server describes the replicas of a stream, apart from its leader."""
    replicas = [
        {"name": "n1", "current": True, "active": 1},
        {"name": "n2", "current": False, "active": 1, "lag": 7},
        {"name": "n3", "current": False, "offline": True, "active": 1},
    ]
    assert absent_in({"cluster": {"leader": "n0", "replicas": replicas}}) == ["n2", "n3"]
    assert absent_in({"cluster": {"leader": "n0"}}) == []
    assert absent_in({}) == []


async def test_a_company_gets_another_key(keys: Keys) -> None:
    owner = Owner(new_id(), new_id())
    await keys.store().create(owner)
    await EventLog(keys.connection, Keyring(keys.store())).append(company(owner))
    code, out, err = await keys("rotate", *owner, "--json")
    assert (code, json.loads(out)) == (0, {"generation": 2}), err
    assert len((await keys.store().read(owner)).generations) == 2
    code, _, err = await keys("rotate", owner.org_id, new_id())
    assert code == 1
    assert "has no company" in err
    await keys.store().erase(owner, datetime.now(UTC))
    code, _, err = await keys("rotate", *owner)
    assert code == 1
    assert "is erased" in err


async def test_another_master_key_killed_in_the_middle_and_run_again(keys: Keys) -> None:
    owners = [Owner(new_id(), new_id()) for _ in range(COMPANIES)]
    for owner in owners:
        await keys.store().create(owner)
    heard: asyncio.Queue = asyncio.Queue()
    subscription = await keys.connection.subscribe("keys.*.*", cb=heard.put)
    await keys.connection.flush()
    running = await keys.start("rotate-master", masters=f"{NEW},{OLD}")
    async with asyncio.timeout(LIMIT_S):
        for _ in range(COMPANIES // 4):
            await heard.get()
    running.kill()
    await running.communicate()
    await subscription.unsubscribe()
    by_master = (await keys.status())["keys_by_master_key"]
    assert by_master["old"] > 0, "it was killed before its end"
    assert by_master["new"] >= COMPANIES // 4
    code, out, err = await keys("rotate-master", "--json", masters=f"{NEW},{OLD}")
    assert (code, json.loads(out)) == (0, {"rewrapped": by_master["old"]}), err
    assert (await keys.status(NEW))["keys_by_master_key"] == {"new": COMPANIES}
    assert in_files(keys.home / "nats", b'"old:') == [], "what was wrapped by the old master key is overwritten"
    for owner in owners:
        assert await keys.store(NEW).open(await keys.store(NEW).read(owner)) is not None


async def test_a_key_that_cannot_be_unwrapped_does_not_keep_the_others_from_it(keys: Keys) -> None:
    lost, good = Owner(new_id(), new_id()), Owner(new_id(), new_id())
    await keys.store(master("lost", 9)).create(lost)
    await keys.store().create(good)
    code, _, err = await keys("rotate-master", masters=f"{NEW},{OLD}")
    assert code == 1
    assert "1 companies' keys were wrapped" in err
    assert "the master key 'lost': DATA_ENGINE_MASTER_KEYS lacks it" in err
    assert (await keys.status())["keys_by_master_key"] == {"lost": 1, "new": 1}


@pytest.mark.parametrize(
    ("masters", "says"),
    [
        (None, "Set DATA_ENGINE_MASTER_KEYS to what the processes have"),
        (f"{NEW},{master('old', 3)}", "the master key 'old' is another one, or KEYS was altered"),
        (NEW, "the master key 'old': DATA_ENGINE_MASTER_KEYS lacks it"),
        ("old", "Make one: echo main:$(openssl rand -base64 32)"),
    ],
)
async def test_faulty_master_keys_are_told_with_what_to_do(keys: Keys, masters: str | None, says: str) -> None:
    owner = Owner(new_id(), new_id())
    await keys.store().create(owner)
    before = await keys.store().read(owner)
    code, _, err = await keys("rotate-master", masters=masters)
    assert code == 1
    assert says in err
    assert await keys.store().read(owner) == before
