"""Checkpoints go outside: to a file that grows, to a real receiver, and never to an internal address by surprise."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from events import outbound
from events.audit.checkpoint import SignedCheckpoint
from events.errors import ConfigurationError, UnavailableError
from events.outbound import Outbound, is_internal
from events.settings import Settings
from projections.archive import pushing
from projections.archive.pushing import FileTarget, Pusher, UrlTarget, targets_of
from projections.archive.trees import TreeBuilder
from tests.audit.archive import fill
from tests.audit.support import KEY, ORG, OTHER_ORG, SECRET, entry
from tests.audit.test_trees import both, build, builder


class Receiver:
    """Answers with the statuses it is given, then with 200; what it was sent, it keeps."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length"))
        body = await reader.readexactly(int(length.partition(":")[2]))
        self.requests.put_nowait((head, orjson.loads(body)))
        status = self.statuses.pop(0) if self.statuses else 200
        extra = "Location: /elsewhere\r\n" if status == 302 else ""
        writer.write(f"HTTP/1.1 {status} x\r\n{extra}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(*statuses)
    server = await asyncio.start_server(receiver, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


def settings(**fields: Any) -> Settings:
    return Settings(_env_file=None, **{"audit_key": SecretStr(SECRET), **fields})


def sizes(notes: list[str]) -> dict[str, int]:
    found = [SignedCheckpoint.parse(note) for note in notes]
    for signed in found:
        signed.check(KEY.verifier())
    return {signed.checkpoint.org_id: signed.checkpoint.size for signed in found}


async def test_a_file_gets_what_is_new(empty: asyncpg.Pool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints"
    await fill(empty, both(9))
    await build(empty)
    pusher = Pusher(empty, FileTarget(path), 60)
    assert await pusher.push() == 2
    assert await pusher.push() == 0
    await fill(empty, [entry(10, OTHER_ORG)])
    await build(empty)
    assert await pusher.push() == 1
    notes = [orjson.loads(line)["checkpoint"] for line in path.read_text().splitlines()]
    assert sizes(notes[:2]) == {ORG: 6, OTHER_ORG: 3}
    assert sizes(notes[2:]) == {OTHER_ORG: 4}


async def test_a_receiver_gets_them_and_is_asked_again_when_it_fails(
    empty: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "BACKOFF_S", (0.0,))
    await fill(empty, both(9))
    await build(empty)
    async with receiving(500, 302, 403) as receiver:
        target = UrlTarget(f"http://localhost:{receiver.port}/hook?key=1", allow_internal=True)
        stop = asyncio.Event()
        task = asyncio.create_task(Pusher(empty, target, 3600).run(stop))
        found = [await asyncio.wait_for(receiver.requests.get(), 20) for _ in range(4)]
        stop.set()
        await asyncio.wait_for(task, 20)
    assert receiver.requests.empty()
    for head, body in found:
        assert head.startswith("POST /hook?key=1 HTTP/1.1")
        assert f"host: localhost:{receiver.port}" in head.lower()
        assert sizes(body["checkpoints"]) == {ORG: 6, OTHER_ORG: 3}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "0.0.0.0",
                                  "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "[64:ff9b::a00:1]"])  # fmt: skip
async def test_nothing_is_sent_to_an_internal_address(host: str) -> None:
    async with receiving() as receiver:
        with pytest.raises(UnavailableError, match=r"internal address|is not known"):
            await Outbound(f"http://{host}:{receiver.port}/").post(b"{}")
    assert receiver.requests.empty()


async def test_internal_where_it_is_wanted_also_by_ipv6() -> None:
    receiver = Receiver()
    try:
        server = await asyncio.start_server(receiver, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = server.sockets[0].getsockname()[1]
    async with server:
        await Outbound(f"http://[::1]:{port}/", allow_internal=True).post(b"{}")
    assert (await receiver.requests.get())[1] == {}


async def test_nobody_there_is_said_without_the_url() -> None:
    with pytest.raises(UnavailableError) as caught:
        await Outbound("http://127.0.0.1:1/secret", allow_internal=True).post(b"{}")
    assert "secret" not in str(caught.value)
    with pytest.raises(UnavailableError, match="not known"):
        await Outbound("http://no-such-host.invalid/").post(b"{}")


@pytest.mark.parametrize(
    ("address", "internal"),
    [("8.8.8.8", False), ("2606:4700::1111", False), ("192.168.1.1", True), ("100.64.0.1", True), ("224.0.0.1", True),
     ("fe80::1%eth0", True), ("ff02::1", True), ("fc00::1", True), ("2002:7f00:1::", True), ("::ffff:8.8.8.8", False)],
)  # fmt: skip
def test_internal_addresses(address: str, internal: bool) -> None:
    assert is_internal(address) == internal


@pytest.mark.parametrize("first_bytes", ["HTTP/1.1 200 x\r\n\r\n", "HTTP/1.1 200 x\r\n"], ids=["body", "headers"])
async def test_an_answer_without_an_end_holds_up_nobody(first_bytes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "WITHIN_S", 1.0)
    gone = asyncio.Event()

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(first_bytes.encode())
            while True:
                writer.write(b"X-Header: x\r\n" * 10)
                await writer.drain()
                await asyncio.sleep(0.01)  # a byte now and then, for ever: no single wait is long
        except OSError:
            gone.set()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    async with server:
        sending = Outbound(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", allow_internal=True).post(b"{}")
        if first_bytes.endswith("\r\n\r\n"):
            await asyncio.wait_for(sending, 20)  # it was said that they are kept; of the rest nothing is read
        else:
            with pytest.raises(UnavailableError, match="does not answer"):
                await asyncio.wait_for(sending, 20)
        await asyncio.wait_for(gone.wait(), 20)


class Growing:
    """A target beside which the history goes on growing."""

    name = "growing"

    def __init__(self, pool: asyncpg.Pool, position: int) -> None:
        self.pool, self.position, self.sent = pool, position, list[str]()
        self.grown = asyncio.Event()

    async def send(self, notes: Sequence[str]) -> None:
        self.sent += notes
        self.position += 1
        await fill(self.pool, [entry(self.position)])
        await build(self.pool)
        self.grown.set()


async def test_of_a_history_that_grows_all_the_time_the_latest_is_sent_once_an_interval(empty: asyncpg.Pool) -> None:
    await fill(empty, both(9))
    await build(empty)
    target, stop = Growing(empty, 9), asyncio.Event()
    task = asyncio.create_task(Pusher(empty, target, 3600).run(stop))
    await asyncio.wait_for(target.grown.wait(), 20)
    stop.set()
    await asyncio.wait_for(task, 20)
    assert sizes(target.sent) == {ORG: 6, OTHER_ORG: 3}


async def test_more_than_are_sent_at_once(empty: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "AT_ONCE", 1)
    await fill(empty, both(9))
    await build(empty)
    target = Growing(empty, 9)
    assert await asyncio.wait_for(Pusher(empty, target, 3600).push(), 20) == 2
    assert sizes(target.sent) == {ORG: 6, OTHER_ORG: 3}


async def test_what_is_signed_later_than_what_came_after_it_is_sent_too(
    empty: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints"
    await fill(empty, both(9))
    while await TreeBuilder(empty, None).step():
        continue
    await fill(empty, [entry(10, OTHER_ORG)])
    later = builder(empty)
    assert await later.step() == 1  # ORG's has no signature yet, and ends before OTHER_ORG's
    pusher = Pusher(empty, FileTarget(path), 60)
    assert await pusher.push() == 1
    assert await later.step() == 0  # nothing was added: what is not signed is
    assert await pusher.push() == 2
    assert await pusher.push() == 0
    assert sizes([orjson.loads(line)["checkpoint"] for line in path.read_text().splitlines()]) == {ORG: 6, OTHER_ORG: 4}


async def test_a_full_disk_loses_nothing_and_breaks_no_line() -> None:
    with pytest.raises(UnavailableError, match="cannot be written"):
        await FileTarget(Path("/dev/full")).send(["x"])


async def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be written"):
        await FileTarget(tmp_path).send(["x"])


def test_targets_as_they_are_set(tmp_path: Path) -> None:
    assert targets_of(settings()) == []
    both_ = settings(audit_push_file=tmp_path / "x", audit_push_url=SecretStr("https://witness.example/"))
    assert [target.name for target in targets_of(both_)] == ["file", "url"]
    with pytest.raises(ConfigurationError, match="http"):
        targets_of(settings(audit_push_url=SecretStr("ftp://x")))
    with pytest.raises(ConfigurationError, match="DATA_ENGINE_AUDIT_KEY"):
        targets_of(settings(audit_key=None, audit_push_file=tmp_path / "x"))
