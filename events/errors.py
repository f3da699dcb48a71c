"""The one exception tree. No HTTP codes here: the gateway maps these classes to problem details in one table.

DataEngineError
├── RejectedError            what was asked cannot be done; asking again as it is changes nothing
│   ├── InvalidInputError    the input itself is wrong; `problems` lists every fault with its path
│   ├── NotFoundError        no such thing, or not for this caller (the two are not told apart)
│   ├── StateConflictError   the thing exists and its state forbids this
│   ├── ErasedError          the company is erased, and whatever was its
│   └── IdempotencyError     the Idempotency-Key was used before with another body
├── AccessError
│   ├── AuthenticationError  nobody is known by these credentials
│   └── PermissionError_     known, and not allowed
├── LimitExceededError       too much for now: nothing was done, and asking again after `retry_after_s` works
├── VersionConflictError     another decision holds this version of the aggregate: reload and decide again
├── UnavailableError         a part of the system does not answer now; asking again may work
│   └── PayloadLostError     a stored payload is missing, or is not what its digest is of; perhaps it comes back
├── LogRewoundError          the log is not the one that a follower followed (truncated, recreated, restored)
├── ArchiveAlteredError      the archive is not what was added to it; says at which position
├── ProofError               a checkpoint, a proof or an export that cannot be read, or does not hold
├── PoisonedMessageError     a stored message that cannot be decoded
└── ConfigurationError       the system is set up wrongly; says which setting and what to do
"""

from collections.abc import Mapping, Sequence
from typing import Any


class DataEngineError(Exception):
    """The root. `code` is stable and machine-readable; the message says what was wrong, where, and what to do."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details
        if code is not None:
            self.code = code


class RejectedError(DataEngineError):
    """What was asked cannot be done as it is."""

    code = "rejected"


class InvalidInputError(RejectedError):
    """The input is wrong. `problems` is a list of {"path": "/steps/0/config/fields", "message": …}."""

    code = "invalid_input"

    def __init__(self, message: str, problems: Sequence[Mapping[str, str]] = (), *, code: str | None = None) -> None:
        super().__init__(message, code=code, problems=list(problems))


class NotFoundError(RejectedError):
    """No such thing, or not for this caller; the message never tells which."""

    code = "not_found"


class StateConflictError(RejectedError):
    """The thing's present state forbids what was asked."""

    code = "state_conflict"


class ErasedError(RejectedError):
    """What was asked concerns a company that is erased."""

    code = "erased"


class IdempotencyError(RejectedError):
    """The Idempotency-Key was used before for another body."""

    code = "idempotency_key_reused"


class AccessError(DataEngineError):
    """Who asks may not, or is not known."""


class AuthenticationError(AccessError):
    """The credentials name nobody who is active."""

    code = "unauthenticated"


class PermissionError_(AccessError):  # noqa: N801 - the builtin has the plain name
    """The caller is known, and its role does not allow this."""

    code = "forbidden"


class LimitExceededError(DataEngineError):
    """More than a limit allows was asked for, and nothing was done. `code` names the limit, `limit` is its value."""

    code = "limit_exceeded"


class VersionConflictError(DataEngineError):
    """Another decision holds this version of the aggregate; reload, and decide again."""

    code = "version_conflict"


class UnavailableError(DataEngineError):
    """A part of the system does not answer now."""

    code = "unavailable"


class PayloadLostError(UnavailableError):
    """A stored payload is missing, or is not what its digest is of: a replica may be behind, or somebody was at it."""

    code = "payload_lost"


class LogRewoundError(DataEngineError):
    """The log under a follower is not the one that it followed (design rule 13)."""

    code = "log_rewound"


class ArchiveAlteredError(DataEngineError):
    """A row of the archive was altered, removed, inserted or moved; `position` says which."""

    code = "archive_altered"


class ProofError(DataEngineError):
    """A checkpoint, a proof or an export that cannot be read, or does not hold."""

    code = "proof"


class PoisonedMessageError(DataEngineError):
    """A stored message cannot be decoded by this version of the code."""

    code = "poisoned_message"


class ConfigurationError(DataEngineError):
    """The system is set up wrongly."""

    code = "configuration"


_REJECTIONS: dict[str, type[RejectedError]] = {
    kind.__name__: kind
    for kind in (InvalidInputError, NotFoundError, StateConflictError, ErasedError, IdempotencyError)
}


def rejection_to_json(error: RejectedError) -> dict[str, Any]:
    """The wire form of a rejection: what a command service answers instead of a result."""
    return {"kind": type(error).__name__, "code": error.code, "message": error.message, "details": dict(error.details)}


def rejection_from_json(data: Mapping[str, Any]) -> RejectedError:
    """The inverse of `rejection_to_json`; a kind of a newer service becomes a plain RejectedError."""
    kind = _REJECTIONS.get(data["kind"], RejectedError)
    if kind is InvalidInputError:
        return InvalidInputError(data["message"], data["details"].get("problems", ()), code=data["code"])
    return kind(data["message"], code=data["code"], **data["details"])
