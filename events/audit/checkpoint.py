"""Checkpoints: what an org's history was at a moment, signed (C2SP tlog-checkpoint).

    <origin of the platform>/<org id>       the origin line, and the name of the key that signs it
    <size>                                  how many decisions
    <base64 of the root>                    RFC 6962
    position <position of the last one in the log>
    epoch <life of the log>
    time <RFC 3339, UTC>

One key signs for all orgs of a platform; its name, and so its key id, is that of the org's origin line.
"""

import re
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from events.audit import note as notes
from events.audit.merkle import EMPTY_ROOT, HASH_BYTES
from events.audit.note import Note, Verifier
from events.errors import ConfigurationError, ProofError
from events.ids import is_id

_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The first `size` decisions of an org have this root; the last of them stands at `position` of the log."""

    origin: str
    size: int
    root: bytes
    position: int
    epoch: str
    at: datetime

    @property
    def org_id(self) -> str:
        """Whose history it is."""
        return self.origin.rpartition("/")[2]

    def text(self) -> str:
        """The note's text. Raises ProofError when the epoch is no word."""
        if not self.epoch.isprintable() or not self.epoch:
            raise ProofError(f"The epoch {self.epoch!r} is no word.")
        root, at = b64encode(self.root).decode(), self.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return f"{self.origin}\n{self.size}\n{root}\nposition {self.position}\nepoch {self.epoch}\ntime {at}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """The inverse of `text`; unknown further lines are allowed. Raises ProofError."""
        lines = text.split("\n")
        extensions = {name: value for name, _, value in (line.partition(" ") for line in lines[3:])}
        try:
            origin, size, root = lines[0], _number(lines[1]), notes.from_base64(lines[2], "the root")
            position, epoch = _number(extensions["position"]), extensions["epoch"]
            at = datetime.fromisoformat(extensions["time"])
        except (ValueError, LookupError) as error:
            raise ProofError(f"This is no checkpoint of ours: {error}.") from error
        if len(root) != HASH_BYTES or (size == 0 and root != EMPTY_ROOT):
            raise ProofError("The checkpoint's root is no SHA-256.")
        notes.check_name(origin)
        if not is_id(origin.rpartition("/")[2]):
            raise ProofError(f"The checkpoint's origin {origin!r} does not end with the id of an org.")
        return cls(origin, size, root, position, epoch, at)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint and the note that it was read from."""

    checkpoint: Checkpoint
    note: Note

    @classmethod
    def parse(cls, text: str) -> "SignedCheckpoint":
        """Raises ProofError. The signature is not looked at."""
        note = Note.parse(text)
        return cls(Checkpoint.parse(note.text), note)

    def check(self, verifier: Verifier) -> None:
        """Raises ProofError unless the key signed it: the org's, or the platform's under the org's name."""
        origin = self.checkpoint.origin
        if verifier.name not in (origin, origin.rpartition("/")[0]):
            raise ProofError(f"The checkpoint is of {origin}, and the key is of {verifier.name}.")
        self.note.check(Verifier(origin, verifier.key))


class AuditKey:
    """The platform's key, which signs the checkpoints of all its orgs."""

    def __init__(self, key: Ed25519PrivateKey, origin: str) -> None:
        notes.check_name(origin)
        self._key = key
        self._origin = origin

    @classmethod
    def of(cls, secret: str, origin: str) -> "AuditKey":
        """From the setting: base64 of the 32 bytes of an Ed25519 private key (RFC 8032). Raises ConfigurationError."""
        try:
            key = Ed25519PrivateKey.from_private_bytes(notes.from_base64(secret.strip(), "it"))
            return cls(key, origin)
        except ProofError as error:
            raise ConfigurationError(f"DATA_ENGINE_AUDIT_KEY or _ORIGIN: {error.message}") from error
        except ValueError as error:
            raise ConfigurationError("DATA_ENGINE_AUDIT_KEY is the base64 of 32 bytes: dex audit new-key") from error

    def origin(self, org_id: str) -> str:
        """The origin line of an org's checkpoints."""
        return f"{self._origin}/{org_id}"

    def verifier(self, org_id: str | None = None) -> Verifier:
        """The public key: under the platform's name, or that of an org's checkpoints."""
        return Verifier(self._origin if org_id is None else self.origin(org_id), notes.public_bytes(self._key))

    def sign_text(self, org_id: str, text: str) -> str:
        """A text about an org as a signed note. Its first line must be no origin: a note is of one kind only."""
        return notes.sign(text, self.origin(org_id), self._key)

    def sign(self, checkpoint: Checkpoint) -> str:
        """The signed note of a checkpoint."""
        return notes.sign(checkpoint.text(), checkpoint.origin, self._key)


def _number(text: str) -> int:
    if not _NUMBER.match(text):
        raise ValueError(f"{text!r} is no number")
    return int(text)
