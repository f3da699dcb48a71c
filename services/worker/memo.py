"""Results by content: what a step made of an input, found again by whoever is to make the same of the same.

The memo is a convenience: an entry that is lost costs an execution. It names payloads that stay where they are. Entries
belong to a company, so that nobody learns of the work of others by finding it done.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import nats.errors
import orjson
from nats.aio.client import Client

from events import subjects
from events.errors import UnavailableError
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

    def __init__(self, connection: Client) -> None:
        self._nc = connection

    async def find(self, org_id: str, company_id: str, key: str) -> dict[str, Any] | None:
        """The entry, or None. Raises UnavailableError when the memo does not answer."""
        subject = f"$JS.API.DIRECT.GET.{subjects.MEMO}.{subjects.memo(org_id, company_id, key)}"
        try:
            answer = await self._nc.request(subject, b"", timeout=REQUEST_TIMEOUT_S)
        except nats.errors.Error as error:
            raise UnavailableError("The memo of results does not answer.") from error
        if answer.headers and "Status" in answer.headers:
            return None
        entry: dict[str, Any] = orjson.loads(answer.data)
        return entry

    async def keep(self, org_id: str, company_id: str, key: str, entry: dict[str, Any]) -> None:
        """Keep an entry in place of an earlier one. One that cannot be kept is a result that is not found again."""
        try:
            await self._nc.publish(subjects.memo(org_id, company_id, key), orjson.dumps(entry))
        except (nats.errors.Error, OSError) as error:
            _logger.warning("not_memoised", error=repr(error))
