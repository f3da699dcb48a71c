"""The FastStream broker as every service of ours uses it."""

from types import TracebackType
from typing import Any

from faststream import BaseMiddleware
from faststream.message import StreamMessage
from faststream.nats import NatsBroker
from faststream.security import SASLPlaintext
from nats.aio.msg import Msg

from events.connection import inbox_prefix, login_of
from events.logging import get_logger
from services.pulling import pull_at_once

RECONNECT_WAIT_S = 1
CONNECT_TIMEOUT_S = 5
GRACEFUL_TIMEOUT_S = 15.0

_logger = get_logger("handlers")


class FailureLog(BaseMiddleware):
    """Logs what a handler raises, and nothing else: FastStream's own logging costs two records a message."""

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool | None:
        """Called when a message has been handled, whatever came of it."""
        if exc_val is not None:
            _logger.error("handler_raised", error=repr(exc_val), exc_info=exc_val)
        return await super().after_processed(exc_type, exc_val, exc_tb)


class OwnBroker(NatsBroker):
    """Has pulled messages sent to the user's own inboxes too: a subscriber would take NATS's common ones. And has them
    pulled as soon as they come.
    """

    inbox_prefix = "_INBOX"

    def subscriber(self, *args: Any, **options: Any) -> Any:
        """NatsBroker's subscriber."""
        return super().subscriber(*args, **{"inbox_prefix": f"{self.inbox_prefix}.".encode(), **options})

    async def start(self) -> None:
        """NatsBroker's start."""
        await super().start()
        for subscriber in self.subscribers:
            await pull_at_once(subscriber)


def build_broker(servers: list[str], name: str) -> NatsBroker:
    """A broker that reconnects for ever. Raises ConfigurationError."""
    login = login_of(servers)
    broker = OwnBroker(
        login.servers,
        security=SASLPlaintext(login.user, login.password) if login.user and login.password else None,
        name=name,
        inbox_prefix=inbox_prefix(servers),
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_S,
        connect_timeout=CONNECT_TIMEOUT_S,
        graceful_timeout=GRACEFUL_TIMEOUT_S,
        logger=None,
        apply_types=False,  # bodies are validated by our own models, once, from the bytes
        middlewares=[FailureLog],
    )
    broker.inbox_prefix = inbox_prefix(servers)
    return broker


async def raw_message(message: StreamMessage[Msg]) -> Any:
    """A decoder that gives the handler nats-py's own message.

    Our mapper reads the body, so FastStream need not parse it; and asking for the message by a context parameter
    would cost a hop through a thread for each.
    """
    return message.raw_message
