"""Pulling tasks as soon as they come: a fetch is one request, which ends by itself once it gave something.

nats-py's fetch of several messages (2.16) asks twice, and leaves the second request at the server when it ends without
one. A task that answers such a request is held back until the next fetch's time limit (nats.py issue 933): on a quiet
system 39 of 131 runs waited for 0.2 to 5 s. Sources: NATS ADR-13, and what nats-server 2.15 does with `no_wait` and
`expires` together: it waits for the first message, gives what else is there, and says that there is no more.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from faststream.nats.subscriber.usecases.stream_pull_subscriber import PullStreamSubscriber
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext

from events import strictjson

ANSWER_S = 1.0
"""So long after its time limit a request's end is waited for; then it got lost, as in a reconnection."""
REFUSED_PAUSE_S = 0.1
NANOSECONDS = 1_000_000_000
is_status_msg = JetStreamContext.is_status_msg
_ENDED = ("404", "408")
"""Nothing more is there; nothing came in time."""


async def pull_at_once(subscriber: Any) -> None:
    """Have a started subscriber of FastStream's fetch by a OneRequestPull; nothing for one that does not pull."""
    if isinstance(subscriber, PullStreamSubscriber) and subscriber.subscription is not None:
        stream, durable = subscriber.extra_options["stream"], subscriber.extra_options["durable"]
        pull = OneRequestPull(subscriber.connection, stream, durable, subscriber.subscription)
        await pull.open()
        subscriber.subscription = pull  # type: ignore[assignment]  # it has what FastStream calls


class OneRequestPull:
    """Messages of a durable consumer; in the place of nats-py's PullSubscription, of which it keeps one to close."""

    def __init__(self, connection: Client, stream: str, durable: str, replaced: Any = None) -> None:
        self._nc = connection
        self._ask = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._replaced = replaced
        self._inbox = connection.new_inbox()
        self._came: asyncio.Queue[Msg] = asyncio.Queue()
        self._requests = 0

    async def open(self) -> None:
        """Listen for answers."""
        self._subscription = await self._nc.subscribe(f"{self._inbox}.*", cb=self._came.put)

    async def unsubscribe(self) -> None:
        """End it. What was delivered and not fetched is delivered again, after the consumer's time limit."""
        await self._subscription.unsubscribe()
        if self._replaced is not None:
            await self._replaced.unsubscribe()

    async def fetch(self, batch: int = 1, timeout: float = 5.0) -> list[Msg]:
        """Up to `batch` messages, as soon as there are any. Raises TimeoutError when none came in `timeout` seconds."""
        if late := [message for message in self._left() if is_status_msg(message) is None]:
            return late
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        request = {"batch": batch, "expires": int(timeout * NANOSECONDS), "no_wait": True}
        ends_s = time.monotonic() + timeout + ANSWER_S
        await self._nc.publish(self._ask, strictjson.dumps(request), reply)
        found: list[Msg] = []
        while len(found) < batch and (message := await self._next(ends_s)) is not None:
            status = is_status_msg(message)
            if status is None:
                found.append(message)
            elif found or message.subject == reply:  # else it tells of an earlier one, which was given up
                if status not in _ENDED:
                    await asyncio.sleep(REFUSED_PAUSE_S)  # before it is asked again: a server or a consumer is away
                break
        if not found:
            raise TimeoutError
        return found

    def _left(self) -> Iterator[Msg]:
        """What answered a request after it was given up."""
        while not self._came.empty():
            yield self._came.get_nowait()

    async def _next(self, ends_s: float) -> Msg | None:
        try:
            async with asyncio.timeout(ends_s - time.monotonic()):
                return await self._came.get()
        except TimeoutError:
            return None
