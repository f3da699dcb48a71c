"""What somebody left at the edges of the archive is taken away, and nothing with it."""

import pytest

from projections.archive.restore_archive import restore_archive
from tests.projections.archiving import archive_all, whole
from tests.projections.support import World, whole_run
from tests.projections.test_log_check import tamper
from tests.projections.test_log_restore import goes_on

TABLE, HEAD = "data_engine.event_log", "data_engine.event_log_head"
BEYOND = f"""
INSERT INTO {TABLE} (position, recorded_at, subject, body, decision_id, chain)
SELECT position + 5, recorded_at, subject, body, decision_id, chain FROM {TABLE} ORDER BY position DESC LIMIT 1
"""
WRONG_CHAIN = "decode(repeat('11', 32), 'hex')"


@pytest.mark.parametrize("more", [0, 2])
async def test_a_row_that_was_put_in_far_beyond_the_head(world: World, more: int) -> None:
    last = await world.append(whole_run(1), whole_run(2))
    await archive_all(world)
    await tamper(world, BEYOND)
    for number in range(more):
        last = await world.append(whole_run(10 + number))
    done = await restore_archive(world.pool, world.nats)
    assert done is not None
    assert await whole(world) == last
    await goes_on(world)


async def test_a_head_of_nothing_with_a_chain(world: World) -> None:
    epoch = (await world.log.state()).epoch
    await tamper(world, f"INSERT INTO {HEAD} (epoch, position, chain) VALUES ('{epoch}', 0, {WRONG_CHAIN})")
    assert await restore_archive(world.pool, world.nats) is not None
    assert await whole(world) == 0
    await goes_on(world)
