"""Noticing that somebody's access changed, without trusting a message to arrive.

The projector's hint on NATS is fast and may be lost. So what a gateway keeps of look-ups holds by a lease: the database
is asked every POLL_S for changes, and nothing that is kept counts longer than LEASE_S after the last question that was
answered. A withdrawal of access that waits LEASE_S after it was projected is in force on every gateway, whatever
became of NATS, of a paused process, or of its clock (only the passing of time is compared, never two clocks).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection

from events.errors import UnavailableError
from events.logging import get_logger
from events.tasks import ended
from projections.queries import access
from projections.queries.access import AccessPositions
from projections.queries.reader import Reader

POLL_S = 0.2
LEASE_S = 1.0

_logger = get_logger("access")

OnChange = Callable[[Collection[str] | None], None]


class AccessWatch:
    """The lease, and the poll that keeps it. `on_change` is told the orgs to forget, or None for all."""

    def __init__(self, reader: Reader, on_change: OnChange) -> None:
        self._reader = reader
        self._on_change = on_change
        self._positions = AccessPositions()
        self._until_s = 0.0
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def holds(self) -> bool:
        """Whether what is kept may be used now."""
        return time.monotonic() < self._until_s

    def look(self) -> None:
        """Ask at once: there was a hint."""
        self._asked.set()

    async def start(self) -> None:
        """Begin to ask; the first answer is there when this returns. Raises UnavailableError."""
        await self._ask()
        self._task = asyncio.create_task(self._keep_asking())

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            await ended([self._task])

    async def settle(self) -> None:
        """Until every gateway has noticed what was in the read models when this was called: the time of a lease."""
        await asyncio.sleep(LEASE_S)

    async def _keep_asking(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._asked.wait()
            self._asked.clear()
            try:
                await self._ask()
            except UnavailableError as error:
                self._until_s = 0.0
                _logger.warning("access_unknown", error=error.message)

    async def _ask(self) -> None:
        began_s = time.monotonic()
        positions, orgs = await access.access_changes(self._reader, self._positions)
        if any(now < before for now, before in zip(positions, self._positions, strict=True)):
            self._on_change(None)  # the log was restored or made anew, and the read models with it
        elif orgs:
            self._on_change(orgs)
        self._positions = positions
        self._until_s = began_s + LEASE_S
