"""Migrations: the same by `dex migrate` and by plain psql, harmless when repeated; streams are made and checked."""

import asyncio
import json
import re
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import asyncpg
import pytest
from nats.aio.client import Client

from cli import embedded
from cli.supervisor import ProcessSpec, Supervisor
from events.connection import connect
from events.errors import ConfigurationError, UnavailableError
from events.follow import follow
from events.log import EventLog
from events.model import Decision
from events.settings import Settings
from migrations.database import FOLDER, migrate, versions
from migrations.streams import check_streams, definitions, migrate_streams
from tests.events.test_log import decision

ROOT = Path(__file__).parent.parent.parent
NODES = 3

SHAPE = """
    SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
    WHERE table_schema = 'data_engine' ORDER BY 1, 2
"""


async def fresh_database(url: str, name: str) -> str:
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return re.sub(r"/[^/]*$", f"/{name}", url)


async def test_plain_psql_gives_the_same_schema_and_both_may_be_repeated(servers):
    ours, plain = [await fresh_database(servers.database_url, name) for name in ("by_dex", "by_psql")]
    assert await migrate(ours) == versions()
    assert await migrate(ours) == []
    psql = embedded._postgres_program("psql")
    for _ in range(2):
        for version in versions():
            file = str(FOLDER / f"{version}.sql")
            await asyncio.to_thread(
                subprocess.run,
                [psql, plain, "-v", "ON_ERROR_STOP=1", "-q", "-f", file],
                check=True,
                capture_output=True,
            )
    assert await migrate(plain) == [], "what psql applied is known"
    shapes = []
    for url in (ours, plain):
        connection = await asyncpg.connect(url)
        shapes.append([tuple(row) for row in await connection.fetch(SHAPE)])
        await connection.close()
    assert shapes[0] == shapes[1]
    assert shapes[0]


async def test_two_migrations_at_once(servers):
    url = await fresh_database(servers.database_url, "at_once")
    await asyncio.gather(*(migrate(url) for _ in range(4)))
    assert await migrate(url) == []


async def test_a_stream_that_differs_is_named(connection):
    assert await migrate_streams(connection, replicas=1) == []
    assert await check_streams(connection, replicas=1) == []
    wanted = definitions(replicas=1)["DEAD_LETTERS"]
    changed = {**wanted, "max_age": 60 * 10**9}
    await connection.request(
        "$JS.API.STREAM.UPDATE.DEAD_LETTERS", json.dumps({**changed, "allow_direct": True}).encode()
    )
    try:
        faults = await check_streams(connection, replicas=1)
        assert faults == [] or all("DEAD_LETTERS" in fault for fault in faults)
        shrunk = {**wanted, "retention": "limits", "max_msgs_per_subject": 7, "storage": "file"}
        await connection.request("$JS.API.STREAM.UPDATE.DEAD_LETTERS", json.dumps(shrunk).encode())
    finally:
        await connection.request("$JS.API.STREAM.UPDATE.DEAD_LETTERS", json.dumps(wanted).encode())
    with pytest.raises(ConfigurationError, match=r"num_replicas is 1 and must be 3"):
        await migrate_streams(connection, replicas=3)


