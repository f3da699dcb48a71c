"""Every user of migrations/nats_accounts.conf does what it must not, on a real nats-server; the log stays as it is."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from cli import embedded
from cli.supervisor import Supervisor
from events import strictjson
from events.blobs import BlobStore
from events.commands import COMMANDS
from events.connection import Connection, inbox_prefix
from events.health import answer_health, ask_health
from events.keys import Owner
from events.log import EventLog
from migrations.streams import check_streams, migrate_streams

PROCESSES = ("gateway", "command-service", "worker", "projector", "archiver")
USERS = (*PROCESSES, embedded.REMOTE_WORKER)
BLOB = "0" * 64
READERS = ("gateway", "projector", "archiver")
DESTRUCTION = {
    "$JS.API.STREAM.PURGE.EVENTS": {},
    "$JS.API.STREAM.DELETE.EVENTS": {},
    "$JS.API.STREAM.UPDATE.EVENTS": {"name": "EVENTS", "subjects": ["events.>"], "max_msgs": 1},
    "$JS.API.STREAM.MSG.DELETE.EVENTS": {"seq": 1},
    "$JS.API.STREAM.CREATE.OTHER": {"name": "OTHER", "subjects": ["other"]},
    "$JS.API.STREAM.PURGE.BLOBS": {},
    "$JS.API.STREAM.DELETE.TASKS": {},
}


@dataclass
class User:
    """One user's connection, and what the server refused it."""

    name: str
    nc: Client
    refusals: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def refusal(self) -> str:
        """What the server said next that this user may not."""
        return await asyncio.wait_for(self.refusals.get(), 10)


Connect = Callable[[str], Awaitable[User]]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[embedded.EmbeddedConfig]:
    """A nats-server as `dex up` starts it, with the streams and with something in them."""
    home = tmp_path_factory.mktemp("nats")
    folder = embedded.DataFolder(home)
    config = embedded.prepare(home)
    supervisor = Supervisor(home / "run" / "state.json", lambda _name, _what: None)
    await supervisor.start(embedded.nats_spec(home, config))
    operator = await nats.connect(config.nats_url)
    await migrate_streams(operator, replicas=1)
    await operator.jetstream().publish(f"events.o.run.{uuid.uuid4()}.1.due.step", b"{}")
    await BlobStore(operator).put(Owner("o", "c"), BLOB, b'{"forged": "a decision of the attacker"}')
    await operator.close()
    yield config
    await supervisor.stop(abruptly=True)
    folder.close()


@pytest.fixture
async def user(server: embedded.EmbeddedConfig) -> AsyncIterator[Connect]:
    """Connect as a user."""
    connected: list[User] = []

    async def connect_as(name: str) -> User:
        made = User(name, Connection())

        async def note(error: Exception) -> None:
            made.refusals.put_nowait(str(error))

        url = server.nats_url if name == "operator" else server.nats_urls[name]
        await made.nc.connect(url, inbox_prefix=inbox_prefix([url]), error_cb=note, allow_reconnect=False)
        connected.append(made)
        return made

    yield connect_as
    for made in connected:
        await made.nc.close()


async def grown_by(operator: User, before: int) -> int:
    """How many messages the log got since, but for the marker that this appends: it comes after all that was sent."""
    marker = await operator.nc.jetstream().publish(f"events.marker.run.{uuid.uuid4()}.1.log.marker", b"{}")
    return marker.seq - before - 1


async def end_of_log(operator: User) -> int:
    return (await EventLog(operator.nc).state()).last_position


def forged() -> str:
    return f"events.o.token.{uuid.uuid4()}.1.log.token"


@pytest.mark.parametrize("name", USERS)
async def test_no_process_may_change_or_empty_a_stream(user, name):
    operator, attacker = await user("operator"), await user(name)
    before = await end_of_log(operator)
    for subject, body in DESTRUCTION.items():
        await attacker.nc.publish(subject, strictjson.dumps(body), reply=attacker.nc.new_inbox())
        assert subject.lower() in await attacker.refusal()
    assert await grown_by(operator, before) == 0
    assert await check_streams(operator.nc, replicas=1) == []


@pytest.mark.parametrize("name", [*READERS, embedded.REMOTE_WORKER])
async def test_gateway_projector_and_remote_worker_cannot_publish_to_the_log(user, name):
    operator, attacker = await user("operator"), await user(name)
    before = await end_of_log(operator)
    for subject in (forged(), "events.o.run.x.1.due.step", "events.x", "tasks.step.o.r.1", "dead.x"):
        await attacker.nc.publish(subject, b"{}")
        assert subject in await attacker.refusal()
    assert await grown_by(operator, before) == 0


