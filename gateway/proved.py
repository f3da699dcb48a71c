"""How far the histories can be proved, and waiting for it.

The archiver's word is a hint on core NATS. It may be lost, so whoever waits looks for itself every POLL_S as well.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from events import strictjson, subjects
from events.logging import get_logger
from projections.queries.reader import BehindError

POLL_S = 1.0
WAIT_S = 10.0

_logger = get_logger("proved")


class NotProvedYetError(BehindError):
    """The trees have not reached a position in time; `position` says where they are."""

    code = "not_proved_yet"


class Proved:
    """The position up to which the orgs' trees go."""

    def __init__(self, connection: Client, read_position: Callable[[], Awaitable[int]]) -> None:
        self._nc = connection
        self._read_position = read_position
        self._subscription: Any = None
        self._moved = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self.position = 0

    async def start(self) -> None:
        """Listen."""
        self._subscription = await self._nc.subscribe(subjects.PROVED, cb=self._on_proved)

    async def stop(self) -> None:
        """Stop listening."""
        if self._subscription is not None and self._nc.is_connected:
            await self._subscription.unsubscribe()

    async def wait(self, position: int, timeout_s: float = WAIT_S) -> None:
        """Until the trees have a position. Raises NotProvedYetError when that takes too long, UnavailableError."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self.position < position:
            moved = self._moved
            await self._look()
            remaining = deadline - asyncio.get_running_loop().time()
            if self.position >= position:
                return
            if remaining <= 0:
                raise NotProvedYetError(
                    f"The history is proved up to position {self.position} and not yet up to {position}; ask again.",
                    position=self.position,
                )
            try:
                async with asyncio.timeout(min(remaining, POLL_S)):
                    await moved.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        """Look for ourselves; once for all who ask meanwhile, or many who wait would take the pool."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._read())
        await asyncio.shield(self._looking)

    async def _read(self) -> None:
        self._move(await self._read_position())

    async def _on_proved(self, message: Msg) -> None:
        try:
            self._move(int(strictjson.loads(message.data)["position"]))
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("signal_not_understood", error=repr(error))

    def _move(self, position: int) -> None:
        if position != self.position:
            self.position = position
            self._moved.set()
            self._moved = asyncio.Event()
