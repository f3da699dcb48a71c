"""Keys of companies: whatever a company's people handed in is stored sealed, and is gone once its key is destroyed.

A data key of 32 bytes for each company and generation, wrapped by a master key that is in no database (KeyWrapper: the
setting DATA_ENGINE_MASTER_KEYS, or a KMS). From it follow keys for each purpose (HMAC-SHA-256, RFC 2104), all of them
for AES-256-GCM (NIST SP 800-38D). Where wrapped keys are kept: events/key_store.py. Who has them: events/keyring.py.
"""

import base64
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from events.errors import ConfigurationError, PoisonedMessageError, UnavailableError

KEY_BYTES = 32
NONCE_BYTES = 12
GENERATION_BYTES = 4
_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class Owner(NamedTuple):
    """Whose bytes they are."""

    org_id: str
    company_id: str


class KeyWrapper(Protocol):
    """Wraps data keys; a KMS can stand behind it. `context` is bound to the wrapped key and must be given again."""

    async def wrap(self, data_key: bytes, context: bytes) -> str:
        """The data key, readable only by `unwrap` with the same context."""
        ...

    async def unwrap(self, wrapped: str, context: bytes) -> bytes:
        """The data key. Raises UnavailableError when it cannot be had now."""
        ...

    def is_current(self, wrapped: str) -> bool:
        """Whether the key was wrapped by the present master key."""
        ...


class MasterKeys:
    """Master keys from the settings, `id:base64` with commas: the first one wraps, all of them unwrap."""

    def __init__(self, text: str) -> None:
        self._keys: dict[str, AESGCM] = {}
        for part in text.split(","):
            name, _, encoded = part.strip().partition(":")
            try:
                key = base64.b64decode(encoded, validate=True)
            except ValueError:
                key = b""
            if not _ID.fullmatch(name) or len(key) != KEY_BYTES or name in self._keys:
                raise ConfigurationError(
                    "DATA_ENGINE_MASTER_KEYS is a list of id:base64 with commas between them, each id once and "
                    f"each key {KEY_BYTES} bytes. Make one: echo main:$(openssl rand -base64 32)"
                )
            self._keys[name] = AESGCM(key)
        self._current = next(iter(self._keys))

    async def wrap(self, data_key: bytes, context: bytes) -> str:
        """The data key under the first master key."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._keys[self._current].encrypt(nonce, data_key, context)
        return f"{self._current}:{base64.b64encode(nonce + sealed).decode()}"

    async def unwrap(self, wrapped: str, context: bytes) -> bytes:
        """The data key. Raises UnavailableError when its master key is not set here."""
        name, _, encoded = wrapped.partition(":")
        master = self._keys.get(name)
        if master is None:
            raise UnavailableError(
                f"A company's key is wrapped by the master key {name!r}: DATA_ENGINE_MASTER_KEYS lacks it."
            )
        data = base64.b64decode(encoded)
        try:
            return master.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context)
        except InvalidTag as error:
            raise UnavailableError(
                f"A company's key cannot be unwrapped: the master key {name!r} is another one, or KEYS was altered."
            ) from error

    def is_current(self, wrapped: str) -> bool:
        """Whether the first master key wrapped it."""
        return wrapped.partition(":")[0] == self._current


class DataKey:
    """One generation of a company's key, ready to be used."""

    def __init__(self, key: bytes) -> None:
        self._decisions = AESGCM(_derive(key, b"decisions"))
        self._values = AESGCM(_derive(key, b"values"))
        self._blobs = AESGCM(_derive(key, b"blobs"))
        self._nonces = _derive(key, b"blob nonces")

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """A decision's events: nonce ‖ ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._decisions.encrypt(nonce, plaintext, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The inverse of `seal`. Raises PoisonedMessageError."""
        return _opened(self._decisions, sealed, context, "A decision's sealed events")

    def seal_value(self, plaintext: bytes, context: bytes) -> bytes:
        """Anything else that is small: nonce ‖ ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._values.encrypt(nonce, plaintext, context)

    def open_value(self, sealed: bytes, context: bytes) -> bytes:
        """The inverse of `seal_value`. Raises PoisonedMessageError."""
        return _opened(self._values, sealed, context, "A sealed value")

    def seal_blob(self, plaintext: bytes, name: bytes) -> bytes:
        """A blob's bytes: the same for the same bytes under the same name, which follows from their digest."""
        nonce = hmac.new(self._nonces, name + sha256(plaintext).digest(), sha256).digest()[:NONCE_BYTES]
        return nonce + self._blobs.encrypt(nonce, plaintext, name)

    def open_blob(self, sealed: bytes, name: bytes) -> bytes:
        """The inverse of `seal_blob`. Raises PoisonedMessageError."""
        return _opened(self._blobs, sealed, name, "A blob")


@dataclass(frozen=True, slots=True)
class CompanyKeys:
    """The keys of a company. None of them is left once it is `erased`. `whole`: it never had anything unsealed."""

    generations: Mapping[int, DataKey]
    names: bytes = b""
    whole: bool = False
    erased: bool = False

    @property
    def current(self) -> tuple[int, DataKey]:
        """The newest generation, which seals."""
        number = max(self.generations)
        return number, self.generations[number]

    def name(self, text: str) -> str:
        """What stands for a digest in a stored name: without the key nobody can tell one from another."""
        return hmac.new(self.names, text.encode(), sha256).hexdigest()

    def seal_value(self, plaintext: bytes, context: str) -> bytes:
        """A small value under the newest generation, which stands before it."""
        number, key = self.current
        return number.to_bytes(GENERATION_BYTES) + key.seal_value(plaintext, context.encode())

    def open_value(self, sealed: bytes, context: str) -> bytes:
        """The inverse of `seal_value`. Raises PoisonedMessageError, KeyMissingError."""
        return self._of(sealed).open_value(sealed[GENERATION_BYTES:], context.encode())

    def seal_blob(self, plaintext: bytes, name: str) -> bytes:
        """A blob's bytes under the newest generation, which stands before them."""
        number, key = self.current
        return number.to_bytes(GENERATION_BYTES) + key.seal_blob(plaintext, name.encode())

    def open_blob(self, sealed: bytes, name: str) -> bytes:
        """The inverse of `seal_blob`. Raises PoisonedMessageError, KeyMissingError."""
        return self._of(sealed).open_blob(sealed[GENERATION_BYTES:], name.encode())

    def _of(self, sealed: bytes) -> DataKey:
        return self.generation(int.from_bytes(sealed[:GENERATION_BYTES]))

    def generation(self, number: int) -> DataKey:
        """The key of a generation. Raises KeyMissingError."""
        key = self.generations.get(number)
        if key is None:
            raise KeyMissingError(f"Generation {number} of a company's key is not known here.")
        return key


class KeyMissingError(UnavailableError):
    """A key that must exist is not known here yet, or not any more: waited out."""

    code = "key_missing"


def name_key(first_generation: bytes) -> bytes:
    """The key that names follow from: of the first generation, so that the same bytes have one name for ever."""
    return _derive(first_generation, b"names")


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hmac.new(key, b"data-engine-x " + purpose, sha256).digest()


def _opened(cipher: AESGCM, sealed: bytes, context: bytes, what: str) -> bytes:
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except (InvalidTag, ValueError) as error:
        raise PoisonedMessageError(f"{what} cannot be opened: altered, moved, or under another key.") from error