async def permitted(attacker: User) -> list[str]:
    """All that a user may publish to, by the server's own word, with wildcards filled in."""
    info = strictjson.loads((await attacker.nc.request("$SYS.REQ.USER.INFO", b"", timeout=3)).data)
    patterns = info["data"]["permissions"]["publish"]["allow"]
    named = {
        # the subjects behind the account's mappings, as a client names them
        pattern.replace("log.", "$JS.API.") if pattern.startswith("log.") else pattern
        for pattern in patterns
    }
    return sorted(pattern.replace(".>", ".a.b").replace("*", "a") for pattern in named)


BODIES = (
    b"",
    b"{}",
    b'{"seq": 1}',
    b'{"seq": 1, "next_by_subj": "events.>", "batch": 5}',
    b'{"stream_name": "EVENTS", "config": {"ack_policy": "none", "mem_storage": true}}',
)


@pytest.mark.parametrize("name", READERS)
async def test_no_reply_subject_of_gateway_or_projector_reaches_the_log(user, name):
    """A reply subject is not checked against permissions: whatever answers would write the log. So they are not in
    the log's account, and what they name as a reply subject is one of their own account."""
    operator, attacker, service = await user("operator"), await user(name), await user("command-service")

    async def answer(message):
        await message.respond(b"an answer of the service")

    await service.nc.subscribe("ask.*", queue="commands", cb=answer)
    await service.nc.flush()
    before = await end_of_log(operator)
    targets = [*await permitted(attacker), f"$JS.API.DIRECT.GET.BLOBS.blobs.o.{BLOB}.0", "ask.create_run"]
    for subject in targets:
        for body in BODIES:
            await attacker.nc.publish(subject, body, reply=forged())
    await attacker.nc.flush()
    await settled(attacker)
    assert await grown_by(operator, before) == 0


async def settled(attacker: User) -> None:
    """An answer to a question that was asked last: those before it have been answered too."""
    await EventLog(attacker.nc).state()
    await EventLog(attacker.nc).state()


@pytest.mark.parametrize(
    "subject, body",
    [
        (f"$JS.API.DIRECT.GET.BLOBS.blobs.o.{BLOB}.0", b""),
        ("$JS.API.STREAM.INFO.EVENTS", b""),
        ("$JS.API.CONSUMER.CREATE.EVENTS", BODIES[-1]),
    ],
)
async def test_in_the_account_of_the_log_a_reply_subject_does_write_it(user, subject, body):
    """The attack works where nothing stops it: so the test before this one shows something."""
    operator = await user("operator")
    before = await end_of_log(operator)
    await operator.nc.publish(subject, body, reply=forged())
    await operator.nc.flush()
    await settled(operator)
    assert await grown_by(operator, before) == 1


async def test_a_worker_writes_runs_and_by_a_reply_subject_anything(user):
    """Known, and told in docs/security.md: the worker appends to the log, and so it is in its account."""
    operator, worker = await user("operator"), await user("worker")
    before = await end_of_log(operator)
    await worker.nc.publish(forged(), b"{}")
    assert "permissions violation" in await worker.refusal()
    assert await grown_by(operator, before) == 0
    before = await end_of_log(operator)
    await worker.nc.publish(f"$JS.API.DIRECT.GET.BLOBS.blobs.o.{BLOB}.0", b"", reply=forged())
    await worker.nc.flush()
    await worker.nc.request(f"$JS.API.DIRECT.GET.BLOBS.blobs.o.{BLOB}.0", b"", timeout=3)
    assert await grown_by(operator, before) == 1


@pytest.mark.parametrize("target, error", [("events.o.token.x.1.log.token", "cycle"), ("commands.o.create_run", None)])
async def test_what_the_projector_can_have_delivered(user, target, error):
    """The projector makes consumers on EVENTS, and a consumer may push to a subject of the log's account. NATS refuses
    one that comes back to EVENTS; copies of decisions can be pushed into COMMANDS, where they are no commands."""
    operator, projector = await user("operator"), await user("projector")
    before = await end_of_log(operator)
    config = {"deliver_subject": target, "ack_policy": "none", "mem_storage": True, "num_replicas": 1}
    body = strictjson.dumps({"stream_name": "EVENTS", "config": config})
    answer = strictjson.loads((await projector.nc.request("$JS.API.CONSUMER.CREATE.EVENTS", body, timeout=3)).data)
    if error is None:
        assert "error" not in answer
        await operator.nc.jetstream().delete_consumer("EVENTS", answer["name"])
    else:
        assert error in answer["error"]["description"]
    assert await grown_by(operator, before) == 0


async def test_orgs_are_made_by_the_operator_only(user):
    gateway = await user("gateway")
    for subject in ("ask.create_org", "commands.o.create_org"):
        await gateway.nc.publish(subject, b"{}")
        assert subject in await gateway.refusal()


@pytest.mark.parametrize("name", [name for name in USERS if name != "projector"])
async def test_only_the_projector_signals(user, name):
    attacker = await user(name)
    await attacker.nc.publish("signals.projected", b'{"position": 9007199254740991, "ended": [], "access": true}')
    assert "permissions violation" in await attacker.refusal()


