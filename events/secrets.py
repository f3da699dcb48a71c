"""Secrets that are shown once: API tokens and invitations. Only their SHA-256 is kept, and that in no event."""

import hashlib
import secrets
import string
from dataclasses import dataclass, field

from events.ids import new_id

TOKEN_PREFIX = "dex_"
INVITATION_PREFIX = "dexi_"
RANDOM_CHARS = 43
HINT_CHARS = 8

_ALPHABET = string.digits + string.ascii_letters


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret and the random id by which events know it; `hint` is its beginning."""

    text: str = field(repr=False)
    secret_id: str

    @property
    def hint(self) -> str:
        """What may be shown of it for ever."""
        return self.text[:HINT_CHARS]


def new_secret(prefix: str) -> Secret:
    """A fresh secret of 256 random bits, behind a prefix that secret scanners can find."""
    return Secret(prefix + "".join(secrets.choice(_ALPHABET) for _ in range(RANDOM_CHARS)), new_id())


def verifier_of(secret: str) -> str:
    """What is stored of a secret: SHA-256 of the whole, hexadecimal. 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
