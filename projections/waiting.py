"""How followers of the log wait: for their servers, and for the next messages or the end."""

import asyncio
from collections.abc import AsyncGenerator

import asyncpg

from events.errors import UnavailableError
from events.follow import Followed
from events.logging import get_logger
from events.tasks import ended

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

TROUBLE = (
    OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, UnavailableError,
)  # fmt: skip
"""What a server that is away looks like: waited out."""

_logger = get_logger("follower")


async def until(
    stop: asyncio.Event, messages: AsyncGenerator[list[Followed], None], idle_s: float
) -> AsyncGenerator[list[Followed] | None, None]:
    """The batches until `stop` is set, and None whenever there was none for `idle_s`. Closes `messages`."""
    stopping = asyncio.create_task(stop.wait())
    coming: asyncio.Task[list[Followed]] | None = None
    try:
        while not stop.is_set():
            coming = coming or asyncio.create_task(_next(messages))
            await asyncio.wait({stopping, coming}, timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                batch = coming.result()
                coming = None
                yield batch
            elif not stopping.done():
                yield None
    finally:
        await ended([stopping] if coming is None else [stopping, coming])
        await messages.aclose()


async def _next(messages: AsyncGenerator[list[Followed], None]) -> list[Followed]:
    return await anext(messages)


async def pause(stop: asyncio.Event, failures: int, error: Exception) -> None:
    """A bounded pause between attempts, cut short by `stop`."""
    pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
    _logger.warning("waiting_for_servers", reason=repr(error), pause_s=pause_s)
    try:
        async with asyncio.timeout(pause_s):
            await stop.wait()
    except TimeoutError:
        return
