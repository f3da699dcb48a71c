"""Waiting without polling: how far the read models are, and which runs have ended, as the projector says it.

The projector's word is a hint on core NATS. It may be lost, so whoever waits looks for itself every POLL_S as well.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from events import strictjson, subjects
from events.errors import UnavailableError
from events.logging import get_logger
from events.tasks import ended
from gateway.problems import ProjectionBehindError

POLL_S = 2.0
REFRESH_S = 5.0
POSITION_WAIT_S = 5.0

_logger = get_logger("signals")


class Signals:
    """The projected position, and the waiters for positions and for runs' ends."""

    def __init__(
        self, connection: Client, read_position: Callable[[], Awaitable[int]], on_access: Callable[[bool], None]
    ) -> None:
        self._nc = connection
        self._read_position = read_position
        self._on_access = on_access
        self._positions: dict[asyncio.Future[bool], int] = {}
        self._runs: dict[str, set[asyncio.Future[bool]]] = {}
        self._heard = 0
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._subscription: Any = None
        self.position = 0
        self.closing = False

    async def start(self) -> None:
        """Listen first, then read where the read models are, so that nothing falls between."""
        self._subscription = await self._nc.subscribe(subjects.PROJECTED, cb=self._on_projected)
        await self.refresh()
        self._tasks.append(asyncio.create_task(self._keep_fresh()))

    async def stop(self) -> None:
        """Let everybody go, and stop listening."""
        self.release()
        await ended(self._tasks)
        if self._subscription is not None and self._nc.is_connected:
            await self._subscription.unsubscribe()

    def release(self) -> None:
        """Wake every waiter: the process stops, and they answer with what there is."""
        self.closing = True
        for run_id in list(self._runs):
            self._wake_run(run_id)
        for future in self._positions:
            _resolve(future)

    async def wait_position(self, position: int | None, timeout_s: float = POSITION_WAIT_S) -> None:
        """Until the read models have reached `position`. Raises ProjectionBehindError when that takes too long."""
        if position is None or self.position >= position:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.position < position:
            remaining = deadline - loop.time()
            if remaining <= 0 or self.closing:
                raise ProjectionBehindError(
                    f"The read models are at position {self.position} and not yet at {position}; ask again.",
                    position=self.position,
                )
            future: asyncio.Future[bool] = loop.create_future()
            self._positions[future] = position
            try:
                told = await _within(future, min(remaining, POLL_S))
            finally:
                del self._positions[future]
            if not told:
                await self.refresh()

    def run_waiter(self, run_id: str) -> "RunWaiter":
        """Registers at once; use it as a context manager, so that it is taken off again."""
        return RunWaiter(self._runs, run_id)

    async def refresh(self) -> None:
        """Read the position from the database; once for all who ask meanwhile."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        heard = self._heard
        position = await self._read_position()
        # A signal that came meanwhile is newer than what we read, unless it is behind it.
        self._set_position(position if heard == self._heard else max(position, self.position))

    async def _keep_fresh(self) -> None:
        """Notice what a lost signal would have told: a lower position after a rebuild, an outage of NATS."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except UnavailableError as error:
                _logger.warning("position_unknown", error=error.message)

    async def _on_projected(self, message: Msg) -> None:
        try:
            signal = strictjson.loads(message.data)
            position, ended = int(signal["position"]), list(signal["ended"])
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("signal_not_understood", error=repr(error))
            return
        self._heard += 1
        if signal.get("access"):
            self._on_access(bool(signal.get("reset")))
        self._set_position(position if signal.get("reset") else max(position, self.position))
        for run_id in ended:
            self._wake_run(run_id)

    def _set_position(self, position: int) -> None:
        self.position = position
        for future, wanted in self._positions.items():
            if wanted <= position:
                _resolve(future)

    def _wake_run(self, run_id: str) -> None:
        for future in self._runs.get(run_id, ()):
            _resolve(future)


class RunWaiter:
    """One caller's wait for a run's end; made before the run is looked up, so no end is missed."""

    def __init__(self, runs: dict[str, set[asyncio.Future[bool]]], run_id: str) -> None:
        self._runs = runs
        self._run_id = run_id
        self._future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> "RunWaiter":
        self._runs.setdefault(self._run_id, set()).add(self._future)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        waiters = self._runs[self._run_id]
        waiters.discard(self._future)
        if not waiters:
            del self._runs[self._run_id]

    async def ended(self, timeout_s: float) -> bool:
        """Whether the run's end was signalled within the time; a further call waits for a further signal."""
        told = await _within(self._future, timeout_s)
        waiters = self._runs[self._run_id]
        waiters.discard(self._future)
        self._future = asyncio.get_running_loop().create_future()
        waiters.add(self._future)
        return told


def _resolve(future: asyncio.Future[bool], told: bool = True) -> None:
    if not future.done():
        future.set_result(told)


async def _within(future: asyncio.Future[bool], timeout_s: float) -> bool:
    """Whether we were told in time; afterwards the future is done either way. Cheaper than a timeout scope."""
    handle = asyncio.get_running_loop().call_later(timeout_s, _resolve, future, False)
    try:
        return await future
    finally:
        handle.cancel()
