"""Ids: random, or derived, so that a repeated command meets its own first decision (design rule 11)."""

import re
import uuid

_NAMESPACE = uuid.UUID("6d1f3f0c-7c0e-5a52-9d0c-4a8f1f0f6f1e")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def new_id() -> str:
    """A random id (UUID version 4, RFC 9562)."""
    return str(uuid.uuid4())


def derive_id(*parts: str) -> str:
    """The same id for the same parts, for ever (UUID version 5, RFC 9562)."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def first_run_id(submission_id: str) -> str:
    """The id of a submission's first run, in whose history the submission itself is recorded."""
    return derive_id(submission_id, "first run")


def is_id(text: str) -> bool:
    """Whether `text` has the form of our ids, and so is safe as one token of a NATS subject."""
    return _ID.match(text) is not None
