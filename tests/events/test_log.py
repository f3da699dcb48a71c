"""The log against a real server: one decision a version, lost acknowledgements, histories of any length."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from events import subjects
from events.administration import OrgRenamed
from events.context import PLATFORM_ACTOR
from events.errors import IdempotencyError, PoisonedMessageError, VersionConflictError
from events.ids import new_id
from events.model import Decision


def decision(org: str, version: int, name: str = "x", digest: str | None = None) -> Decision:
    event = OrgRenamed(originator_id=org, originator_version=version, name=name)
    return Decision(
        org_id=org, kind="org", aggregate_id=org, version=version, routing="log.org", decision_id=new_id(),
        at=datetime.now(UTC), actor=PLATFORM_ACTOR, events=(event,), digest=digest,
    )  # fmt: skip


async def test_a_version_is_held_by_one_decision(log):
    org = new_id()
    first = await log.append(decision(org, 1))
    with pytest.raises(VersionConflictError):
        await log.append(decision(org, 1))
    second = await log.append(decision(org, 2))
    assert second.position > first.position
    assert [r.position for r in await log.history(org, "org", org)] == [first.position, second.position]


async def test_the_version_check_covers_every_routing(log):
    """A version is taken whatever the decision that holds it was routed as."""
    org = new_id()
    await log.append(replace(decision(org, 1), routing="end.succeeded"))
    with pytest.raises(VersionConflictError):
        await log.append(replace(decision(org, 1), routing="due.some_step"))


async def test_of_many_at_once_exactly_one_wins(log):
    org = new_id()
    outcomes = await asyncio.gather(*(log.append(decision(org, 1)) for _ in range(50)), return_exceptions=True)
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(won) == 1
    assert all(isinstance(outcome, VersionConflictError) for outcome in outcomes if outcome is not won[0])


async def test_an_append_whose_acknowledgement_was_lost_gives_its_position(log):
    mine = decision(new_id(), 1)
    first = await log.append(mine)
    again = await log.append(mine)
    assert (again.position, first.repeated, again.repeated) == (first.position, False, True)


async def test_the_same_id_with_another_body_is_refused(log):
    mine = decision(new_id(), 1, digest="one")
    await log.append(mine)
    with pytest.raises(IdempotencyError):
        await log.append(replace(mine, digest="other"))


async def test_a_history_beyond_what_the_server_answers_at_once(log):
    org = new_id()
    await asyncio.gather(*(log.append(decision(org, version)) for version in range(1, 1101)))
    history = await log.history(org, "org", org)
    assert [recorded.decision.version for recorded in history] == list(range(1, 1101))


async def test_reading_by_position(log):
    org = new_id()
    positions = [(await log.append(decision(org, version))).position for version in (1, 2, 3)]
    mine = f"events.{org}.>"
    assert [r.position async for r in log.read(positions[0] - 1, mine)] == positions
    assert [r.position async for r in log.read(positions[0], mine, limit=1)] == positions[1:2]
    found = await log.at(positions[1])
    assert found is not None
    assert found.decision.version == 2
    assert await log.at(10**12) is None
    assert await log.history(org, "org", new_id()) == []
    assert (await log.state()).last_position >= positions[-1]


async def test_a_poisoned_message_names_its_position(log, connection):
    org = new_id()
    ack = await connection.jetstream().publish(f"events.{org}.org.{org}.1.log.org", b"not a decision")
    with pytest.raises(PoisonedMessageError, match=str(ack.seq)):
        await log.history(org, "org", org)


async def test_the_log_cannot_be_purged_or_deleted_from(log, connection):
    org = new_id()
    position = (await log.append(decision(org, 1))).position
    jetstream = connection.jetstream()
    with pytest.raises(Exception, match="not permitted"):
        await jetstream.delete_msg(subjects.EVENTS, position)
    with pytest.raises(Exception, match="not permitted"):
        await jetstream.purge_stream(subjects.EVENTS)
    assert await log.at(position) is not None
