"""Ending tasks for certain."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 1.0


async def ended(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until each has ended, whatever it ends with.

    Once is not enough: `asyncio.wait_for`, which libraries use around each request, loses a cancellation that comes
    together with its result (Python 3.11, gh-86296), and a loop would go on for ever. A task has AGAIN_S to clean up
    before it is cancelled again.
    """
    given = list(tasks)
    while left := [task for task in given if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*given, return_exceptions=True)  # their exceptions count as seen
