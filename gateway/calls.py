"""What every call passes before its endpoint: who asks, may they, and is the body JSON that can be stored.

In that order, so that a stranger cannot make us read, let alone parse, a body.
"""

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, get_type_hints

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from events import strictjson
from events.context import AuthContext
from events.errors import AuthenticationError, ConfigurationError, InvalidInputError, RejectedError
from events.ids import new_id
from gateway.auth import Caller
from gateway.commands import Envelope, digest_of
from gateway.observe import authentication_failed, known
from gateway.open_runs import Opening
from gateway.permissions import Rule, check, rule_of
from gateway.problems import BodyTooLargeError, UnsupportedMediaError, invalid, pointer
from gateway.sessions import Session
from gateway.state import Gateway
from projections.queries.reader import Scope

IDEMPOTENCY_HEADER = "Idempotency-Key"

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_JSON = re.compile(r"application/(?:[\w.-]+\+)?json\s*(?:;\s*charset=\"?utf-?8\"?\s*)?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated call: its caller, what the process holds, and what the headers say."""

    caller: Caller
    gateway: Gateway
    endpoint: str
    request_id: str
    idempotency_key: str | None
    headers: Headers = field(repr=False)
    address: str
    file: AsyncIterator[bytes] | None = field(default=None, repr=False)
    """The body of an upload, as it comes in; None where the body is JSON."""

    @property
    def auth(self) -> AuthContext:
        """Who asks."""
        return self.caller.auth

    @property
    def scope(self) -> Scope:
        """What the caller may see."""
        return self.caller.scope

    @property
    def org_id(self) -> str:
        """The caller's org; never one of a body."""
        return self.auth.org_id

    @property
    def within(self) -> str | None:
        """The company that the caller is bound to, or None for the whole org."""
        return self.auth.company_id

    def envelope(self, body: BaseModel | Mapping[str, Any]) -> Envelope:
        """The command's envelope. `body` is what must be the same when the key is used again."""
        key = self.idempotency_key or new_id()
        return Envelope.of(self.auth, self.endpoint, key, digest_of(body), self.request_id)

    def admit(self, *, requests: int = 0, size: int = 0, rows: int = 0) -> None:
        """Count what is asked for. Raises LimitExceededError when the org or the token asks for too much at once."""
        auth = self.caller.auth
        self.gateway.limiter.admit(
            auth.org_id,
            auth.token_id or auth.user_id or "",
            self.caller.limits,
            requests=requests,
            size=size,
            rows=rows,
        )

    async def opening(self, run_id: str | None) -> Opening:
        """Count a run that is about to be opened, if there is one. Raises LimitExceededError."""
        if run_id is None:
            return Opening()
        limits = self.gateway.limiter.effective(self.caller.limits)
        repeatable = self.idempotency_key is not None
        return await self.gateway.open_runs.admit(
            self.org_id, self.auth.user_id or "", limits, run_id, repeatable=repeatable
        )

    async def still_allowed(self) -> None:
        """After a wait: raises AuthenticationError when the caller's access was withdrawn, or changed, meanwhile."""
        caller = await self.gateway.authenticator.authenticate(self.headers, self.request_id, self.address)
        if caller.scope != self.scope or caller.auth.role != self.auth.role:
            raise AuthenticationError("What the caller may see has changed meanwhile; ask again.")

    async def caught_up(self, min_position: int | None) -> Scope:
        """Wait, bounded, until the read models have reached the position; the scope to ask them in.

        Raises ProjectionBehindError.
        """
        await self.gateway.signals.wait_position(min_position)
        return self.scope if min_position is None else replace(self.scope, min_position=min_position)


@dataclass(frozen=True, slots=True)
class SessionCall:
    """A call by a session that was checked, and that perhaps no user is known for."""

    session: Session
    gateway: Gateway
    request_id: str

    def admit(self, *, requests: int = 0, size: int = 0) -> None:
        """As that of a Call: whoever signs in has the limits of a token, and belongs to no org yet."""
        identity = self.session.identity
        self.gateway.limiter.admit("", identity, None, requests=requests, size=size)


async def authenticated(request: Request, rule: Rule, endpoint: str) -> Call:
    """The call, once it is known who makes it, and that the caller's role may."""
    gateway: Gateway = request.app.state.gateway
    request_id: str = request.scope["request_id"]
    address = _address(request)
    try:
        caller = await gateway.authenticator.authenticate(request.headers, request_id, address)
    except AuthenticationError as error:
        authentication_failed(request.headers, error)
        raise
    known(request.scope, caller.auth)
    gateway.usage.note(caller.auth)
    key = _idempotency_key(request) if rule.command else None
    call = Call(caller, gateway, endpoint, request_id, key, request.headers, address)
    call.admit(requests=1, size=_declared_bytes(request, gateway))
    check(rule, caller.auth, members_may_work=caller.members_may_work)
    return call


async def with_session(request: Request) -> SessionCall:
    """The call of a session, whoever it is."""
    gateway: Gateway = request.app.state.gateway
    try:
        session = await gateway.authenticator.session(request.headers, _address(request))
    except AuthenticationError as error:
        authentication_failed(request.headers, error)
        raise
    call = SessionCall(session, gateway, request.scope["request_id"])
    call.admit(requests=1, size=_declared_bytes(request, gateway))
    return call


def _address(request: Request) -> str:
    return request.scope["client"][0] if request.scope.get("client") else ""


def _declared_bytes(request: Request, gateway: Gateway) -> int:
    """How long the body is said to be, as far as it would be read; 0 when nothing is said."""
    length = request.headers.get("content-length", "")
    return min(int(length[:20]), gateway.settings.body_max_bytes) if length.isdecimal() else 0


def _declared() -> Any:
    raise AssertionError("only a CallRoute calls an endpoint")


Authenticated = Annotated[Call, Depends(_declared)]
"""The dependency that every endpoint carries: the AuthContext, and what goes with it."""
SessionOnly = Annotated[SessionCall, Depends(_declared)]
"""That of an endpoint for sessions alone (`Rule.session`)."""


class CallRoute(APIRoute):
    """A route of an endpoint `(body: Model, call: Authenticated)`.

    All endpoints have this one shape, so it is called here and not by FastAPI's general dependency solver, which
    would cost more than the rest of the way in (a tenth of a submission's time). FastAPI still routes, and documents.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler. Raises ConfigurationError for an endpoint that has no rule, or another shape."""
        path, endpoint, status = self.path, self.endpoint, self.status_code or 200
        rule = rule_of(path)
        validate = _body_model(path, endpoint, SessionOnly if rule.session else Authenticated).model_validate

        async def handler(request: Request) -> Response:
            call = await (with_session(request) if rule.session else authenticated(request, rule, path))
            raw = await read_body(request, call)
            try:
                body = validate(strictjson.parse(raw))
            except ValidationError as error:
                raise _faults(error) from None
            answer = await endpoint(body, call)
            if isinstance(answer, Response):
                return answer
            return Response(answer.model_dump_json(), status, media_type="application/json")

        return handler


class UploadRoute(CallRoute):
    """A route of an endpoint `(body: Annotated[Model, Query()], call: Authenticated)`: what it is told stands in the
    query string, and the body is a file of any kind, which the endpoint reads as it comes in (`call.file`).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler. Raises ConfigurationError for an endpoint that has no rule, or another shape."""
        path, endpoint = self.path, self.endpoint
        rule = rule_of(path)
        validate = _body_model(path, endpoint, Authenticated).model_validate

        async def handler(request: Request) -> Response:
            call = await authenticated(request, rule, path)
            file = _file(request, call)
            with call.gateway.uploads.one_more(call.org_id):
                try:
                    return await take(dict(request.query_params), replace(call, file=file))
                except RejectedError:
                    if "expect" not in request.headers:  # else the client sends nothing before we say that it may
                        async for _ in file:  # a connection that is closed on a client that sends loses the answer
                            pass
                    raise

        async def take(told: dict[str, str], call: Call) -> Response:
            try:
                body = validate(told)
            except ValidationError as error:
                raise _faults(error) from None
            answer: Response = await endpoint(body, call)
            return answer

        return handler


async def _file(request: Request, call: Call) -> AsyncIterator[bytes]:
    """The body, counted as it comes in. Raises BodyTooLargeError, ClientDisconnect."""
    limit_bytes = call.gateway.settings.upload_max_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit_bytes:
        raise _too_large(limit_bytes)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        yield chunk


def _body_model(path: str, endpoint: Callable[..., Any], call: object) -> type[BaseModel]:
    call_hint = get_type_hints(endpoint, include_extras=True).get("call")
    body = get_type_hints(endpoint).get("body")
    if not (isinstance(body, type) and issubclass(body, BaseModel)) or call_hint != call:
        raise ConfigurationError(f"The endpoint {path} is not of the shape (body: Model, call: Authenticated).")
    return body


def _faults(error: ValidationError) -> InvalidInputError:
    """Every fault with its path; never the input itself."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    faults = [{"path": pointer(fault["loc"]), "message": fault["msg"]} for fault in found]
    count = f"{len(faults)} fault{'s' if len(faults) != 1 else ''}"
    return InvalidInputError(f"The body has {count}; `errors` lists {'them' if len(faults) != 1 else 'it'}.", faults)


async def read_body(request: Request, call: Call | SessionCall) -> bytes:
    """The whole body, counted as it comes in. Raises UnsupportedMediaError, BodyTooLargeError, LimitExceededError."""
    limit_bytes = call.gateway.settings.body_max_bytes
    declared = request.headers.get("content-length", "")
    if not _JSON.match(request.headers.get("content-type", "")):
        raise UnsupportedMediaError("Send the body as `Content-Type: application/json`, in UTF-8.")
    if declared.isdecimal() and int(declared[:20]) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if chunk and not declared:
            call.admit(size=len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            break
    if not size:
        raise InvalidInputError("The body is empty; send a JSON object, `{}` at least.", code="invalid_json")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {limit_bytes} bytes, the most that is taken.")


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not _KEY.match(key):
        raise invalid(f"/headers/{IDEMPOTENCY_HEADER}", "The Idempotency-Key has 1 to 255 visible ASCII characters.")
    return key
