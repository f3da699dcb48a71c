"""Connecting to NATS the same way in every process."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import DEFAULT_FLUSH_TIMEOUT, Client

from events.errors import ConfigurationError, UnavailableError
from events.logging import get_logger

CONNECT_TIMEOUT_S = 5
FIRST_CONNECT_S = 10
RECONNECT_WAIT_S = 0.25

_NAME = re.compile(r"[\w-]+")

_logger = get_logger("nats")


class Connection(Client):
    """A client whose flush is what it says: what was sent before it, subscriptions too, has reached the server.

    That of nats-py 2.16 writes its PING past what is still pending, so a subscription may come after the answer. Once
    the first PONG is here the pending has been written, and the second PING comes after it.
    """

    async def flush(self, timeout: int = DEFAULT_FLUSH_TIMEOUT) -> None:
        """Wait for the server, at most twice `timeout` seconds. Raises nats.errors.FlushTimeoutError."""
        await super().flush(timeout)
        await super().flush(timeout)


async def connect(servers: Sequence[str], name: str) -> Connection:
    """A connection that reconnects for ever once it stood; the first one must succeed. Raises UnavailableError."""

    async def log_error(error: Exception) -> None:
        _logger.warning("nats_connection", error=repr(error))

    login, connection = login_of(servers), Connection()
    try:
        async with asyncio.timeout(FIRST_CONNECT_S):  # nats-py itself would try for ever
            await connection.connect(
                servers=login.servers,
                user=login.user,
                password=login.password,
                name=name,
                inbox_prefix=inbox_prefix(servers),
                connect_timeout=CONNECT_TIMEOUT_S,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # it is given to asyncio.sleep
                error_cb=log_error,
            )
            return connection
    except (OSError, TimeoutError, nats.errors.Error) as error:
        hosts = ", ".join(server.rpartition("@")[2] for server in servers)
        raise UnavailableError(f"NATS does not answer at {hosts}: {error!r}") from error


@dataclass(frozen=True)
class Login:
    """Where to connect, and as whom: addresses without a login, and one login for all of them."""

    servers: list[str]
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def login_of(servers: Sequence[str]) -> Login:
    """The user and the password that the servers' URLs carry, taken out of them. Raises ConfigurationError.

    nats-py learns the other nodes of a cluster from the server it reached. It takes them for new ones when the URLs
    it was given carry a login, and has none for them: each reconnect may then be refused, and leaves a socket open.
    A URL with a token, and not a user and a password, is left as it is.
    """
    urls = [urlsplit(server) for server in servers]
    logins = {(url.username, url.password) for url in urls}
    if len(logins) > 1:
        raise ConfigurationError("DATA_ENGINE_NATS_URL names several logins: give every server the same one")
    user, password = logins.pop()
    if not user or not password:
        return Login(list(servers))
    bare = [url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() for url in urls]
    return Login(bare, unquote(user), unquote(password))


def inbox_prefix(servers: Sequence[str]) -> str:
    """Where a user's replies go: a place of its own, so that no user can listen to the replies of another.

    The servers' permissions say the same (migrations/nats_accounts.conf). A URL with a token, and not a user and a
    password, has no name that could be told: then it is NATS's own.
    """
    user = login_of(servers).user or ""
    return f"_INBOX_{user}" if _NAME.fullmatch(user) else "_INBOX"
