"""Following a stream from a position, for ever, in order, without gap or double, whatever happens to the server.

An ephemeral pull consumer with a continuous pull: the server is asked for more whenever half of the credit is free, so
that it hardly waits for us. What was asked for and what waits to be read are within the credit, in messages and in
bytes, so that memory is bounded however slow the reader is. A lost consumer, a restarted server or a gap means a new
consumer from the last position that was given out.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import strictjson
from events.errors import UnavailableError
from events.logging import get_logger

CREDIT_MESSAGES = 1500
BATCHES_AHEAD = 4
CREDIT_BYTES = 64 * 1024 * 1024
PULL_EXPIRES_S = 30
HEARTBEAT_S = 2.0
INACTIVE_AFTER_S = 30
RETRY_S = 0.25
BUSY_BATCH = 4.0
GATHER_S = 0.025
EXPECT_S = 0.006
SMOOTHING = 0.2
NANOSECONDS = 1_000_000_000

_logger = get_logger("follow")


@dataclass(frozen=True, slots=True)
class Followed:
    """One message of the stream: its position, its subject, its body, and how many are still behind it.

    `recorded_ns` is when the stream recorded it: nanoseconds since 1970, UTC, as the leader's clock had it.
    """

    position: int
    subject: str
    body: bytes
    pending: int
    recorded_ns: int = 0


class _LostError(Exception):
    """The consumer is gone, late or skipped something; start another one."""


async def follow(
    connection: Client,
    stream: str,
    filters: Sequence[str],
    after: int,
    max_batch: int = 1000,
    before_open: Callable[[int], Awaitable[None]] | None = None,
    more_follows: Callable[[str], bool] | None = None,
) -> AsyncIterator[list[Followed]]:
    """Yield what follows the position `after`, in lists of what is there already (1..max_batch), waiting for more.

    With `more_follows`, the reader gets fewer and larger lists. On a busy stream, while they have been longer than a
    few messages of late, each is given GATHER_S to grow. On a quiet one a message is given at once, but for those
    (by subject) of which `more_follows` says that another comes in a moment: that one is waited for, up to EXPECT_S.

    Every connection trouble is waited out. `before_open` is called with the position before each new consumer, so
    that a follower can look whether the stream is still the one that it followed; what it raises, but for
    UnavailableError, ends the following. Stop by closing the generator or cancelling the task.
    """
    while True:
        pull = _Pull(connection, stream, filters, after, max(CREDIT_MESSAGES, BATCHES_AHEAD * max_batch), more_follows)
        try:
            if before_open is not None:
                await before_open(after)
            await pull.open()
            while True:
                batch = await pull.next_batch(max_batch)
                yield batch
                after = batch[-1].position
        except (_LostError, UnavailableError, TimeoutError, nats.errors.Error) as error:
            _logger.info("follow_again", stream=stream, after=after, reason=repr(error))
        finally:
            await pull.close()
        await asyncio.sleep(RETRY_S)  # a bounded pause between attempts to reach the server


class _Pull:
    """One life of an ephemeral consumer and of our subscription to its answers."""

    def __init__(
        self,
        connection: Client,
        stream: str,
        filters: Sequence[str],
        after: int,
        credit: int,
        more_follows: Callable[[str], bool] | None,
    ) -> None:
        self._credit_max = credit
        self._more_follows = more_follows
        self._usual_batch = 0.0
        self._nc = connection
        self._stream = stream
        self._config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE_AFTER_S * NANOSECONDS,
            "filter_subjects": list(filters),
        }
        self._consumer = ""
        self._inbox = ""
        self._subscription: Any = None
        self._received: deque[Followed] = deque()
        self._received_bytes = 0
        self._arrived = asyncio.Event()
        self._lost: str | None = None
        self._asked = 0
        self._delivered = 0

    async def open(self) -> None:
        """Create the consumer and ask for the first messages."""
        subject = f"$JS.API.CONSUMER.CREATE.{self._stream}"
        body = strictjson.dumps({"stream_name": self._stream, "config": self._config})
        answer = strictjson.loads((await self._nc.request(subject, body, timeout=5)).data)
        if "error" in answer:
            raise _LostError(answer["error"].get("description"))
        self._consumer = answer["name"]
        self._inbox = self._nc.new_inbox()
        self._subscription = await self._nc.subscribe(self._inbox, cb=self._on_message)
        await self._pull()

    async def close(self) -> None:
        """Give the consumer back, if the server can be reached."""
        try:
            if self._subscription is not None:
                await self._subscription.unsubscribe()
            if self._consumer and self._nc.is_connected:
                await self._nc.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}", b"")
        except nats.errors.Error as error:
            _logger.debug("consumer_left_behind", reason=repr(error))  # the server removes it when inactive

    async def next_batch(self, max_batch: int) -> list[Followed]:
        """What has arrived, at least one. Raises _LostError when the server has been silent for too long."""
        while not self._received:
            if self._lost is not None:
                raise _LostError(self._lost)
            self._arrived.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_S * 2.5):
                    await self._arrived.wait()
            except TimeoutError:
                raise _LostError("no heartbeat") from None
        if self._more_follows is not None:
            await self._gather(self._more_follows, max_batch)
        self._usual_batch += SMOOTHING * (len(self._received) - self._usual_batch)
        batch = [self._received.popleft() for _ in range(min(max_batch, len(self._received)))]
        self._received_bytes -= sum(len(message.body) for message in batch)
        if self._lost is None:
            await self._pull()
        return batch

    async def _gather(self, more_follows: Callable[[str], bool], max_batch: int) -> None:
        """Give the batch a moment to grow, when it is likely to."""
        if self._usual_batch > BUSY_BATCH:
            if len(self._received) < max_batch:
                await asyncio.sleep(GATHER_S)  # the window in which a batch of a busy stream grows
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXPECT_S):
                while more_follows(self._received[-1].subject):
                    self._arrived.clear()
                    await self._arrived.wait()

    async def _pull(self) -> None:
        """Ask for as much as may still wait here, once that is worth a request."""
        free = self._credit_max - self._asked - len(self._received)
        if free <= self._credit_max // 2 or self._received_bytes > CREDIT_BYTES // 2:
            return
        request = {
            "batch": free,
            "max_bytes": CREDIT_BYTES // 2,
            "expires": PULL_EXPIRES_S * NANOSECONDS,
            "idle_heartbeat": int(HEARTBEAT_S * NANOSECONDS),
        }
        self._asked += free
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._nc.publish(subject, strictjson.dumps(request), reply=self._inbox)

    async def _on_message(self, message: Msg) -> None:
        if not message.reply.startswith("$JS.ACK."):
            await self._on_status(message)
            return
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
        tokens = message.reply.rsplit(".", 5)
        position, delivered, recorded_ns, pending = int(tokens[-4]), int(tokens[-3]), int(tokens[-2]), int(tokens[-1])
        if delivered != self._delivered + 1:
            self._lost = f"gap: message {self._delivered + 1} of the consumer is missing"
        elif self._lost is None:
            self._delivered = delivered
            self._asked -= 1
            self._received_bytes += len(message.data)
            self._received.append(Followed(position, message.subject, message.data, pending, recorded_ns))
        self._arrived.set()

    async def _on_status(self, message: Msg) -> None:
        """A heartbeat (100), a pull that ended with messages unsent (408, 409), or the end of the consumer."""
        headers = message.headers or {}
        status = headers.get("Status", "503")
        if status in ("408", "409") and "Nats-Pending-Messages" in headers:
            self._asked -= int(headers["Nats-Pending-Messages"])
            await self._pull()
        elif status != "100":
            self._lost = f"{status} {headers.get('Description', '')}"
        self._arrived.set()