@pytest.mark.parametrize("name", [name for name in USERS if name != "archiver"])
async def test_only_the_archiver_tells_what_is_proved(user, name):
    attacker = await user(name)
    await attacker.nc.publish("signals.proved", b'{"position": 9007199254740991}')
    assert "permissions violation" in await attacker.refusal()


@pytest.mark.parametrize("name", USERS)
async def test_nobody_listens_to_what_others_are_answered(user, name):
    attacker = await user(name)
    others = [f"_INBOX_{other}.>" for other in (*USERS, "operator") if other != name]
    for subject in [*others, "_INBOX.>", "*.>", "_R_.>", ">", "events.>", "$JS.ACK.>"]:
        await attacker.nc.subscribe(subject)
        assert f'subscription to "{subject.lower()}"' in await attacker.refusal()


@pytest.mark.parametrize("name", ["worker", "gateway", "projector", "archiver", "remote-worker"])
async def test_only_the_command_service_is_asked(user, name):
    attacker = await user(name)
    await attacker.nc.subscribe("ask.*", queue="commands")
    assert "permissions violation" in await attacker.refusal()


async def test_a_remote_worker_is_asked_and_answers_once(user):
    """In the queue group only, so that no request reaches two; and nobody else may pass for one."""
    engine, remote, other = await user("worker"), await user("remote-worker"), await user("remote-worker")
    for attacker, subject, queue in (
        (remote, "steps.remote.a", ""),
        (remote, "steps.>", "workers"),
        (remote, "steps.remote.a", "others"),
        (remote, "steps.announce", ""),
        (await user("gateway"), "steps.remote.a", "workers"),
        (engine, "steps.remote.a", "workers"),
    ):
        await attacker.nc.subscribe(subject, queue=queue)
        assert "permissions violation" in await attacker.refusal()
    asked = []

    async def answer(message):
        asked.append(message)
        await message.respond(b"once")

    for one in (remote, other):
        await one.nc.subscribe("steps.remote.a", queue="workers", cb=answer)
        await one.nc.flush()
    for count in range(1, 11):
        assert (await engine.nc.request("steps.remote.a", b"rows", timeout=5)).data == b"once"
        assert len(asked) == count
    await remote.nc.publish(asked[0].reply, b"twice")
    await other.nc.publish(asked[0].reply, b"twice")
    assert asked[0].reply.lower() in (await remote.refusal()) + (await other.refusal())
    with pytest.raises(nats.errors.NoRespondersError):
        await engine.nc.request("steps.remote.b", b"rows", timeout=5)


async def test_no_reply_subject_of_a_remote_worker_reaches_the_log(user):
    """The engine answers an announcement: in the log's account, that would be an append of a run's history."""
    operator, engine, remote = await user("operator"), await user("worker"), await user("remote-worker")

    async def refuse(message):
        await message.respond(b"an answer of the engine")

    await engine.nc.subscribe("steps.announce", cb=refuse)
    await engine.nc.flush()
    before = await end_of_log(operator)
    run = f"events.o.run.{uuid.uuid4()}.1.due.step"
    for reply in (forged(), run, "tasks.step.o.r.1"):
        await remote.nc.publish("steps.announce", b"{}", reply=reply)
    assert (await remote.nc.request("steps.announce", b"{}", timeout=5)).data == b"an answer of the engine"
    await engine.nc.flush()
    assert await grown_by(operator, before) == 0


@pytest.mark.parametrize("who", ["", "gateway:wrong@", "operator:operator@", "dex:dex@"])
async def test_nobody_gets_in_without_the_password(server, who):
    async def keep_silent(_: Exception) -> None:
        """The refusal is what the test is about."""

    url = f"nats://{who}{embedded.HOST}:{server.nats_port}"
    client = Client()
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        await client.connect(url, allow_reconnect=False, error_cb=keep_silent)
    await client.close()


def test_the_gateway_is_denied_every_command_of_the_platform():
    """A command whose description says that it is the operator's only must not be asked by the gateway's user."""
    text = embedded.NATS_ACCOUNTS.read_text()
    of_the_platform = {name for name, kind in COMMANDS.items() if "operator only" in (kind.__doc__ or "")}
    assert "create_org" in of_the_platform
    for name in of_the_platform:
        assert f'"ask.{name}"' in text
        assert f'"commands.*.{name}"' in text


@pytest.mark.parametrize("name", PROCESSES)
async def test_each_process_answers_for_its_health_to_itself_and_to_the_operator(user, name):
    """`dex health` asks as the process's own user; `dex status` as the operator, from the log's account."""
    process, operator = await user(name), await user("operator")
    await answer_health(process.nc, name)
    await process.nc.flush()
    assert [alive.process for alive in await ask_health(process.nc, 5, process=name, enough=1)] == [name]
    assert [alive.process for alive in await ask_health(operator.nc, 5, process=name, enough=1)] == [name]
    assert [alive.process for alive in await ask_health(operator.nc, 5, enough=1)] == [name]
