"""Errors as RFC 9457 problem details: the one table from the exception tree to HTTP.

InvalidInputError (events.errors)
├── BodyTooLargeError        the body is above the limit
└── UnsupportedMediaError    the body is not sent as JSON
UnavailableError (events.errors)
└── BehindError              (projections.queries) the read models are not at the position that was asked for
    └── ProjectionBehindError    nor were they in the time that a query waits
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from events import errors
from events.logging import get_logger
from projections.queries.reader import BehindError

MEDIA_TYPE = "application/problem+json"
ERRORS_MAX = 100
RETRY_AFTER_S = 1

_logger = get_logger("gateway")


class BodyTooLargeError(errors.InvalidInputError):
    """The body is above `body_max_bytes`."""

    code = "body_too_large"


class UnsupportedMediaError(errors.InvalidInputError):
    """The body is not `application/json`."""

    code = "unsupported_media_type"


class ProjectionBehindError(BehindError):
    """The read models have not reached `min_position` in time; `position` says where they are."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a class of errors is over HTTP. `shows` names the details that the client may see."""

    status: int
    slug: str
    title: str
    headers: Mapping[str, str] | None = None
    shows: tuple[str, ...] = ()


_RETRY = {"Retry-After": str(RETRY_AFTER_S)}
INTERNAL = Kind(500, "internal", "Internal error")

TABLE: dict[type[errors.DataEngineError], Kind] = {
    errors.InvalidInputError: Kind(422, "invalid-input", "The input is not valid"),
    BodyTooLargeError: Kind(413, "body-too-large", "The body is too large"),
    UnsupportedMediaError: Kind(415, "unsupported-media-type", "The body is not JSON"),
    errors.NotFoundError: Kind(404, "not-found", "Not found"),
    errors.StateConflictError: Kind(409, "state-conflict", "The present state forbids it"),
    errors.ErasedError: Kind(410, "erased", "The company is erased"),
    errors.IdempotencyError: Kind(409, "idempotency-key-reused", "The Idempotency-Key was used for another body"),
    errors.RejectedError: Kind(409, "rejected", "Rejected"),
    errors.AuthenticationError: Kind(
        401, "unauthenticated", "Not authenticated", {"WWW-Authenticate": 'Bearer realm="data-engine-x"'}
    ),
    errors.PermissionError_: Kind(403, "forbidden", "Not allowed"),
    errors.LimitExceededError: Kind(429, "too-many-requests", "Too much for now", shows=("limit", "retry_after_s")),
    errors.UnavailableError: Kind(503, "unavailable", "Not available now", _RETRY),
    BehindError: Kind(503, "projection-behind", "The read models are behind", _RETRY, ("position",)),
    errors.ArchiveAlteredError: Kind(500, "archive-altered", "The history was altered", shows=("position",)),
    errors.DataEngineError: INTERNAL,
}

# What gateway/protocol.py refuses before there is a request that could be answered, by code.
REFUSALS: dict[str, Kind] = {
    "malformed_request": Kind(400, "malformed-request", "This is not HTTP/1.1 as RFC 9112 has it"),
    "head_timeout": Kind(408, "head-timeout", "The request's head took too long to come"),
    "body_timeout": Kind(408, "body-timeout", "The request's body took too long to come"),
    "target_too_long": Kind(414, "target-too-long", "The request's target is too long"),
    "head_too_large": Kind(431, "head-too-large", "The request's headers are too large or too many"),
    "too_many_connections": Kind(503, "too-many-connections", "There are too many connections", _RETRY),
    "http_version_not_supported": Kind(505, "http-version-not-supported", "This speaks HTTP/1.1"),
}

_ROUTING = {404: "No such endpoint", 405: "Every endpoint is a POST"}


def kind_of(error: errors.DataEngineError) -> Kind:
    """The table's row of an error: that of its nearest class."""
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def problem(
    kind: Kind,
    *,
    code: str,
    detail: str | None = None,
    request_id: str | None = None,
    faults: Sequence[Mapping[str, str]] = (),
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """A problem details response."""
    body: dict[str, Any] = {
        "type": f"/problems/{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "code": code,
        "request_id": request_id,
    }
    if detail:
        body["detail"] = detail
    if faults:
        body["errors"] = list(faults[:ERRORS_MAX])
    body |= extra or {}
    return Response(orjson.dumps(body), kind.status, headers=dict(kind.headers or {}), media_type=MEDIA_TYPE)


def from_error(error: errors.DataEngineError, request_id: str | None) -> Response:
    """The response to an error of the tree; one that is ours is logged and tells nothing."""
    kind = kind_of(error)
    if kind is INTERNAL:
        return from_unexpected(error, request_id)
    faults = error.details.get("problems", ()) if isinstance(error, errors.InvalidInputError) else ()
    extra = {name: error.details[name] for name in kind.shows if name in error.details}
    answer = problem(kind, code=error.code, detail=error.message, request_id=request_id, faults=faults, extra=extra)
    if "retry_after_s" in error.details:
        answer.headers["Retry-After"] = str(math.ceil(error.details["retry_after_s"]))
    return answer


def from_unexpected(error: BaseException, request_id: str | None) -> Response:
    """The response to a fault of ours: the log has the details, the client the request id to quote."""
    _logger.error("request_failed", request_id=request_id, error=repr(error), exc_info=error)
    detail = "Something went wrong on our side. Quote the request_id when you report it."
    return problem(INTERNAL, code="internal", detail=detail, request_id=request_id)


def pointer(parts: Sequence[str | int]) -> str:
    """A JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def invalid(path: str, message: str) -> errors.InvalidInputError:
    """One fault at one place of the body."""
    return errors.InvalidInputError(message, [{"path": path, "message": message}])


async def on_error(request: Request, error: Exception) -> Response:
    """Exception handler of everything that the application raises on purpose."""
    request_id = request.scope.get("request_id")
    if isinstance(error, HTTPException):
        title = _ROUTING.get(error.status_code, error.detail)
        kind = Kind(error.status_code, f"http-{error.status_code}", title, error.headers)
        return problem(kind, code=f"http_{error.status_code}", request_id=request_id)
    if isinstance(error, errors.DataEngineError):
        return from_error(error, request_id)
    return from_unexpected(error, request_id)
