"""Slots that those who wait for are given in turn, so that one with many tasks does not hold up one with few."""

import asyncio
from collections import OrderedDict, deque


class FairSlots:
    """Up to `size` holders. A free slot goes to the keys in turn; within a key, first come is first served."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, key: str) -> None:
        """Take a slot, when it is this key's turn."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release()  # it was given to us in the moment in which we left
            raise

    def release(self) -> None:
        """Give a slot back: to the next key that waits."""
        while self._waiting:
            key, futures = self._waiting.popitem(last=False)
            future = futures.popleft()
            if futures:
                self._waiting[key] = futures  # at the end of the line
            if not future.done():
                future.set_result(None)
                return
        self._free += 1
