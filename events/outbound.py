"""Posting to an address that somebody configured: never to an internal one, unless that is said to be wanted.

The name is resolved here, every address of it is looked at, and the connection goes to one that was looked at: a name
that points elsewhere a moment later changes nothing. Redirects are not followed, and of an answer only its status is
read.
"""

import asyncio
import ipaddress
import socket

import httpx

from events.errors import ConfigurationError, UnavailableError

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 15.0
WITHIN_S = 60.0
"""For all of it: a receiver that answers a byte now and then is not waited for, either."""


class Outbound:
    """Posts JSON to one URL. Raises ConfigurationError when the URL is none of http or https."""

    def __init__(self, url: str, *, allow_internal: bool = False) -> None:
        self._url = httpx.URL(url)
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ConfigurationError("An address to post to begins with http:// or https:// and names a host.")
        self._allow_internal = allow_internal

    async def post(self, body: bytes) -> None:
        """Returns when the receiver has answered with 2xx. Raises UnavailableError; the URL is in no message."""
        host = self._url.host
        address = await self._address()
        headers = {"Host": self._url.netloc.decode(), "Content-Type": "application/json"}
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            async with (
                asyncio.timeout(WITHIN_S),
                httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False) as client,
                client.stream(
                    "POST",
                    self._url.copy_with(host=address),
                    content=body,
                    headers=headers,
                    extensions={"sni_hostname": host},
                ) as answer,
            ):
                status, kept = answer.status_code, answer.is_success
        except (httpx.HTTPError, TimeoutError) as error:
            raise UnavailableError(f"{host} does not answer: {type(error).__name__}.") from error
        if not kept:
            raise UnavailableError(f"{host} answered {status}.")

    async def _address(self) -> str:
        """An address of the host, none of whose addresses is internal. Raises UnavailableError."""
        host = self._url.host
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UnavailableError(f"{host} is not known: {error}.") from error
        addresses = [str(info[4][0]) for info in found]
        internal = [address for address in addresses if is_internal(address)]
        if internal and not self._allow_internal:
            raise UnavailableError(f"{host} has an internal address ({internal[0]}): nothing is sent there.")
        return addresses[0]


def is_internal(address: str) -> bool:
    """Whether an IP address is not one of the public internet: loopback, private, link-local, multicast, reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64 (RFC 6052)
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_internal(str(inner))
    return not ip.is_global or ip.is_multicast
