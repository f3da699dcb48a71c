"""HTTP/1.1 off the wire, bounded: what a client may send before anybody knows who it is, how fast, and how often.

uvicorn's parser (llhttp) is strict about framing and has no bounds of its own. Here every head, body and answer has
a size and a time, every address a number of connections, and every refusal that can still be told is a problem.
"""

import asyncio
import resource
from collections import Counter
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from events import metrics
from events.ids import new_id
from events.logging import get_logger
from events.settings import Settings
from gateway import problems
from gateway.limits import network_of
from gateway.middleware import ANSWER_HEADERS

PIPELINE_MAX = 16
"""Requests of one connection that may wait for the one before them."""
LINGER_S = 2.0
LINGER_MAX_BYTES = 8 * 1024 * 1024
"""After a refusal so much is still read, and dropped: a close with unread input would take the answer away."""
SPARE_FILES = 128
"""Open files that are not for clients."""

_logger = get_logger("gateway")


class _RefusedError(Exception):
    """Raised within the parser's callbacks; the argument is a key of `problems.REFUSALS`."""


class Connections:
    """How many there are, in all and of each address. `proxies` says of an address whether it is a trusted proxy's."""

    def __init__(self, settings: Settings, proxies: Any = ()) -> None:
        self._most = min(settings.http_connections_max, _open_files_allowed() - SPARE_FILES)
        self._most_of_address = settings.http_connections_per_address_max
        self._proxies = proxies
        self._of_address: Counter[str] = Counter()
        self.count = 0

    def enter(self, address: str) -> bool:
        """Count one more, and say whether there was room for it. A proxy's connections are many clients'."""
        network = network_of(address)
        self.count += 1
        self._of_address[network] += 1
        crowded = self._of_address[network] > self._most_of_address and address not in self._proxies
        return self.count <= self._most and not crowded

    def leave(self, address: str) -> None:
        """Count one less."""
        network = network_of(address)
        self.count -= 1
        self._of_address[network] -= 1
        if not self._of_address[network]:
            del self._of_address[network]


