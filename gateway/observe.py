"""What one request leaves behind: a line in the log, a measurement, a span. Never bodies, queries or credentials."""

import time
from functools import cache
from typing import Any

import jwt
from starlette.datastructures import Headers
from starlette.types import Scope

from events import logging, metrics, tracing
from events.context import AuthContext
from events.errors import AuthenticationError
from events.secrets import TOKEN_PREFIX

UNMATCHED = "unmatched"
"""The endpoint of a request for none: its path is the caller's text, and stays out of logs and metrics."""

_DOCUMENTS = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect"})
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
STATUSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")

_SESSION_FAULTS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "session_expired"),
    (jwt.ImmatureSignatureError, "session_not_yet"),
    (jwt.InvalidSignatureError, "session_signature"),
    (jwt.InvalidTokenError, "session_claims"),
)
REASONS = ("missing", "token", "session", "malformed", *(reason for _, reason in _SESSION_FAULTS))

_access = logging.get_logger("access")
_timer = cache(metrics.HTTP_DURATION.labels)


class Observed:
    """One request as it is seen from outside; `status` is None until an answer begins."""

    def __init__(self, scope: Scope, request_id: str, log: bool) -> None:
        self.status: int | None = None
        self._scope = scope
        self._request_id = request_id
        self._log = log
        self._began_s = time.perf_counter()
        logging.bind(request_id=request_id)
        metrics.HTTP_IN_FLIGHT.inc()
        method = scope["method"]
        self._method = method if method in METHODS else "OTHER"
        self._opened = tracing.span(
            self._method, "SERVER", _traceparent(scope) if tracing.is_on() else None, request_id=request_id
        )
        self._span: Any = None

    def __enter__(self) -> "Observed":
        self._span = self._opened.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        duration_s = time.perf_counter() - self._began_s
        endpoint, status_class = template_of(self._scope), "none" if self.status is None else f"{self.status // 100}xx"
        metrics.HTTP_IN_FLIGHT.dec()
        _timer(endpoint, status_class).observe(duration_s)
        auth: AuthContext | None = self._scope.get("auth")
        if self._log:
            _access.info(
                "request",
                method=self._method,
                endpoint=endpoint,
                status=self.status,
                duration_ms=round(duration_s * 1000, 2),
                token_id=auth and auth.token_id,
            )
        if self._span is not None:
            self._close_span(endpoint, auth)
        self._opened.__exit__(kind, error, trace)

    def _close_span(self, endpoint: str, auth: AuthContext | None) -> None:
        self._span.update_name(f"{self._method} {endpoint}")
        # https://opentelemetry.io/docs/specs/semconv/http/http-spans/
        self._span.set_attribute("http.request.method", self._method)
        self._span.set_attribute("http.route", endpoint)
        if auth is not None:
            self._span.set_attribute("data_engine.org_id", auth.org_id)
        if self.status is not None:
            self._span.set_attribute("http.response.status_code", self.status)
        if self.status is None or self.status >= 500:
            tracing.failed(self._span, str(self.status or "no_answer"))


def known(scope: Scope, auth: AuthContext) -> None:
    """Note who makes the request, once that is known."""
    scope["auth"] = auth
    logging.bind(org_id=auth.org_id)


def template_of(scope: Scope) -> str:
    """The path of the route that served a request, as it was declared."""
    declared: str | None = getattr(scope.get("route"), "path", None)
    if declared is not None:
        return declared
    return scope["path"] if scope["path"] in _DOCUMENTS else UNMATCHED  # FastAPI tells no route of its own documents


def authentication_failed(headers: Headers, error: AuthenticationError) -> None:
    """Count it, by the kind of the credentials and what was wrong with them."""
    metrics.AUTHENTICATION_FAILURES.labels(reason_of(headers, error)).inc()


def reason_of(headers: Headers, error: AuthenticationError) -> str:
    """One of REASONS: `token` and `session` are well-formed credentials that nobody has, or has any longer."""
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    if not scheme:
        return "missing"
    for kind, reason in _SESSION_FAULTS:
        if isinstance(error.__cause__, kind):
            return "malformed" if type(error.__cause__) is jwt.DecodeError else reason
    if scheme.lower() != "bearer" or not credential.strip():
        return "malformed"
    return "token" if credential.strip().startswith(TOKEN_PREFIX) else "session"


def _traceparent(scope: Scope) -> dict[str, str]:
    """The caller's trace, if it names one and only one (W3C Trace Context, 3.2)."""
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    return {tracing.TRACEPARENT: found[0].decode("latin-1")} if len(found) == 1 else {}
