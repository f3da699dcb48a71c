"""Reading the log for a caller: the archive by its indexes, then what is not archived yet, by the same filters."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from events.administration import TOKEN
from events.errors import UnavailableError
from events.ids import first_run_id
from events.keyring import keyring_of
from events.log import EventLog
from events.mapper import decode_decision
from events.model import Decision, Recorded
from events.processing import RUN
from gateway.calls import Call
from gateway.permissions import rule_of
from projections.queries import journal
from projections.queries.journal import Columns
from projections.queries.reader import Row, Scope

PAGE_DECISIONS = 500
SCAN_MAX = 5_000
"""Decisions looked at for one page at most, when few of them are wanted."""
_END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which decisions; None: any. Times are those of the decisions: from `since` on, before `until`."""

    company_id: str | None = None
    user_id: str | None = None
    kind: str | None = None
    topic: str | None = None
    run_id: str | None = None
    submission_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def columns(self) -> Columns:
        """What the archive's columns answer."""
        first_run = None if self.submission_id is None else first_run_id(self.submission_id)
        return Columns(
            self.company_id, self.user_id, self.kind, self.since, self.until, self.run_id, self.submission_id, first_run
        )

    def holds(self, decision: Decision) -> bool:
        """Whether this one is wanted."""
        return (
            self.company_id in (None, decision.company_id)
            and self.user_id in (None, decision.actor.user_id)
            and self.kind in (None, decision.kind)
            and (self.since is None or decision.at >= self.since)
            and (self.until is None or decision.at < self.until)
            and (self.run_id is None or (decision.kind, decision.aggregate_id) == (RUN, self.run_id))
            and (self.submission_id is None or self._is_of_submission(decision))
            and (self.topic is None or any(self.topic == event.TOPIC for event in decision.events))
        )

    def _is_of_submission(self, decision: Decision) -> bool:
        assert self.submission_id is not None
        ids = decision.correlation_id, decision.aggregate_id
        return decision.kind == RUN and (ids[0] == self.submission_id or ids[1] == first_run_id(self.submission_id))


class Journal:
    """The log of the caller's org, as the caller may see it."""

    def __init__(self, call: Call, scope: Scope) -> None:
        self._call = call
        self._scope = scope
        self._log: EventLog = call.gateway.log
        self._keyring = keyring_of(call.gateway.connection)
        self._reader = call.gateway.reader

    def shows(self, decision: Decision) -> bool:
        """What is of the caller's company; tokens only to those who may list them."""
        if decision.kind == TOKEN and self._call.auth.role not in rule_of("/v1/tokens/list").roles:
            return False
        return self._call.within in (None, decision.company_id)

    async def page(self, wanted: Wanted, after: int, limit: int) -> tuple[list[Recorded], int | None]:
        """Those wanted after a position, oldest first, and the position to go on after, if there may be more."""
        found: list[Recorded] = []
        looked_at = 0
        async for recorded in self._from(wanted, after):
            looked_at += 1
            if wanted.holds(recorded.decision) and self.shows(recorded.decision):
                found.append(recorded)
            if len(found) == limit or looked_at == SCAN_MAX:
                return found, recorded.position
        return found, None

    async def page_back(self, wanted: Wanted, before: int | None, limit: int) -> tuple[list[Recorded], int | None]:
        """Those wanted before a position (None: the end), newest first, and the position to go on before.

        Raises UnavailableError when the archive is so far behind that its end cannot be read at once.
        """
        found: list[Recorded] = []
        looked_at = 0
        async for recorded in self._back_from(wanted, _END if before is None else before):
            looked_at += 1
            if wanted.holds(recorded.decision) and self.shows(recorded.decision):
                found.append(recorded)
            if len(found) == limit or looked_at == SCAN_MAX:
                return found, recorded.position
        return found, None

    async def head(self) -> int:
        """Up to where the archive has everything."""
        return await journal.head(self._reader)

    async def at(self, position: int) -> Recorded | None:
        """The decision at a position, if the caller may see it."""
        async for recorded in self._log.read(position - 1, self._subjects, limit=1):
            if recorded.position == position and self.shows(recorded.decision):
                return recorded
        return None

    async def by_id(self, decision_id: str) -> Recorded | None:
        """The decision with an id, if the caller may see it."""
        found = next((r for r in await self._tail() if r.decision.decision_id == decision_id), None)
        if found is None:  # after the tail: what is archived meanwhile is in one of them
            row = await journal.by_id(self._reader, self._scope, decision_id)
            found = None if row is None else (await self._opened([row]))[0]
        return found if found is not None and self.shows(found.decision) else None

    async def caused_by(self, decision_ids: list[str], limit: int) -> list[Recorded]:
        """What these decisions caused, by position, as far as the caller may see it; at most `limit`."""
        tail = [recorded for recorded in await self._tail() if recorded.decision.causation_id in decision_ids]
        rows = await journal.caused_by(self._reader, self._scope, decision_ids, limit)
        found = {recorded.position: recorded for recorded in (*tail, *map(_recorded, rows))}
        return [found[position] for position in sorted(found) if self.shows(found[position].decision)][:limit]

    @property
    def _subjects(self) -> str:
        return f"events.{self._scope.org_id}.>"

    async def _from(self, wanted: Wanted, after: int) -> AsyncIterator[Recorded]:
        head = await journal.head(self._reader)
        while after < head:
            rows = await journal.decisions(
                self._reader, self._scope, "oldest_first", wanted.columns, after, head + 1, PAGE_DECISIONS
            )
            for recorded in await self._opened(rows):
                yield recorded
            after = rows[-1]["position"] if len(rows) == PAGE_DECISIONS else head
        async for recorded in self._log.read(after, self._subjects):
            yield recorded

    async def _back_from(self, wanted: Wanted, before: int) -> AsyncIterator[Recorded]:
        head = await journal.head(self._reader)
        for recorded in reversed(await self._after(head)):
            if recorded.position < before:
                yield recorded
        before = min(before, head + 1)
        while True:
            rows = await journal.decisions(
                self._reader, self._scope, "newest_first", wanted.columns, 0, before, PAGE_DECISIONS
            )
            for recorded in await self._opened(rows):
                yield recorded
            if len(rows) < PAGE_DECISIONS:
                return
            before = rows[-1]["position"]

    async def _tail(self) -> list[Recorded]:
        """What is not archived yet, oldest first."""
        return await self._after(await journal.head(self._reader))

    async def _after(self, head: int) -> list[Recorded]:
        found = [recorded async for recorded in self._log.read(head, self._subjects, limit=SCAN_MAX)]
        if len(found) == SCAN_MAX:
            raise UnavailableError(f"The archive is at position {head}, too far behind the log for this; ask again.")
        return found

    async def _opened(self, rows: Sequence[Row]) -> list[Recorded]:
        """Decisions of the archive, with the keys that they need."""
        await self._keyring.load((row["subject"], row["body"]) for row in rows)
        return [Recorded(row["position"], decode_decision(row["subject"], row["body"], self._keyring)) for row in rows]
