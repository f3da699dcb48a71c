"""The log as a caller may see it: archive and hot log as one history, filtered, in both orders, a page at a time.

The archive is asked by SQL under row-level security, up to its head; what is beyond is read from the hot log, and
filtered here. Positions lead from page to page, so nothing is lost or doubled when the head moves meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from events.administration import TOKEN
from events.archive import Archived
from events.history import decoded
from events.keyring import keyring_of
from events.model import Recorded
from gateway.calls import Call
from gateway.cursors import POSITION_MAX
from gateway.permissions import rule_of
from projections.queries import history
from projections.queries.history import Filters
from projections.queries.reader import Scope

SCAN_MAX = 5_000
"""Decisions of the hot log read for one page at most."""
PAGE_ROWS = 500
"""Decisions read of the archive at once, when their topics decide which of them are wanted."""
WINDOW_POSITIONS = 2_000
WINDOWS_MAX = 4
EARLIEST, LATEST = datetime.fromtimestamp(0, UTC), datetime.max.replace(tzinfo=UTC)
"""Between them every store of ours can tell times apart: NATS counts nanoseconds in 64 bits, from 1678 to 2262, and
Postgres is told microseconds."""
SKEW = timedelta(hours=1)
"""So far apart the clocks of the log's servers may be, before what is recorded at a time is skipped by its position."""


@dataclass(frozen=True, slots=True)
class Part:
    """Decisions, and where to go on: after (or, newest first, before) `following`, unless it is None.

    `reached`: up to which position there is nothing else that is wanted.
    """

    found: list[Recorded]
    following: int | None
    reached: int


def hidden_from(call: Call) -> frozenset[str]:
    """Kinds that the caller does not see: tokens are for those who may list them."""
    return frozenset() if call.auth.role in rule_of("/v1/tokens/list").roles else frozenset({TOKEN})


