"""Connecting to NATS the same way in every process."""

import asyncio
import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import nats
from nats.aio.client import Client

from events.errors import UnavailableError
from events.logging import get_logger

CONNECT_TIMEOUT_S = 5
FIRST_CONNECT_S = 10
RECONNECT_WAIT_S = 0.25

_NAME = re.compile(r"[\w-]+")

_logger = get_logger("nats")


async def connect(servers: Sequence[str], name: str) -> Client:
    """A connection that reconnects for ever once it stood; the first one must succeed. Raises UnavailableError."""

    async def log_error(error: Exception) -> None:
        _logger.warning("nats_connection", error=repr(error))

    try:
        async with asyncio.timeout(FIRST_CONNECT_S):  # nats-py itself would try for ever
            return await nats.connect(
                servers=list(servers),
                name=name,
                inbox_prefix=inbox_prefix(servers),
                connect_timeout=CONNECT_TIMEOUT_S,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,
                error_cb=log_error,
            )
    except (OSError, TimeoutError, nats.errors.Error) as error:
        hosts = ", ".join(server.rpartition("@")[2] for server in servers)
        raise UnavailableError(f"NATS does not answer at {hosts}: {error!r}") from error


def inbox_prefix(servers: Sequence[str]) -> str:
    """Where a user's replies go: a place of its own, so that no user can listen to the replies of another.

    The servers' permissions say the same (migrations/nats_accounts.conf). A URL with a token, and not a user and a
    password, has no name that could be told: then it is NATS's own.
    """
    url = urlsplit(servers[0])
    user = unquote(url.username or "") if url.password else ""
    return f"_INBOX_{user}" if _NAME.fullmatch(user) else "_INBOX"
