"""Signed notes: a text with Ed25519 signatures below it, as transparency logs use them (C2SP signed-note).

    text, which ends with a newline
    (an empty line)
    — <name of the key> <base64 of key id (4 bytes) and signature (64 bytes)>

A signature line of a key that is not asked about is passed over, so that others may sign the same note (witnesses).
"""

import hashlib
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from events.errors import ProofError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_ID_BYTES = 4
NOTE_MAX_BYTES = 64 * 1024
SIGNATURES_MAX = 100
_ED25519 = b"\x01"
_DASH = "\N{EM DASH} "


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and its name: `<name>+<key id in hex>+<base64 of 0x01 and the key>` as text."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.key) != KEY_BYTES:
            raise ProofError(f"An Ed25519 key has {KEY_BYTES} bytes, this one has {len(self.key)}.")

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name, LF, 0x01, key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64encode(_ED25519 + self.key).decode()}"

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """The inverse of `str`. Raises ProofError."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        key = from_base64(encoded, "the verifier's key")
        if key[:1] != _ED25519:
            raise ProofError("The verifier is not one of an Ed25519 key: <name>+<key id>+<base64>.")
        verifier = cls(name, key[1:])
        if verifier.key_id.hex() != key_id.lower():
            raise ProofError(f"The verifier's key id should be {verifier.key_id.hex()}, and is {key_id!r}: a typo?")
        return verifier

    def holds(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's for the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Note:
    """A text, and who signed it: (name, key id, signature)."""

    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]

    @classmethod
    def parse(cls, note: str) -> "Note":
        """Raises ProofError when it is no note. The signatures are not looked at."""
        if len(note) > NOTE_MAX_BYTES:
            raise ProofError(f"A note has at most {NOTE_MAX_BYTES} bytes.")
        text, separator, lines = note.rpartition("\n\n")
        if not separator or not lines.endswith("\n") or any(char < " " and char != "\n" for char in note):
            raise ProofError("This is no signed note: a text, an empty line, and a line for each signature.")
        signatures = [_signature_of(line) for line in lines[:-1].split("\n")]
        if len(signatures) > SIGNATURES_MAX:
            raise ProofError(f"A note has at most {SIGNATURES_MAX} signatures.")
        return cls(f"{text}\n", tuple(signatures))

    def check(self, verifier: Verifier) -> None:
        """Raises ProofError unless this key has signed the text."""
        for name, key_id, signature in self.signatures:
            if name == verifier.name and key_id == verifier.key_id:
                if verifier.holds(self.text.encode(), signature):
                    return
                raise ProofError(f"{name}'s signature does not hold: the text was altered, or signed by another.")
        signers = ", ".join(f"{name} ({key_id.hex()})" for name, key_id, _ in self.signatures)
        raise ProofError(f"The note is not signed by {verifier.name} ({verifier.key_id.hex()}), but by {signers}.")


def sign(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """The note: `text`, which ends with a newline, signed. Raises ProofError."""
    if not text.endswith("\n") or "\n\n" in text or any(char < " " and char != "\n" for char in text):
        raise ProofError("A note's text has lines without control characters, none of them empty.")
    verifier = Verifier(name, public_bytes(key))
    signature = b64encode(verifier.key_id + key.sign(text.encode())).decode()
    return f"{text}\n{_DASH}{name} {signature}\n"


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The public key, 32 bytes."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def check_name(name: str) -> None:
    """Raises ProofError for what can be no name of a key."""
    if not name or "+" in name or not name.isprintable() or any(char.isspace() for char in name):
        raise ProofError(f"{name!r} is no name of a key: it has no spaces, no + and no control characters.")


def from_base64(text: str, what: str) -> bytes:
    """Raises ProofError that names what it was; also where bits are left over, as two texts would be the same bytes."""
    try:
        found = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise ProofError(f"{what[0].upper()}{what[1:]} is not base64.") from error
    if b64encode(found).decode() != text:
        raise ProofError(f"{what[0].upper()}{what[1:]} is not base64 as it is written: it has bits left over.")
    return found


def _signature_of(line: str) -> tuple[str, bytes, bytes]:
    name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
    if not line.startswith(_DASH):
        raise ProofError("A signature line begins with an em dash and a space.")
    check_name(name)
    found = from_base64(encoded, "a signature")
    if len(found) <= KEY_ID_BYTES:
        raise ProofError("A signature line ends with key id and signature.")
    return name, found[:KEY_ID_BYTES], found[KEY_ID_BYTES:]