class LogView:
    """What one caller sees of the log, within a scope that may be narrowed to a company."""

    def __init__(self, call: Call, scope: Scope, filters: Filters) -> None:
        self._reader = call.gateway.reader
        self._log = call.gateway.log
        self._keyring = keyring_of(call.gateway.connection)
        self._scope = scope
        self._filters = filters
        self._between: tuple[int, int] | None = None

    async def forward(self, after: int, before: int, limit: int) -> Part:
        """Oldest first, between two positions that are both excluded."""
        head = await self._archived_to()
        found: list[Recorded] = []
        if after < head:
            asked = limit if self._filters.topics is None else max(limit, PAGE_ROWS)
            rows, looked_to = await self._archive(after, min(before, head + 1), asked, newest_first=False)
            for row in rows:
                recorded = decoded(row, self._keyring)
                if self._filters.has_topic(recorded):
                    found.append(recorded)
                    if len(found) == limit:
                        return Part(found, recorded.position, recorded.position)
            if looked_to is not None:
                lower, upper = await self._times(len(rows) < asked)
                following = max(looked_to, min(lower - 1, head))
                return Part(found, None if looked_to >= upper - 1 else following, following)
            after = head
        scanned = 0
        async for recorded in self._log.read(after, f"events.{self._scope.org_id}.>", limit=SCAN_MAX):
            if recorded.position >= before:
                break
            scanned += 1
            after = recorded.position
            if self._filters.match(recorded, self._scope.company_id):
                found.append(recorded)
            if len(found) == limit or scanned == SCAN_MAX:
                return Part(found, after, after)
        return Part(found, None, after)

    async def backward(self, after: int, before: int, limit: int) -> Part:
        """Newest first, between two positions that are both excluded."""
        head = await self._archived_to()
        end = min(before - 1, (await self._log.state()).last_position)
        found: list[Recorded] = []
        for _ in range(WINDOWS_MAX):
            start = max(head, after, end - WINDOW_POSITIONS)
            if end <= start:
                break
            for recorded in reversed(await self._window(start, end)):
                found.append(recorded)
                if len(found) == limit:
                    return Part(found, recorded.position, recorded.position)
            end = start
        if end <= after:
            return Part(found, None, after)
        if end > head:
            return Part(found, end + 1, end + 1)
        return await self._backward_in_archive(found, after, end + 1, limit)

    async def _backward_in_archive(self, found: list[Recorded], after: int, before: int, limit: int) -> Part:
        remaining = limit - len(found)
        asked = remaining if self._filters.topics is None else max(remaining, PAGE_ROWS)
        rows, looked_to = await self._archive(after, before, asked, newest_first=True)
        for row in rows:
            recorded = decoded(row, self._keyring)
            if self._filters.has_topic(recorded):
                found.append(recorded)
                if len(found) == limit:
                    return Part(found, recorded.position, recorded.position)
        if looked_to is None:
            return Part(found, None, after)
        lower, upper = await self._times(len(rows) < asked)
        return Part(found, None if looked_to <= lower else min(looked_to, upper), looked_to)

    async def _times(self, looked_in_vain: bool) -> tuple[int, int]:
        """The archived positions between which what was recorded at the times that are asked for lies; looked up once,
        and only when a page looked at as much as it may and did not become full.
        """
        if looked_in_vain and self._between is None:
            begin, end = self._filters.recorded_from, self._filters.recorded_until
            lower, upper = 0, POSITION_MAX
            if begin is not None and begin > EARLIEST + SKEW:
                just_before = begin - SKEW - timedelta(microseconds=1)
                lower = await history.first_after(self._reader, self._scope, just_before) or POSITION_MAX
            if end is not None and end < LATEST - SKEW:
                upper = await history.first_after(self._reader, self._scope, end + SKEW) or POSITION_MAX
            self._between = lower, upper
        return self._between or (0, POSITION_MAX)

    async def one(self, position: int | None, decision_id: str | None, tail: Sequence[Recorded]) -> Recorded | None:
        """The decision at a position or of an id, if the caller sees it; `tail` is what the archive has not."""
        for recorded in tail:
            if recorded.position == position or recorded.decision.decision_id == decision_id:
                return recorded
        row = await history.one(self._reader, self._scope, position, decision_id)
        if row is None:
            return None
        await self._load([row])
        recorded = decoded(row, self._keyring)
        return recorded if self._filters.match(recorded, self._scope.company_id) else None

    async def caused_by(self, decision_ids: Sequence[str], limit: int, tail: Sequence[Recorded]) -> list[Recorded]:
        """What these decisions caused, by position; at most `limit`."""
        rows = await history.caused_by(self._reader, self._scope, decision_ids, limit)
        await self._load(rows)
        wanted = set(decision_ids)
        both = {
            recorded.position: recorded
            for recorded in (*(decoded(row, self._keyring) for row in rows), *tail)
            if recorded.decision.causation_id in wanted
            and recorded.decision.decision_id != recorded.decision.causation_id  # that of a command, by its own id
            and self._filters.match(recorded, self._scope.company_id)
        }
        return [both[position] for position in sorted(both)][:limit]

    async def tail(self) -> tuple[list[Recorded], bool]:
        """What the caller sees beyond the archive's head, at most SCAN_MAX; and whether that is all."""
        part = await self.forward(await self._archived_to(), POSITION_MAX, SCAN_MAX)
        return part.found, part.following is None

    async def _window(self, start: int, end: int) -> list[Recorded]:
        """What is wanted of the hot log's positions from `start` (excluded) to `end`."""
        found: list[Recorded] = []
        async for recorded in self._log.read(start, f"events.{self._scope.org_id}.>", limit=end - start):
            if recorded.position > end:
                break
            if self._filters.match(recorded, self._scope.company_id):
                found.append(recorded)
        return found

    async def _archived_to(self) -> int:
        """The archive's head; 0 when the archive is another log's."""
        epoch, position = await history.head(self._reader)
        return position if position and epoch == (await self._log.state()).epoch else 0

    async def _load(self, rows: Sequence[Archived]) -> None:
        await self._keyring.load((row.subject, row.body) for row in rows)

    async def _archive(
        self, after: int, before: int, limit: int, *, newest_first: bool
    ) -> tuple[list[Archived], int | None]:
        """Rows, and the position up to which was looked, if there may be more."""
        rows, looked_to = await history.decisions(
            self._reader, self._scope, self._filters, after, before, limit, newest_first=newest_first
        )
        await self._load(rows)
        return rows, looked_to
