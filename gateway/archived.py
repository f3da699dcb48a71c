"""The log as the gateway reads it: what was trimmed from it comes from the archive, under row-level security."""

from typing import Any

from nats.aio.client import Client

from events.archive import Archive
from events.history import WholeLog
from projections.queries.reader import Reader, Row, Scope


class _Scoped:
    """A reader that is bound to an org. Who may see what of it is decided by who calls, as for the hot log."""

    def __init__(self, reader: Reader, scope: Scope) -> None:
        self._reader = reader
        self._scope = scope

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """All rows that the org has."""
        return await self._reader.rows(self._scope, query, *args)


def whole_log(connection: Client, reader: Reader) -> WholeLog:
    """The log with the archive behind it."""

    async def open_archive(org_id: str) -> Archive:
        return Archive(_Scoped(reader, Scope(org_id)))

    return WholeLog(connection, open_archive)
