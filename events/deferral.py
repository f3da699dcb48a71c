"""Deferred commands as COMMANDS and DEAD_LETTERS keep them: where companies are encrypted, no plaintext is on disk.

    {"sealed_for":"<company>","box":"…"}   with the company's key        {"sealed_by":"main:…","box":"…"}   with a fresh
one, wrapped by the master key, for a command that names no company, or one that has no key yet.
"""

import base64
import os

import orjson

from events.commands import Command
from events.errors import PoisonedMessageError
from events.keyring import Keyring
from events.keys import KEY_BYTES, DataKey, KeyMissingError, Owner

_CONTEXT = b"deferred command"


async def seal_command(keyring: Keyring, subject: str, command: Command, body: bytes) -> bytes:
    """What is stored of a command under `subject`. Raises UnavailableError, ErasedError."""
    if keyring.store is None:
        return body
    company_id = getattr(command, "company_id", None)
    keys = await keyring.to_write(Owner(command.org_id, company_id)) if company_id else None
    if keys is not None:
        return orjson.dumps({"sealed_for": company_id, "box": _text(keys.seal_value(body, subject))})
    key = os.urandom(KEY_BYTES)
    wrapped = await keyring.store.wrapper.wrap(key, _CONTEXT)
    return orjson.dumps({"sealed_by": wrapped, "box": _text(DataKey(key).seal_value(body, subject.encode()))})


async def open_command(keyring: Keyring, subject: str, stored: bytes) -> bytes | None:
    """The command that is stored under `subject`; None when its company is erased.

    Raises PoisonedMessageError, UnavailableError.
    """
    try:
        outer = orjson.loads(stored)
        if not isinstance(outer, dict) or "box" not in outer:
            return stored  # from before, or without encryption
        box = base64.b64decode(outer["box"], validate=True)
        if keyring.store is None:
            raise KeyMissingError("A deferred command is encrypted, and no DATA_ENGINE_MASTER_KEYS are set.")
        if "sealed_by" in outer:
            key = await keyring.store.wrapper.unwrap(outer["sealed_by"], _CONTEXT)
            return DataKey(key).open_value(box, subject.encode())
        keys = await keyring.of(Owner(subject.split(".")[1], outer["sealed_for"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PoisonedMessageError(f"The message at {subject} is not a command: {error!r}") from error
    if keys is None:
        raise KeyMissingError(f"The key of company {outer['sealed_for']} is not in KEYS.")
    return None if keys.erased else keys.open_value(box, subject)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
