"""`dex log trim` beside an archiver that is behind and another trim, with a wrong clock, and when it is killed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from events.archive import Archive
from events.errors import LogRewoundError, StateConflictError
from events.history import LEASE_S
from events.log import APPEND_WITHIN_S, TRIMMED_TO, TRIMMING
from projections.archive import trim as trimming
from projections.archive.archiver import Archiver
from projections.archive.trim import WAIT_S, trim
from tests.projections.archiving import archive_all
from tests.projections.support import World, whole_run
from tests.projections.test_log_restore import goes_on, messages, old_and_new, sourced
from tests.projections.trimming import api

KEEP_S = 2.0


class Killed(BaseException):
    """Ends a trim where nothing of its own is run any more."""


async def test_what_the_archiver_did_not_come_to_archive_is_not_trimmed(world: World) -> None:
    await world.append(whole_run(1))
    archived = await archive_all(world)
    last = await world.append(whole_run(2))
    await world.project(last)
    await asyncio.sleep(1.2 * KEEP_S)  # they must be of an age
    await sourced(world)
    before = await messages(world)
    with pytest.raises(StateConflictError, match="the archive ends at position"):
        await trim(world.pool, world.nats, KEEP_S, lease_s=0.0)
    assert await messages(world) == before
    assert (await Archive(world.pool).head()).position == archived < last
    await archive_all(world)
    done = await trim(world.pool, world.nats, KEEP_S, lease_s=0.0)
    assert done.first_position == last + 1


class SlowClock(datetime):
    """An operator's clock that is ten seconds behind the server's."""

    @classmethod
    def now(cls, tz: Any = None) -> "SlowClock":
        return super().now(tz) - timedelta(seconds=10)


@pytest.mark.parametrize("own_pool", ["session"], indirect=True)  # 13 s of a server's timers, and no SQL of interest
async def test_no_more_goes_than_was_announced_whatever_the_clock_says_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.append(whole_run(1))
    await asyncio.sleep(11)  # of an age also for the wrong clock
    await old_and_new(world, KEEP_S)
    await sourced(world)
    monkeypatch.setattr(trimming, "datetime", SlowClock)
    await trim(world.pool, world.nats, KEEP_S, lease_s=0.0)
    state = await world.log.state()
    assert 1 < state.first_position <= state.trimmed_to + 1
    await goes_on(world)


async def test_a_trim_announces_no_less_than_another_one_has(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await old_and_new(world, KEEP_S)
    await sourced(world)
    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    metadata = {**config["metadata"], TRIMMED_TO: str(old + 1)}
    await api(world, "STREAM.UPDATE.EVENTS", {**config, "metadata": metadata})
    await trim(world.pool, world.nats, KEEP_S, lease_s=0.0)
    assert (await world.log.state()).trimmed_to == old + 1


async def test_the_limit_of_a_trim_that_was_killed_is_found_before_more_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old_and_new(world, KEEP_S)
    await sourced(world)

    async def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(trimming, "_until_old_ones_are_gone", killed)
    ending = trimming._end_trimming
    calls = iter((ending, killed))
    monkeypatch.setattr(trimming, "_end_trimming", lambda connection: next(calls)(connection))
    with pytest.raises(Killed):
        await trim(world.pool, world.nats, KEEP_S, lease_s=0.0)
    assert not (await world.log.state()).faults  # it may be at work still

    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    until = datetime.fromisoformat(config["metadata"][TRIMMING])
    assert until - datetime.now(UTC) < timedelta(seconds=min(trimming.MARGIN_S, 2 * trimming.TRIM_WITHIN_S))
    past = {**config["metadata"], TRIMMING: datetime.now(UTC).isoformat()}
    await api(world, "STREAM.UPDATE.EVENTS", {**config, "metadata": past, "max_age": 3600 * 10**9})
    with pytest.raises(LogRewoundError, match=r"dex log trim. was killed and left it there; run it again"):
        await asyncio.wait_for(Archiver(world.pool, world.nats).run(asyncio.Event()), 20)

    monkeypatch.undo()
    await trim(world.pool, world.nats, 3600, lease_s=0.0)
    await goes_on(world)


def test_a_trim_waits_for_appends_that_began_before_it_was_announced() -> None:
    assert WAIT_S > LEASE_S + APPEND_WITHIN_S
