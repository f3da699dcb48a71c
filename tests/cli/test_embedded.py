"""The embedded servers and the supervisor, with the real programs."""

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from cli import embedded
from cli.database_roles import ensure_logins
from cli.embedded import DataFolder, DataFolderLockedError, EmbeddedServerError
from cli.supervisor import ProcessFailedError, ProcessSpec, Supervisor
from events.connection import connect
from events.log import EventLog
from migrations.database import migrate
from migrations.streams import migrate_streams


def silent(_name: str, _what: str) -> None:
    """Tests look at the processes themselves."""


async def start_both(home: Path) -> tuple[Supervisor, embedded.EmbeddedConfig]:
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "run" / "state.json", silent)
    await supervisor.start(embedded.nats_spec(home, config))
    await supervisor.start(embedded.postgres_spec(home, config))
    return supervisor, config


async def write_something(config: embedded.EmbeddedConfig) -> None:
    database = await asyncpg.connect(config.database_url)
    await database.execute("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
    await database.close()
    connection = await connect([config.nats_url], "test")
    await migrate_streams(connection, replicas=1)
    await connection.jetstream().publish("commands.o.kept", b"here")
    await connection.close()


async def is_still_there(config: embedded.EmbeddedConfig) -> bool:
    database = await asyncpg.connect(config.database_url)
    word = await database.fetchval("SELECT word FROM kept")
    await database.close()
    connection = await connect([config.nats_url], "test")
    state = (await connection.jetstream().stream_info("COMMANDS")).state
    await connection.close()
    return word == "here" and state.messages == 1


async def test_a_second_start_finds_its_data_and_ports_again(home):
    supervisor, config = await start_both(_made(home))
    await write_something(config)
    await supervisor.stop()
    assert not (home / "run" / "state.json").exists()
    supervisor, again = await start_both(home)
    assert again == config
    assert await is_still_there(again)
    await supervisor.stop()


async def test_servers_that_are_killed_come_back_with_their_data(home):
    supervisor, config = await start_both(_made(home))
    await write_something(config)
    for name in ("nats", "postgres"):
        before = supervisor.processes[name].pid
        supervisor.kill(name, signal.SIGKILL)
        await restarted(supervisor, name, before)
    async with asyncio.timeout(30):
        while True:
            try:
                assert await is_still_there(config)
                break
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.05)  # the interval between two tries to connect
    assert {p.restarts for p in supervisor.processes.values()} == {1}
    await supervisor.stop()


async def restarted(supervisor: Supervisor, name: str, before: int) -> None:
    async with asyncio.timeout(30):
        while supervisor.processes[name].pid == before:
            await asyncio.sleep(0.01)


async def test_ports_that_are_taken_are_replaced(home):
    config = embedded.prepare(_made(home))
    server = await asyncio.start_server(lambda _r, w: w.close(), embedded.HOST, config.nats_port)
    assert embedded.prepare(home).nats_port != config.nats_port
    server.close()
    await server.wait_closed()


