"""Whether a log is the one that was followed: every way in which it can differ has its sentence."""

import asyncio

import pytest

from events.errors import LogRewoundError
from events.log import LogState
from events.mapper import decision_id_of
from migrations.streams import migrate_streams
from projections.checkpoints import Checkpoint
from projections.log_guard import LogGuard, fault_of
from projections.rebuild import rebuild
from tests.projections.archiving import archive_all
from tests.projections.support import make_log_anew, whole_run
from tests.projections.trimming import api, trim_to


@pytest.mark.parametrize(
    ("state", "found_id", "checkpoint", "fault"),
    [
        (LogState("e", 1, 9), "d", Checkpoint("p", 9, "e", "d"), None),
        (LogState("e", 1, 9), "d", Checkpoint("p", 5, "e", "d"), None),
        (LogState("e", 0, 0), "", Checkpoint("p"), None),
        (LogState("e", 1, 9), "", Checkpoint("p"), None),
        (LogState("e", 6, 9), "", Checkpoint("p", 5, "e", "d"), "lost its beginning"),
        (LogState("e", 6, 9, trimmed_to=7), "", Checkpoint("p", 5, "e", "d"), None),
        (LogState("f", 1, 9), "d", Checkpoint("p", 5, "e", "d"), "made anew"),
        (LogState("f", 1, 9), "", Checkpoint("p"), None),
        (LogState("e", 1, 9), "", Checkpoint("p", 10, "e", "d"), "cut"),
        (LogState("e", 1, 0), "", Checkpoint("p", 1, "e", "d"), "cut"),
        (LogState("e", 7, 9), "", Checkpoint("p", 5, "e", "d"), "lost its beginning"),
        (LogState("e", 2, 9), "", Checkpoint("p"), "lost its beginning"),
        (LogState("e", 5, 9, trimmed_to=4), "", Checkpoint("p"), None),
        (LogState("e", 5, 9, trimmed_to=4), "", Checkpoint("p", 2, "e", "d"), None),
        (LogState("e", 6, 9, trimmed_to=4), "", Checkpoint("p"), "lost its beginning"),
        (LogState("e", 1, 9), "x", Checkpoint("p", 5, "e", "d"), "rewound"),
        (LogState("e", 1, 9), "", Checkpoint("p", 5, "e", "d"), "rewound"),
    ],
)
def test_what_differs_is_named(state, found_id, checkpoint, fault):
    found = fault_of(state, found_id, checkpoint)
    assert found is None if fault is None else fault in found


def test_every_message_has_an_id():
    assert decision_id_of(b'{"id":"d"}') == "d"
    for body in (b"", b"\xff", b"[]", b"{}", b"null", b'"id"'):
        assert decision_id_of(body).startswith("sha256:")


async def test_the_real_log_is_verified(world):
    position = await world.append(whole_run(1))
    guard = LogGuard(world.nats)
    state = await guard.state()
    good = Checkpoint("p", position, state.epoch, await guard.decision_id_at(position))
    assert await guard.verify([good, Checkpoint("q")]) == state
    assert await guard.decision_id_at(position + 1) == ""
    await make_log_anew(world.nats)
    with pytest.raises(LogRewoundError, match=r"made anew.*dex rebuild --accept-log"):
        await guard.verify([good])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_msgs": 100}, "max_msgs is 100"),
        ({"max_age": 10**12}, "max_age is 1000000000000"),
        ({"discard": "old", "discard_new_per_subject": False}, "discard is 'old'"),
        ({"max_msgs_per_subject": 2}, "max_msgs_per_subject is 2"),
        ({"subjects": ["events.>", "other.>"]}, "subjects is"),
    ],
)
async def test_a_reconfigured_stream_is_named(world, change, named):
    await world.append(whole_run(1))
    guard = LogGuard(world.nats)
    before = await guard.verify([])
    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    await api(world, "STREAM.UPDATE.EVENTS", config | change)
    with pytest.raises(LogRewoundError, match=named):
        await guard.verify([])
    await api(world, "STREAM.UPDATE.EVENTS", config)
    assert await guard.verify([]) == before


async def test_a_log_from_before_epochs_is_named_by_when_it_was_made(world):
    """So the checkpoints that follow it hold, without a rebuild."""
    position = await world.append(whole_run(1))
    config = (await api(world, "STREAM.INFO.EVENTS"))["config"]
    await api(world, "STREAM.UPDATE.EVENTS", config | {"metadata": {}})
    await world.project(position)
    old = await LogGuard(world.nats).state()
    assert old.epoch == old.created
    await migrate_streams(world.nats, replicas=1)
    assert await LogGuard(world.nats).state() == old
    position = await world.append(whole_run(2))
    await world.project(position)
    assert (await api(world, "STREAM.INFO.EVENTS"))["config"]["metadata"]["data_engine.epoch"] == old.created


async def test_a_trimmed_log_is_projected_and_rebuilt_from_its_archive(world):
    last = await world.append(*(whole_run(number) for number in range(1, 8)))
    await archive_all(world)
    await world.project(last)
    expected = await world.everything()
    for cut in (3, last):
        await trim_to(world, cut)
        results = await rebuild(world.pool, world.nats)
        assert all(result.identical and result.compared for result in results)
        assert await world.everything() == expected
    await world.pool.execute("UPDATE data_engine.projection_checkpoints SET position = 0, epoch = '', decision_id = ''")
    await world.project(last)
    assert await world.everything() == expected
    last = await world.append(whole_run(9))
    await world.project(last)
    assert len(await world.rows("runs_v2")) == 8


async def test_a_trimmed_log_without_its_archive_is_not_projected(world):
    last = await world.append(*(whole_run(number) for number in range(1, 4)))
    await trim_to(world, last - 1)
    with pytest.raises(LogRewoundError, match="the archive ends at 0"):
        await asyncio.wait_for(world.projector().run(asyncio.Event()), 20)
