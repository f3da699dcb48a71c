"""Hot log and archive as one history, on real servers: no seam, no gap, no double; and no version is taken twice."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from events.archive import ERASURES, Archive
from events.errors import IdempotencyError, UnavailableError, VersionConflictError
from events.history import COMPARE_AGAIN_S, LEASE_S, LOOK_AGAIN_S, WholeLog
from events.subjects import ERASED_ROUTING, Address
from tests.projections.archiving import archive_all
from tests.projections.support import ORG, History, World, an_id, make_log_anew, whole_run
from tests.projections.trimming import put_back_an_older_copy, trim_to


def whole_log(world: World, *, compares: bool = False, now_s: Callable[[], float] = time.monotonic) -> WholeLog:
    async def open_archive(_org_id: str) -> Archive:
        return Archive(world.pool)

    return WholeLog(world.nats, open_archive, compares=compares, now_s=now_s)


async def recorded(world: World, runs: int) -> list:
    """So many runs in the log and in the archive; all decisions."""
    await world.append(*(whole_run(number) for number in range(1, runs + 1)))
    await archive_all(world)
    return [r async for r in world.log.read(0)]


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5, 6])
async def test_wherever_the_hot_log_begins_the_history_is_the_same(world, cut):
    decisions = await recorded(world, 3)
    await trim_to(world, cut)
    assert (await world.log.state()).first_position == cut + 1
    log = whole_log(world)
    for after in range(len(decisions) + 1):
        assert [r async for r in log.read(after)] == decisions[after:]
        assert [r async for r in log.read(after, f"events.{ORG}.>", 4)] == decisions[after:][:4]
    assert [r async for r in log.read(0, f"events.{an_id(77)}.>")] == []
    for number in (1, 2, 3):
        own = [r for r in decisions if r.decision.aggregate_id == an_id(number)]
        assert await log.history(ORG, "run", an_id(number)) == own
        assert await log.holder(ORG, "run", an_id(number), 1) == own[0]
    assert await log.history(ORG, "run", an_id(99)) == []
    last = await world.append(whole_run(4))
    assert [r.position async for r in log.read(0)] == list(range(1, last + 1))


async def test_a_version_that_was_trimmed_is_still_held(world):
    """The stream alone would take it again: its version check sees only what it has."""
    decisions = await recorded(world, 2)
    await trim_to(world, decisions[-1].position)
    log = whole_log(world)
    for held in decisions:
        assert (await log.append(held.decision)).position == held.position  # the same command again: the same answer
        with pytest.raises(IdempotencyError):
            await log.append(replace(held.decision, digest="of another body"))
        with pytest.raises(VersionConflictError):
            await log.append(replace(held.decision, decision_id=an_id(999)))
    assert (await world.log.state()).last_position == decisions[-1].position
    following = replace(decisions[-1].decision, version=decisions[-1].decision.version + 1, decision_id=an_id(998))
    assert (await log.append(following)).position == decisions[-1].position + 1
    assert (await log.append(following)).repeated
    naive = await world.log.append(decisions[0].decision)  # what would happen without the archive
    assert not naive.repeated


async def test_without_the_archive_a_trimmed_log_does_not_answer_wrongly(world):
    decisions = await recorded(world, 1)
    await trim_to(world, 1)
    log = WholeLog(world.nats)
    with pytest.raises(UnavailableError, match="database URL"):
        await log.history(ORG, "run", an_id(1))
    with pytest.raises(UnavailableError, match="database URL"):
        await log.append(decisions[0].decision)


async def test_a_trim_is_noticed_when_the_lease_has_run_out(world):
    decisions = await recorded(world, 2)
    now_s = [0.0]
    log = whole_log(world, now_s=lambda: now_s[0])
    assert await log.trimmed_to() == 0
    await trim_to(world, 3)
    assert await log.trimmed_to() == 0
    now_s[0] = 5.1
    assert await log.trimmed_to() == 3
    assert [r async for r in log.read(0)] == decisions


async def refused(log: WholeLog, why: str) -> None:
    with pytest.raises(UnavailableError, match=why) as raised:
        await log.append(whole_run(9).recorded[0].decision)
    assert raised.value.code == "log_rewound"


async def test_one_who_begins_on_an_older_copy_knows_it_by_the_archive(world):
    """All were down while it was put back: nobody has seen the log as it was."""
    decisions = await recorded(world, 2)
    last = decisions[-1].position
    same = whole_log(world, compares=True)
    assert await same.trimmed_to() == 0
    await put_back_an_older_copy(world, last - 1)
    log = whole_log(world, compares=True)
    await refused(log, f"it had positions up to {last}, and ends at {last - 1}")
    with pytest.raises(UnavailableError):
        await log.history(ORG, "run", an_id(1))
    rival = replace(decisions[-1].decision, decision_id=an_id(999))
    assert (await world.log.append(rival)).position == last  # by somebody who does not look
    await refused(whole_log(world, compares=True), f"rewound and written again: at position {last}")
    await make_log_anew(world.nats)
    await refused(whole_log(world, compares=True), "made anew")


async def test_one_who_was_refused_goes_on_when_the_log_is_restored(world):
    decisions = await recorded(world, 2)
    await put_back_an_older_copy(world, 2)
    now_s = [0.0]
    log = whole_log(world, compares=True, now_s=lambda: now_s[0])
    await refused(log, "The log was cut")
    for missing in decisions[2:]:
        await world.log.append(missing.decision)
    now_s[0] += LOOK_AGAIN_S
    assert (await log.append(whole_run(9).recorded[0].decision)).position == decisions[-1].position + 1


async def test_the_log_goes_on_without_an_archive_that_does_not_answer_and_is_compared_later(world):
    decisions = await recorded(world, 3)
    await put_back_an_older_copy(world, 2)
    now_s, answers = [0.0], [False]

    async def open_archive(_org_id: str) -> Archive:
        if not answers[0]:
            raise UnavailableError("Postgres does not answer.")
        return Archive(world.pool)

    log = WholeLog(world.nats, open_archive, compares=True, now_s=lambda: now_s[0])
    assert (await log.append(decisions[2].decision)).position == 3
    answers[0] = True
    now_s[0] = COMPARE_AGAIN_S - 0.1
    assert (await log.append(decisions[3].decision)).position == 4
    now_s[0] = COMPARE_AGAIN_S + LEASE_S
    await refused(log, "The log was cut")


async def test_one_who_begins_on_a_trimmed_log_or_before_an_archive_is_not_refused(world):
    first = whole_log(world, compares=True)
    decisions = [r.decision for number in (1, 2) for r in whole_run(number).recorded]
    for decision in decisions[:3]:
        await first.append(decision)
    await archive_all(world)
    for decision in decisions[3:]:
        await first.append(decision)
    await trim_to(world, 3)
    assert [r.decision async for r in whole_log(world, compares=True).read(0)] == decisions
    assert (await whole_log(world, compares=True).append(decisions[0])).repeated


async def test_erasures_are_found_where_they_were_trimmed(world):
    history = History()
    companies = [an_id(number) for number in (1, 2)]
    for company_id in companies:
        history.decide("company", company_id, routing="log.company")
        history.decide("run", company_id, routing="log.erased")  # of no company
        history.decide("company", company_id, routing=ERASED_ROUTING)
    last = await world.append(history)
    await archive_all(world)
    for cut, expected in ((0, []), (2, []), (3, companies[:1]), (last - 1, companies[:1]), (last, companies)):
        await trim_to(world, cut)
        found = [message async for message in whole_log(world).trimmed_erasures()]
        assert [Address.parse(message.subject).aggregate_id for message in found] == expected
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch("EXPLAIN " + ERASURES.replace("$3", "9"), 0, last)
    assert "_position_idx" in str(plan), plan  # the partial one, which has only them