def test_secrets_are_for_their_owner_only(home):
    embedded.prepare(_made(home))
    for path in (home / "embedded.json", home / "nats" / "nats.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (home / "postgres" / "password").exists()


def test_two_systems_cannot_have_one_data_folder(home):
    first = DataFolder(home)
    with pytest.raises(DataFolderLockedError, match=str(os.getpid())):
        DataFolder(home)
    first.close()
    DataFolder(home).close()


async def test_a_process_that_does_not_start_is_an_error_with_the_end_of_its_log(tmp_path):
    async def never() -> None:
        raise ConnectionError("not there")

    broken = ProcessSpec(
        "broken", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path / "log", ready=never
    )
    supervisor = Supervisor(tmp_path / "state.json", silent)
    with pytest.raises(ProcessFailedError, match=r"(?s)ended with 3.*the reason"):
        await supervisor.start(broken)
    assert supervisor.processes == {}


async def test_children_do_not_outlive_a_supervisor_that_is_killed(tmp_path):
    program = (
        "import asyncio, sys; from pathlib import Path; from cli.supervisor import *\n"
        "async def main():\n"
        "    s = Supervisor(Path(sys.argv[1]), lambda n, w: None)\n"
        "    await s.start(ProcessSpec('child', [sys.executable, '-c', 'import time; time.sleep(600)'],"
        " Path(sys.argv[1] + '.log')))\n"
        "    print(s.processes['child'].pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path / "state.json"), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    assert json.loads((tmp_path / "state.json").read_text())["processes"]["child"]["pid"] == child.pid
    parent.kill()
    await parent.wait()
    gone, alive = psutil.wait_procs([child], timeout=10)
    assert not alive
    assert gone


async def test_a_start_right_after_everything_was_killed(home):
    supervisor, config = await start_both(_made(home))
    await write_something(config)
    pids = [running.pid for running in supervisor.processes.values()]
    for keeper in supervisor._keepers.values():
        keeper.cancel()  # the supervisor itself is gone too
    for pid in pids:
        os.killpg(pid, signal.SIGKILL)
    again, config = await start_both(home)
    assert await is_still_there(config)
    await again.stop()


async def test_a_stale_pid_file_that_names_a_living_process(home):
    supervisor, _ = await start_both(_made(home))
    await supervisor.stop()
    (home / "postgres" / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    supervisor, _ = await start_both(home)
    await supervisor.stop()


def test_a_first_start_that_was_cut_short_begins_anew(home):
    (_made(home) / "postgres" / "new-half" / "data").mkdir(parents=True)
    embedded.prepare(home)
    assert (home / "postgres" / "data" / "PG_VERSION").exists()
    assert not list((home / "postgres").glob("new-*"))


def test_a_damaged_configuration_is_named(home):
    (_made(home) / "embedded.json").write_text('{"nats_port": 1')
    with pytest.raises(EmbeddedServerError, match=r"embedded\.json"):
        embedded.prepare(home)


async def test_a_folder_from_before_processes_had_users_goes_on(home):
    """As the first version left it: one NATS user, the streams in the global account, no logins in Postgres."""
    config = embedded.prepare(_made(home))
    known = json.loads((home / "embedded.json").read_text())
    old = {**known, "nats_user": "dex"}
    del old["nats_passwords"], old["database_passwords"]
    (home / "embedded.json").write_text(json.dumps(old))
    conf = (home / "nats" / "nats.conf").read_text()
    one_user = f'authorization {{ user: "operator", password: "{config.nats_password}" }}'
    (home / "nats" / "nats.conf").write_text(conf[: conf.index("NATS_OPERATOR_PASSWORD")] + one_user)
    supervisor = Supervisor(home / "run" / "state.json", silent)
    await supervisor.start(embedded.nats_spec(home, config))
    await supervisor.start(embedded.postgres_spec(home, config))
    await write_something(config)
    await supervisor.stop()
    assert (home / "nats" / "jetstream" / "jetstream" / "$G" / "streams" / "COMMANDS").exists()
    supervisor, config = await start_both(home)
    assert await is_still_there(config)
    await migrate(config.database_url)
    await ensure_logins(config.database_url, config.logins)
    await (await asyncpg.connect(config.database_urls["gateway"])).close()
    gateway = await connect([config.nats_urls["gateway"]], "gateway")
    assert (await EventLog(gateway).state()).last_position == 0
    await gateway.close()
    await supervisor.stop()
    assert embedded.prepare(home).nats_passwords == config.nats_passwords


def test_a_folder_from_before_a_user_was_added_gives_it_a_password_and_keeps_the_others(home):
    config = embedded.prepare(_made(home))
    known = json.loads((home / "embedded.json").read_text())
    del known["nats_passwords"][embedded.REMOTE_WORKER]
    (home / "embedded.json").write_text(json.dumps(known))
    again = embedded.prepare(home)
    assert {**again.nats_passwords, **known["nats_passwords"]} == again.nats_passwords
    assert again.nats_passwords[embedded.REMOTE_WORKER] not in ("", config.nats_passwords[embedded.REMOTE_WORKER])


def _made(home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    return home
