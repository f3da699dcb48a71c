"""When tokens were last used: gathered here, written now and then, and of use to people only."""

import asyncio
from datetime import UTC, datetime

from events.context import AuthContext
from events.errors import UnavailableError
from events.logging import get_logger
from events.tasks import ended
from projections.queries import access
from projections.queries.reader import Reader

WRITE_EVERY_S = 15.0

_logger = get_logger("usage")


class TokenUsage:
    """The tokens that were used since the last writing, by org; at most one entry a token."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._used: dict[str, dict[str, datetime]] = {}
        self._task: asyncio.Task[None] | None = None

    def note(self, auth: AuthContext) -> None:
        """This caller made a request now."""
        if auth.token_id is not None:
            self._used.setdefault(auth.org_id, {})[auth.token_id] = datetime.now(UTC)

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._keep_writing())

    async def stop(self) -> None:
        """Write what there is, and no more."""
        if self._task is not None:
            await ended([self._task])
        await self.write()

    async def write(self) -> None:
        """Write what was gathered. What cannot be written is lost: the next use of the token tells more."""
        used, self._used = self._used, {}
        for org_id, tokens in used.items():
            try:
                await access.note_usage(self._reader, org_id, tokens)
            except UnavailableError as error:
                _logger.warning("usage_not_written", tokens=len(tokens), error=error.message)

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()
