"""The FastStream broker as every service of ours uses it."""

import logging

from faststream.message import StreamMessage
from faststream.nats import NatsBroker
from nats.aio.msg import Msg

RECONNECT_WAIT_S = 1
CONNECT_TIMEOUT_S = 5
GRACEFUL_TIMEOUT_S = 15.0


def build_broker(servers: list[str], name: str) -> NatsBroker:
    """A broker that reconnects for ever; FastStream logs what a handler raises, and no single message."""
    return NatsBroker(
        servers,
        name=name,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_S,
        connect_timeout=CONNECT_TIMEOUT_S,
        graceful_timeout=GRACEFUL_TIMEOUT_S,
        logger=logging.getLogger("faststream"),
        log_level=logging.DEBUG,
    )


async def raw_message(message: StreamMessage[Msg]) -> Msg:
    """A decoder that gives the handler nats-py's own message.

    Our mapper reads the body, so FastStream need not parse it; and asking for the message by a context parameter
    would cost a hop through a thread for each.
    """
    return message.raw_message
