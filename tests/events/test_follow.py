"""Following a stream: in order, without gap or double, over lost consumers and whatever the credit is."""

import asyncio

from events import subjects
from events.follow import CREDIT_MESSAGES, follow
from events.ids import new_id
from tests.events.test_log import decision


async def take(batches, count):
    found = []
    async for batch in batches:
        found += batch
        if len(found) >= count:
            break
    return found


async def test_following_gives_every_message_once_and_in_order(log, connection):
    org = new_id()
    count = CREDIT_MESSAGES * 2 + 7
    start = (await log.state()).last_position
    following = asyncio.create_task(take(follow(connection, "EVENTS", [f"events.{org}.>"], start), count))
    appended = await asyncio.gather(*(log.append(decision(org, version)) for version in range(1, count + 1)))
    found = await asyncio.wait_for(following, 60)
    assert [message.position for message in found] == sorted(ack.position for ack in appended)


async def test_a_slow_reader_holds_no_more_than_its_credit(log, connection):
    """The server has three times as much for it, and it takes one message after another."""
    org, count = new_id(), 3 * CREDIT_MESSAGES
    start = (await log.state()).last_position
    await asyncio.gather(*(log.append(decision(org, version)) for version in range(1, count + 1)))
    batches = follow(connection, subjects.EVENTS, [f"events.{org}.>"], start, max_batch=1)
    received, pending = 0, count
    async for batch in batches:
        received += 1
        await connection.flush()  # whatever the server has sent is here
        (info,) = [
            info
            for info in await connection.jetstream().consumers_info(subjects.EVENTS)
            if info.config.filter_subjects == [f"events.{org}.>"]
        ]
        delivered = info.delivered.consumer_seq
        assert delivered - received <= CREDIT_MESSAGES
        pending = batch[-1].pending
        if received == 400:
            break
    assert pending > 0
    assert delivered >= CREDIT_MESSAGES
    await batches.aclose()


async def test_a_consumer_that_is_deleted_is_replaced_where_it_was(log, connection):
    org = new_id()
    start = (await log.state()).last_position
    batches = follow(connection, "EVENTS", [f"events.{org}.>"], start)
    await log.append(decision(org, 1))
    first = await anext(batches)
    for info in await connection.jetstream().consumers_info("EVENTS"):
        await connection.jetstream().delete_consumer("EVENTS", info.name)
    await log.append(decision(org, 2))
    second = await asyncio.wait_for(anext(batches), 30)
    assert [m.position for m in first + second] == [r.position for r in await log.history(org, "org", org)]
    await batches.aclose()


async def test_a_follower_looks_at_the_stream_before_each_consumer(connection):
    asked = []

    async def refuse(after: int) -> None:
        asked.append(after)
        raise LookupError("not the stream I followed")

    batches = follow(connection, "EVENTS", ["events.>"], 7, before_open=refuse)
    try:
        await anext(batches)
    except LookupError:
        assert asked == [7]
    else:
        raise AssertionError("it followed all the same")
