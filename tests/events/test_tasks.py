"""Tasks end, also those that lose a cancellation."""

import asyncio

from events.tasks import ended


async def test_a_task_that_loses_its_first_cancellations_ends():
    lost, waiting = [], asyncio.Event()

    async def stubborn():
        while True:
            try:
                waiting.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.append(True)
                if len(lost) == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await waiting.wait()
    await ended([task])
    assert task.cancelled()
    assert len(lost) == 2


async def test_tasks_may_have_ended_already_and_with_any_exception():
    async def fails():
        raise ValueError

    failed = asyncio.create_task(fails())
    await asyncio.wait([failed])
    never = asyncio.create_task(asyncio.Event().wait())
    await ended([failed, never])
    assert never.cancelled()


async def test_a_cancellation_that_comes_with_a_heartbeat_is_not_lost():
    """What asyncio.wait_for would do: both in one turn of the loop."""
    beat, waiting = asyncio.Event(), asyncio.Event()

    async def follower():
        while True:
            waiting.set()
            async with asyncio.timeout(5):
                await beat.wait()
            beat.clear()

    task = asyncio.create_task(follower())
    await waiting.wait()
    beat.set()
    task.cancel()
    await asyncio.wait([task], timeout=2)
    assert task.cancelled()
