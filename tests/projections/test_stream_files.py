"""Somebody alters the files of the stream EVENTS while nats-server is away: it is found, located, and mended."""

import asyncio
import signal
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from cli import embedded
from cli.embedded import EmbeddedConfig
from cli.supervisor import Supervisor
from events import subjects
from events.connection import connect
from events.errors import LogRewoundError
from events.log import EventLog
from events.settings import Settings
from migrations.streams import definitions, migrate_streams
from projections.archive.archiver import Archiver
from projections.archive.check import check
from projections.archive.restore_log import restore_log
from projections.database import create_pool
from tests.projections.archiving import archive_all
from tests.projections.conftest import EMPTY_ARCHIVE, TRUNCATE
from tests.projections.support import World, whole_run

CONFIG = definitions(1)[subjects.EVENTS]
LAST, MIDDLE = 10, 5
_HEAD = struct.Struct("<IQqH")  # nats-server's record: length, sequence, time, length of the subject
_CHECKSUM_BYTES = 8


class Block:
    """The stream's one block of messages, as bytes that can be altered."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.begins: dict[int, int] = {}
        self.contents: dict[int, slice] = {}
        at = 0
        while at < len(data):
            marked, position, _, subject_length = _HEAD.unpack_from(data, at)
            length = marked & 0x7FFF_FFFF  # the first bit says that it has headers
            self.begins[position] = at
            self.contents[position] = slice(at + _HEAD.size + subject_length, at + length - _CHECKSUM_BYTES)
            at += length

    def flip(self, at: int) -> None:
        self.data[at] ^= 1


def flip_in_content(block: Block, position: int = MIDDLE) -> None:
    block.flip(block.contents[position].start + 30)


def flip_in_subject(block: Block) -> None:
    block.flip(block.begins[MIDDLE] + _HEAD.size + 45)


def blank(block: Block) -> None:
    content = block.contents[MIDDLE]
    block.data[content] = bytes(content.stop - content.start)


def renumber(block: Block) -> None:
    struct.pack_into("<Q", block.data, block.begins[MIDDLE] + 4, 99)


def lengthen(block: Block) -> None:
    struct.pack_into("<I", block.data, block.begins[MIDDLE], 0x7FFF_FFFF)


def flip_in_last(block: Block) -> None:
    flip_in_content(block, LAST)


def cut_last(block: Block) -> None:
    del block.data[block.begins[LAST] :]


def cut_within_last(block: Block) -> None:
    del block.data[block.contents[LAST].start + 5 :]


def remove_middle(block: Block) -> None:
    del block.data[block.begins[MIDDLE] : block.begins[MIDDLE + 1]]


def swap(block: Block) -> None:
    """Two whole records change places; each keeps its own checksum."""
    first, second, third = (block.begins[position] for position in (MIDDLE, MIDDLE + 1, MIDDLE + 2))
    block.data[first:third] = block.data[second:third] + block.data[first:second]


def empty(block: Block) -> None:
    block.data.clear()


class Server:
    """A nats-server of a test's own, which can be stopped, tampered with, and started again."""

    def __init__(self, home: Path, pool: asyncpg.Pool, database_url: str) -> None:
        self._home = home
        self._pool = pool
        self._database_url = database_url
        self._config: EmbeddedConfig = embedded.prepare(home)

    async def start(self, stop_signal: signal.Signals) -> World:
        self._supervisor = Supervisor(self._home / "run" / "state.json", lambda _name, _what: None)
        await self._supervisor.start(replace(embedded.nats_spec(self._home, self._config), stop_signal=stop_signal))
        self._connection = await connect([self._config.nats_url], "tests")
        await migrate_streams(self._connection, replicas=1)
        settings = Settings(_env_file=None, nats_url=self._config.nats_url, database_url=self._database_url)
        return World(settings, self._connection, self._pool, EventLog(self._connection))

    async def stop(self) -> None:
        await self._connection.close()
        await self._supervisor.stop()

    def tamper(self, damage: Callable[[Block], None]) -> None:
        (path,) = self._home.glob("nats/jetstream/**/streams/EVENTS/msgs/*.blk")
        block = Block(path.read_bytes())
        assert list(block.begins) == list(range(1, LAST + 1))
        damage(block)
        path.write_bytes(block.data)


@pytest.fixture
async def pool(own_servers: EmbeddedConfig) -> AsyncIterator[asyncpg.Pool]:
    """One only, and not one for each way of pooling: it is the log's files that matter here."""
    async with await create_pool(Settings(_env_file=None, database_url=own_servers.database_url)) as pool:
        yield pool


@pytest.fixture
async def server(own_servers: EmbeddedConfig, pool: asyncpg.Pool, tmp_path: Path) -> AsyncIterator[Server]:
    await pool.execute(f"DROP SCHEMA IF EXISTS data_engine_rebuild CASCADE; TRUNCATE {TRUNCATE}")
    await pool.execute(EMPTY_ARCHIVE)
    folder = embedded.DataFolder(tmp_path)
    server = Server(tmp_path, pool, own_servers.database_url)
    yield server
    await server.stop()
    folder.close()


# What the server makes of it differs: stopped in order, it left an index and believes it; killed, it reads the records.
STOPPED, KILLED = signal.SIGTERM, signal.SIGKILL


@pytest.mark.parametrize(
    ("damage", "position", "stopped_by"),
    [
        (flip_in_content, MIDDLE, STOPPED), (flip_in_subject, MIDDLE, STOPPED), (blank, MIDDLE, STOPPED),
        (renumber, MIDDLE, STOPPED), (lengthen, MIDDLE, STOPPED), (remove_middle, MIDDLE, STOPPED),
        (swap, MIDDLE, STOPPED), (flip_in_last, LAST, STOPPED), (cut_last, LAST, STOPPED), (empty, 1, STOPPED),
        (flip_in_content, MIDDLE, KILLED), (swap, MIDDLE, KILLED), (cut_within_last, LAST, KILLED), (empty, 1, KILLED),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)  # fmt: skip
async def test_what_is_done_to_the_streams_files_is_located_and_mended(
    server: Server, damage: Callable[[Block], None], position: int, stopped_by: signal.Signals
) -> None:
    world = await server.start(stopped_by)
    assert await world.append(*(whole_run(number) for number in range(1, 6))) == LAST
    assert await archive_all(world) == LAST
    await world.project(LAST)
    await server.stop()
    server.tamper(damage)
    world = await server.start(STOPPED)

    found = await check(world.pool, world.nats)
    assert found.of_archive() == []
    assert min(fault.position for fault in found.of_log()) == position
    assert await restore_log(world.pool, world.nats, CONFIG) is not None
    assert (await check(world.pool, world.nats)).ok

    last = await world.append(whole_run(77))
    await archive_all(world)
    await world.project(last)


@pytest.mark.parametrize("damage", [flip_in_last, empty])
async def test_a_follower_does_not_wait_for_ever_for_what_cannot_be_read(
    server: Server, damage: Callable[[Block], None]
) -> None:
    world = await server.start(STOPPED)
    assert await world.append(*(whole_run(number) for number in range(1, 6))) == LAST
    await server.stop()
    server.tamper(damage)
    world = await server.start(STOPPED)
    for follower in (world.projector(), Archiver(world.pool, world.nats)):
        with pytest.raises(LogRewoundError, match=r"hole|lost its beginning"):
            await asyncio.wait_for(follower.run(asyncio.Event()), 20)