async def test_a_cluster_of_three_with_three_replicas(tmp_path):
    """The configuration of compose.yaml, as three processes: streams with three replicas, and the log on them."""
    ports = [(embedded.free_port(), embedded.free_port()) for _ in range(NODES)]
    routes = ", ".join(f"nats-route://127.0.0.1:{route}" for _, route in ports)
    users = ("operator", *embedded.NATS_PROCESSES, embedded.REMOTE_WORKER)
    passwords = "".join(f'NATS_{user.upper().replace("-", "_")}_PASSWORD: "of-{user}"\n' for user in users)
    supervisor = Supervisor(tmp_path / "state.json", lambda _name, _what: None)
    program = str(Path(sys.executable).parent / "nats-server")
    for number, (client, route) in enumerate(ports):
        config = tmp_path / f"n{number}.conf"
        config.write_text(
            f'server_name: n{number}\nlisten: "127.0.0.1:{client}"\n'
            f'jetstream {{\n store_dir: "{tmp_path}/js{number}"\n sync_interval: always\n}}\n'
            f'cluster {{\n name: test\n listen: "127.0.0.1:{route}"\n routes: [{routes}]\n}}\n'
            + passwords
            + embedded.NATS_ACCOUNTS.read_text()
        )
        await supervisor.start(ProcessSpec(f"n{number}", [program, "-c", str(config)], tmp_path / f"n{number}.log"))

    async def connect_as(user: str, ports: list[tuple[int, int]]) -> Client:
        return await connect([f"nats://{user}:of-{user}@127.0.0.1:{client}" for client, _ in ports], user)

    connection = await connect_as("operator", ports)
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    await migrate_streams(connection, replicas=NODES)
                    break
                except Exception:  # noqa: BLE001 - the cluster elects its leader; the time limit ends this
                    await asyncio.sleep(0.2)
        log = EventLog(connection)
        org = "0f4c6d1e-9d55-4a57-8d0c-3f0f6a0b7c01"
        positions = [await appended(log, decision(org, version)) for version in range(1, 6)]
        supervisor.kill("n0")
        positions += [await appended(log, decision(org, version)) for version in range(6, 11)]
        assert positions == sorted(positions)
        async with asyncio.timeout(60):
            while await seen(connection, org) != list(range(1, 11)):
                await asyncio.sleep(0.1)  # a replica that is behind may have answered (decision 18)
        gateway, projector = [await connect_as(user, ports[1:]) for user in ("gateway", "projector")]
        await seen_from_other_accounts(gateway, projector, org)
        await gateway.close()
        await projector.close()
    finally:
        await connection.close()
        await supervisor.stop(abruptly=True)


async def appended(log: EventLog, entry: Decision) -> int:
    """Its position, once the cluster has a leader: until then the log says that it is not there, and to ask again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return (await log.append(entry)).position
            except UnavailableError:
                await asyncio.sleep(0.2)  # the pause between two questions


async def seen_from_other_accounts(gateway: Client, projector: Client, org: str) -> None:
    """The log is reached across accounts, wherever in the cluster its leader and the asker are."""
    async with asyncio.timeout(60):
        while (await EventLog(gateway).state()).last_position < 10 or await seen(gateway, org) != list(range(1, 11)):
            await asyncio.sleep(0.1)  # a replica that is behind may have answered
        followed = 0
        async with aclosing(follow(projector, "EVENTS", ["events.>"], 0, 100)) as batches:
            async for batch in batches:
                followed += len(batch)
                if followed == 10:
                    return


async def seen(gateway: Client, org: str) -> list[int]:
    return [recorded.decision.version for recorded in await EventLog(gateway).history(org, "org", org)]


def test_the_example_environment_lists_every_setting():
    listed = set(re.findall(r"DATA_ENGINE_([A-Z_]+)=", (ROOT / ".env.example").read_text()))
    assert listed == {name.upper() for name in Settings.model_fields}


async def test_an_older_databases_runs_stay_in_service_until_their_successor_is_built(servers):
    connection = await asyncpg.connect(await fresh_database(servers.database_url, "older"))
    for version in (version for version in versions() if version < "0007"):
        await connection.execute((FOLDER / f"{version}.sql").read_text())
    await connection.execute(
        "INSERT INTO data_engine.projection_checkpoints (name, position, epoch, decision_id) "
        "VALUES ('runs_v1', 1, 'e', 'd');"
        "INSERT INTO data_engine.runs_v1 (run_id, org_id, company_id, submission_id, blueprint_id, status, step_keys, "
        "started_at, position, last_position) SELECT id, id, id, id, id, 'running', '{a}', now(), 1, 1 "
        "FROM gen_random_uuid() AS g (id)"
    )
    await connection.execute((FOLDER / "0007_generations.sql").read_text())
    row = await connection.fetchrow("SELECT status, input_rows, output_rows FROM data_engine.runs")
    assert tuple(row) == ("running", None, None)
    await connection.close()
