"""What surrounds every request: its id, what is seen of it from outside, and the last net under unexpected errors."""

import re

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.ids import new_id
from events.secrets import INVITATION_PREFIX, TOKEN_PREFIX
from gateway import problems
from gateway.observe import Observed

ANSWER_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
DOCS_PATH = "/docs"
DOCS_HEADERS = (
    *ANSWER_HEADERS,
    (
        b"content-security-policy",  # what FastAPI's page needs
        b"default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: "
        b"https://fastapi.tiangolo.com; style-src 'unsafe-inline' https://cdn.jsdelivr.net; connect-src 'self'; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
)

# somebody's token, put into the wrong header, must not become an id
_SECRET = re.compile(f"{TOKEN_PREFIX}|{INVITATION_PREFIX}".encode())
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}\Z")


class RequestMiddleware:
    """Gives each request an id (`X-Request-Id`, the caller's own if it is sane) and each failure a problem."""

    def __init__(self, app: ASGIApp, access_log: bool = True) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["request_id"] = _request_id(scope)
        with Observed(scope, request_id, self._access_log) as observed:
            await self._serve(scope, receive, send, request_id, observed)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str, observed: Observed) -> None:
        header = (b"x-request-id", request_id.encode())
        fixed = DOCS_HEADERS if scope["path"] == DOCS_PATH else ANSWER_HEADERS

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                observed.status = message["status"]
                message["headers"] = [*message["headers"], *fixed, header]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            return  # nobody is there to be answered
        except Exception as error:
            if observed.status is not None:  # the answer has begun
                raise
            await problems.from_unexpected(error, request_id)(scope, receive, send_with_id)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.match(value) and not _SECRET.search(value):
            return str(value.decode())
    return new_id()
