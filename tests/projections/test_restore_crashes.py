"""`dex log restore` killed at each of its requests to NATS: the next one finishes what it began."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from nats.aio.client import Client

from cli.embedded import EmbeddedConfig
from events.archive import Archive
from events.connection import connect
from events.log import EventLog
from events.settings import Settings
from projections.archive.check import check
from projections.archive.restore_archive import restore_archive
from projections.archive.restore_log import restore_log
from projections.archive.stream import ask
from projections.database import create_pool
from tests.projections.archiving import archive_all
from tests.projections.conftest import EMPTY_ARCHIVE, TRUNCATE
from tests.projections.support import ORG, World, an_id, make_log_anew, whole_run
from tests.projections.test_log_check import tamper
from tests.projections.test_log_restore import CONFIG, archived_world, goes_on, messages
from tests.projections.trimming import api

PATIENCE_S = 60


class KilledError(Exception):
    """The process is gone: this request was not sent, or its answer was not seen, and none is sent after it."""


class Mortal:
    """A connection whose process dies at its n-th request: before the odd ones are sent, after the even ones were."""

    def __init__(self, connection: Client, dies_at: int) -> None:
        self._connection = connection
        self._dies_at = dies_at
        self._asked = 0
        self._in_flight: list[asyncio.Future[Any]] = []
        self.alive = True
        self._request, self._publish = connection.request, connection.publish
        connection.request = self.request  # type: ignore[method-assign]
        connection.publish = self.publish  # type: ignore[method-assign]

    async def request(self, *given: Any, **named: Any) -> Any:
        return await self._sent(self._request, *given, **named)

    async def publish(self, *given: Any, **named: Any) -> Any:
        return await self._sent(self._publish, *given, **named)

    async def _sent(self, send: Any, *given: Any, **named: Any) -> Any:
        self._asked += self.alive
        dies = self._asked == self._dies_at
        if not self.alive or (dies and self._dies_at % 2):
            self.alive = False
            raise KilledError
        answer = await send(*given, **named)
        if dies:
            self.alive = False
            self._in_flight = list(self._connection._resp_map.values())
            raise KilledError
        return answer

    async def settled(self) -> None:
        """Wait until the server has done what it was asked last: a moment later it would do it to the next one's."""
        if self._in_flight:
            done, _ = await asyncio.wait(self._in_flight, timeout=PATIENCE_S)
            assert done


@pytest.fixture
async def world(own_servers: EmbeddedConfig, own_connection: Client) -> AsyncIterator[World]:
    """One way of pooling only: it is the requests to NATS that matter here."""
    settings = Settings(_env_file=None, nats_url=own_servers.nats_url, database_url=own_servers.database_url)
    async with await create_pool(settings) as pool:
        made = World(settings, own_connection, pool, EventLog(own_connection))
        await empty(made)
        yield made


async def empty(world: World) -> None:
    """No log, no archive, no read models, no dead letters."""
    await make_log_anew(world.nats)
    await world.pool.execute(f"TRUNCATE {TRUNCATE}")
    await world.pool.execute(EMPTY_ARCHIVE)
    await api(world, "STREAM.PURGE.DEAD_LETTERS")


async def left_letters(world: World) -> set[int]:
    """The numbers of the decisions that are in DEAD_LETTERS; one that was kept twice counts once."""
    found, after = set(), 0
    while True:
        following = {"seq": after + 1, "next_by_subj": ">"}
        message = (await ask(world.nats, "STREAM.MSG.GET.DEAD_LETTERS", following)).get("message")
        if message is None:
            return found
        after = message["seq"]
        found.add(UUID(json.loads(base64.b64decode(message["data"]))["id"]).int)


@pytest.fixture
async def mortal_connection(own_servers: EmbeddedConfig) -> AsyncIterator[Any]:
    """Connections that are closed at the end."""
    made: list[Client] = []

    async def connected() -> Client:
        made.append(await connect([own_servers.nats_url], "tests"))
        return made[-1]

    yield connected
    for connection in made:
        del connection.request, connection.publish  # as it was before Mortal
        await connection.close()


async def rewound_world(world: World) -> tuple[list[tuple[int, str, bytes]], int, int]:
    """An older copy of the log, written again: what the archive has, and how many decisions only the log has that can
    be appended, and that cannot."""
    before = await archived_world(world, runs=2)
    epoch = (await world.log.state()).epoch
    await make_log_anew(world.nats)
    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    metadata = {**config["metadata"], "data_engine.epoch": epoch}
    await api(world, "STREAM.UPDATE.EVENTS", config | {"metadata": metadata})
    await world.append(whole_run(1))  # the older copy ends here
    rival = [replace(r.decision, decision_id=an_id(500 + n)) for n, r in enumerate(whole_run(2).recorded)]
    later = [replace(r.decision, decision_id=an_id(600 + n)) for n, r in enumerate(whole_run(9).recorded)]
    for decision in (*rival, *later):
        await world.log.append(decision)
    return before, len(later), len(rival)


@pytest.mark.parametrize("first", range(1, 5))
async def test_a_restoration_that_is_killed_is_finished_by_the_next_one(world, mortal_connection, first):
    """Every fourth request, from `first` on, until there are no more."""
    for dies_at in range(first, 1000, 4):
        before, appendable, rivals = await rewound_world(world)
        connection = await mortal_connection()
        process = Mortal(connection, dies_at)
        try:
            await restore_log(world.pool, connection, CONFIG)
        except KilledError:
            await process.settled()
            await restore_log(world.pool, world.nats, CONFIG)
        assert (await messages(world))[: len(before)] == before, dies_at
        history = await world.log.history(ORG, "run", an_id(9))
        assert [recorded.decision.version for recorded in history] == list(range(1, appendable + 1)), dies_at
        assert await left_letters(world) == set(range(500, 500 + rivals)), dies_at
        assert (await check(world.pool, world.nats)).ok
        if process.alive:  # there is no such request
            assert dies_at > 40
            break
        await empty(world)
    await goes_on(world)


@pytest.mark.parametrize("first", range(1, 5))
async def test_a_restoration_of_the_archive_that_is_killed_is_finished_by_the_next_one(world, mortal_connection, first):
    """Two rows altered; the bytes that were there are kept, at least once."""
    for dies_at in range(first, 1000, 4):
        before = await archived_world(world, runs=2)
        await tamper(world, "UPDATE data_engine.event_log SET body = body || 'x' WHERE position IN (2, 3)")
        connection = await mortal_connection()
        process = Mortal(connection, dies_at)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await restore_archive(world.pool, connection)
        except KilledError:
            await process.settled()
            await restore_archive(world.pool, world.nats)
        await archive_all(world)  # the archiver goes on from wherever the head is
        assert [(m.position, m.subject, m.body) for m in await Archive(world.pool).read(0)] == before, dies_at
        assert (await check(world.pool, world.nats)).ok
        letters = await api(world, "STREAM.INFO.DEAD_LETTERS", {"subjects_filter": "dead.archive.>"})
        assert set(letters["state"]["subjects"]) == {"dead.archive.2", "dead.archive.3"}, dies_at
        if process.alive:  # there is no such request
            assert dies_at > 5
            break
        await empty(world)
    await goes_on(world)