def _open_files_allowed() -> int:
    """The most files that this process may have open, after raising it as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return 65_536 if soft == resource.RLIM_INFINITY else soft


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A subclass names the settings and the connections of the process."""

    settings: Settings
    crowd: Connections

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._ended = False  # nothing more is parsed
        self._begun = self._in_body = False  # a message has begun; its head is complete
        self._heads = self._head_bytes = 0  # heads that were complete; bytes of the one that is not
        self._body_bytes = self._wire_bytes = self._checked_bytes = 0
        self._dropped_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_of = ""
        self._send_timer: asyncio.TimerHandle | None = None

    # --- The connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in if there is room; its first request is to come in time."""
        super().connection_made(transport)
        if self.crowd.enter(self._address):
            self._arm("head", self.settings.http_head_timeout_s)
        else:
            self._ended = True
            metrics.REFUSALS.labels("too_many_connections").inc()
            transport.write(_on_the_wire("too_many_connections"))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, and so are its timers."""
        self.crowd.leave(self._address)
        self._disarm()
        self._stop_send_timer()
        super().connection_lost(exc)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        """Parse it. A head is given to the parser only as far as it may go."""
        if self._ended:
            self._drop(len(data))
            return
        self._unset_keepalive_if_required()
        most = self.settings.http_head_max_bytes
        try:
            while data and not self._ended:
                part = data[: most if self._in_body else most - self._head_bytes]
                data = data[len(part) :]
                heads, was_in_body = self._heads, self._in_body
                self.parser.feed_data(part)
                if self._heads == heads and self._in_body == was_in_body:
                    self._count(len(part))
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(str(cause) if isinstance(cause, _RefusedError) else "malformed_request")
        except _RefusedError as error:
            self._refuse(str(error))
        else:
            self._expect()

    def _count(self, size: int) -> None:
        """So many bytes of a head that is not complete, or of a body and its framing."""
        most = self.settings.http_head_max_bytes
        if self._in_body:
            self._wire_bytes += size
            # chunk extensions and trailers are no body: they may not outweigh it
            if self._wire_bytes > 2 * self._body_bytes + most:
                raise _RefusedError("malformed_request")
        else:
            self._head_bytes += size
            if self._head_bytes >= most:
                long = self._begun and not self.headers and len(self.url) > self.settings.http_target_max_bytes
                raise _RefusedError("target_too_long" if long else "head_too_large")

    # --- The parser's callbacks ---

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there: its request begins, or waits for the one before it."""
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise _RefusedError("http_version_not_supported")
        if self.parser.should_upgrade() or len(self.pipeline) >= PIPELINE_MAX:
            raise _RefusedError("malformed_request")
        if len(self.url) > self.settings.http_target_max_bytes:
            raise _RefusedError("target_too_long")
        if len(self.headers) > self.settings.http_headers_max:
            raise _RefusedError("head_too_large")
        super().on_headers_complete()
        self.headers = []  # what comes after the body, trailers, are no headers of the request
        self._in_body = True
        self._heads += 1
        self._head_bytes = self._body_bytes = self._wire_bytes = self._checked_bytes = 0

    def on_body(self, body: bytes) -> None:
        """A part of the body. Of one that was answered already, some is dropped, for the answer's sake."""
        self._body_bytes += len(body)
        if self.cycle.response_complete and self._body_bytes > 2 * self.settings.body_max_bytes:
            self._end()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there as a whole."""
        self._begun = self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is out; after a refusal that had to wait for it, the connection ends."""
        super().on_response_complete()
        if self._ended and not self.pipeline:
            self._end()

    # --- Time ---

    def _expect(self) -> None:
        """Give the client its time for what it is to send next; what has a time already gets no more."""
        if self._in_body:
            if self._timer_of != "body":
                self._arm("body", self.settings.http_body_timeout_s)
        elif self._begun or self.cycle is None or self.cycle.response_complete:
            if self._timer_of != "head":
                self._arm("head", self.settings.http_head_timeout_s)
        else:
            self._disarm()

    def _arm(self, of: str, after_s: float) -> None:
        self._disarm()
        self._timer_of = of
        self._timer = self.loop.call_later(after_s, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_of = ""

    def _late(self) -> None:
        if self._timer_of == "head":
            if self._begun:
                self._refuse("head_timeout")
            else:
                self.transport.close()
            return
        came, self._checked_bytes = self._body_bytes - self._checked_bytes, self._body_bytes
        least = self.settings.http_body_min_bytes_per_s * self.settings.http_body_timeout_s
        if came >= least or self.flow.read_paused:  # paused: it is us who do not read
            self._arm("body", self.settings.http_body_timeout_s)
        else:
            self._refuse("body_timeout")

    def pause_writing(self) -> None:
        """The client is slow to take the answer: look at times whether it takes anything."""
        super().pause_writing()
        self._watch_sending(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has taken most of it."""
        super().resume_writing()
        self._stop_send_timer()

    def _watch_sending(self, size: int) -> None:
        self._send_timer = self.loop.call_later(self.settings.http_send_timeout_s, self._check_sending, size)

    def _check_sending(self, size: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < size:
            self._watch_sending(left)
        else:
            self.transport.abort()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    # --- Refusals ---

    def _refuse(self, code: str) -> None:
        """Say why, if the answer to an earlier request is not still to come, and parse nothing more."""
        metrics.REFUSALS.labels(code).inc()
        _logger.debug("request_refused", code=code, client=self._address)
        self._ended = True
        self._disarm()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self._in_body:  # the app waits for this body
                cycle.disconnected = True
                cycle.message_event.set()
            if not self._in_body or cycle.response_started or self.pipeline:
                cycle.keep_alive = False
                longest_s = self.settings.wait_max_s + self.settings.http_send_timeout_s
                self._timer = self.loop.call_later(longest_s, self.transport.abort)
                return
        if not (self._in_body and cycle.response_complete):  # one answer is enough
            self.transport.write(_on_the_wire(code))
        self._end()

    def _end(self) -> None:
        """Send what there is, then our end; read a little more; close."""
        self._ended = True
        self._disarm()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > LINGER_MAX_BYTES:
            self.transport.abort()


def _on_the_wire(code: str) -> bytes:
    """A refusal before there is a request that could be answered."""
    request_id = new_id()
    kind = problems.REFUSALS[code]
    answer = problems.problem(kind, code=code, request_id=request_id)
    headers = [*answer.raw_headers, *ANSWER_HEADERS, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[kind.status] + lines + b"\r\n" + bytes(answer.body)
