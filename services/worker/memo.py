"""Results by content: what a step made of an input, found again by whoever is to make the same of the same.

The memo is a convenience: an entry that is lost costs an execution. It names payloads that stay where they are. Entries
belong to a company, so that nobody learns of the work of others by finding it done; they are sealed with its key.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import nats.errors
import orjson
from nats.aio.client import Client

from events import subjects
from events.errors import ErasedError, UnavailableError
from events.keyring import Keyring, keyring_of
from events.keys import Owner
from events.logging import get_logger
from services.steps.base import Step

REQUEST_TIMEOUT_S = 5.0

_logger = get_logger("memo")


def memo_key(step: Step[Any], config: dict[str, Any], inputs: Sequence[str]) -> str:
    """SHA-256, hexadecimal, of all that a step's output follows from: its version, its config, its inputs' digests."""
    plain = orjson.dumps([step.key, step.version, config, list(inputs)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(plain).hexdigest()


class Memo:
    """Entries of a company: JSON objects by key."""

    def __init__(self, connection: Client, keyring: Keyring | None = None) -> None:
        self._nc = connection
        self._keyring = keyring or keyring_of(connection)

    async def find(self, org_id: str, company_id: str, key: str) -> dict[str, Any] | None:
        """The entry, or None. Raises UnavailableError when the memo does not answer."""
        keys = await self._keyring.of(Owner(org_id, company_id))
        if keys is not None and keys.erased:
            return None
        subject = subjects.memo(org_id, company_id, key if keys is None else keys.name(key))
        try:
            asked = f"$JS.API.DIRECT.GET.{subjects.MEMO}.{subject}"
            answer = await self._nc.request(asked, b"", timeout=REQUEST_TIMEOUT_S)
        except nats.errors.Error as error:
            raise UnavailableError("The memo of results does not answer.") from error
        if answer.headers and "Status" in answer.headers:
            return None
        entry: dict[str, Any] = orjson.loads(answer.data if keys is None else keys.open_value(answer.data, subject))
        return entry

    async def keep(self, org_id: str, company_id: str, key: str, entry: dict[str, Any]) -> None:
        """Keep an entry in place of an earlier one. One that cannot be kept is a result that is not found again."""
        try:
            keys = await self._keyring.to_write(Owner(org_id, company_id))
            subject = subjects.memo(org_id, company_id, key if keys is None else keys.name(key))
            data = orjson.dumps(entry)
            await self._nc.publish(subject, data if keys is None else keys.seal_value(data, subject))
        except (nats.errors.Error, OSError, UnavailableError, ErasedError) as error:
            _logger.warning("not_memoised", error=repr(error))
