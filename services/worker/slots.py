"""Slots that those who wait for are given in turn, so that one with many tasks does not hold up one with few."""

import asyncio
from collections import Counter, OrderedDict, deque
from contextvars import ContextVar
from types import TracebackType

ON_BEHALF_OF: ContextVar[str] = ContextVar("on_behalf_of", default="")
"""The org whose task is being worked on: whose slot `async with` takes."""


class FairSlots:
    """Up to `size` holders, `each_max` of them of one key, so that no key ever holds all.

    A free slot goes to the keys in turn; within a key, first come is first served.
    """

    def __init__(self, size: int, each_max: int | None = None) -> None:
        self._free = size
        self._each_max = size if each_max is None else each_max
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, key: str) -> None:
        """Take a slot, when it is this key's turn."""
        if self._free and self._held[key] < self._each_max:  # then nobody waits who could have it
            self._take(key)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(key)  # it was given to us in the moment in which we left
            raise

    def release(self, key: str) -> None:
        """Give a slot of this key back: to the next key that waits and may have one more."""
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        for waiting in list(self._waiting):
            if self._held[waiting] < self._each_max and self._give(waiting):
                return

    def _give(self, key: str) -> bool:
        """A slot to the first of this key's who still waits; whether there was one."""
        futures = self._waiting.pop(key)
        while futures:
            future = futures.popleft()
            if not future.done():
                if futures:
                    self._waiting[key] = futures  # at the end of the line
                self._take(key)
                future.set_result(None)
                return True
        return False

    def _take(self, key: str) -> None:
        self._free -= 1
        self._held[key] += 1

    async def __aenter__(self) -> None:
        await self.acquire(ON_BEHALF_OF.get())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release(ON_BEHALF_OF.get())
