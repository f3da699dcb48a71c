"""Opaque cursors: a position in base64url. They hold no secret and grant nothing, so they are checked, not signed."""

import base64
import binascii

from events.errors import InvalidInputError
from gateway.problems import invalid

POSITION_MAX = 2**63 - 1


def encode(position: int) -> str:
    """The cursor of what follows `position`."""
    return base64.urlsafe_b64encode(f"p{position}".encode()).rstrip(b"=").decode()


def decode(cursor: str) -> int:
    """The position in a cursor that we gave out. Raises InvalidInputError for anything else."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise _garbage() from None
    if not (text.startswith("p") and text[1:].isdecimal() and len(text) <= 20 and encode(int(text[1:])) == cursor):
        raise _garbage()
    return min(int(text[1:]), POSITION_MAX)


def before(cursor: str | None) -> int:
    """The position that a list page, newest first, lies below."""
    return POSITION_MAX if cursor is None else decode(cursor)


def _garbage() -> InvalidInputError:
    return invalid("/cursor", "The cursor is not one that this service gave out.")
