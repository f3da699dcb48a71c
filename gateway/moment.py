"""`as_of`: a position of the log, or a time, and what was known then.

What never changes, or has not changed since, is read from the read models; a run that has changed since is folded from
its decisions up to then (projections/queries/as_of.py). So the read models must have reached the position.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field

from events.model import Recorded
from events.processing import RUN
from gateway import answers
from gateway.calls import Call
from gateway.cursors import POSITION_MAX
from gateway.history import EARLIEST, LATEST
from gateway.models import Position
from gateway.problems import invalid
from gateway.run_view import RunKey
from projections.queries import as_of, work
from projections.queries.reader import Row, Scope

HISTORIES_AT_ONCE = 16
CANDIDATES_MAX = 1000
"""Runs that one page of a list looks at, when it is filtered by what may have changed since."""

AsOf = Annotated[
    Position | Annotated[str, Field(max_length=40)] | None,
    Field(description="What was known then: a position of the log, or a time (RFC 3339, with a zone).", examples=[42]),
]


@dataclass(frozen=True, slots=True)
class Moment:
    """A position that everything asked for is as of, and the scope to ask in."""

    call: Call
    scope: Scope
    position: int

    async def run(self, run_id: str) -> Row:
        """The run as it was then. Raises NotFoundError when there was none."""
        row = await self.call.gateway.runs.load(RunKey(self.scope, run_id))
        if row is None or row["position"] > self.position:
            return answers.found(None, "run", f"{run_id} at position {self.position}")
        return (await self._as_they_were([row]))[0]

    async def step_results(self, run_id: str) -> list[Row]:
        """What was known then of the steps of a run that there was."""
        reader = self.call.gateway.reader
        row = await self.call.gateway.runs.load(RunKey(self.scope, run_id))
        if row is None or row["last_position"] <= self.position:
            return await work.step_results(reader, self.scope, run_id)
        return await as_of.step_results(reader, self.scope, await self._history(run_id))

    async def submission(self, submission_id: str) -> Row:
        """The submission, which never changes. Raises NotFoundError when there was none."""
        row = await work.submission(self.call.gateway.reader, self.scope, submission_id)
        if row is None or row["position"] > self.position:
            return answers.found(None, "submission", f"{submission_id} at position {self.position}")
        return row

    async def runs(
        self,
        scope: Scope,
        before: int,
        limit: int,
        submission_id: str | None,
        blueprint_id: str | None,
        status: str | None,
        *,
        verifications: bool,
    ) -> tuple[list[Row], int | None]:
        """Runs that there were, newest first, at most `limit`; and the position below which to go on, if any."""
        found: list[Row] = []
        looked_at = 0
        before = min(before, self.position + 1)
        while looked_at < CANDIDATES_MAX:
            wanted = limit + 1
            candidates = await work.runs(
                self.call.gateway.reader, scope, before, wanted, submission_id, blueprint_id, None, verifications
            )
            for row in await self._as_they_were(candidates[:limit]):
                if status in (None, row["status"]):
                    if len(found) == limit:
                        return found, found[-1]["position"]
                    found.append(row)
            if len(candidates) < wanted:
                return found, None
            looked_at += limit
            before = candidates[limit - 1]["position"]
            if len(found) == limit:
                return found, found[-1]["position"]
        return found, before

    async def _as_they_were(self, rows: Sequence[Row]) -> list[Row]:
        """Those that changed since as they were, in the same order."""
        changed = [row["run_id"] for row in rows if row["last_position"] > self.position]
        if not changed:
            return list(rows)
        gate = asyncio.Semaphore(HISTORIES_AT_ONCE)

        async def history(run_id: str) -> list[Recorded]:
            async with gate:
                return await self._history(run_id)

        histories = await asyncio.gather(*(history(run_id) for run_id in changed))
        decided = sorted((one for part in histories for one in part), key=lambda recorded: recorded.position)
        earlier = await as_of.runs(self.call.gateway.reader, self.scope, decided)
        return [earlier.get(row["run_id"], row) for row in rows]

    async def _history(self, run_id: str) -> list[Recorded]:
        history = await self.call.gateway.log.history(self.call.org_id, RUN, run_id)
        return [recorded for recorded in history if recorded.position <= self.position]


async def moment(call: Call, wanted: int | str) -> Moment:
    """The moment that is asked for, once the read models have reached it.

    Raises InvalidInputError for what is no position, no time, or not yet; ProjectionBehindError.
    """
    position = wanted if isinstance(wanted, int) else await position_at(call, time_of(wanted, "/as_of"))
    gateway = call.gateway
    if position > gateway.signals.position:
        last = (await gateway.log.state()).last_position
        if position > last:
            raise invalid("/as_of", f"The log has no position {position} yet; its last one is {last}.")
    scope = await call.caught_up(position)
    return Moment(call, replace(scope, min_position=position or None), position)


async def position_at(call: Call, time: datetime) -> int:
    """The last position that was recorded at or before a time. Raises InvalidInputError for one that is to come."""
    if time > datetime.now(UTC):
        raise invalid("/as_of", f"{time.isoformat()} is yet to come.")
    # The archive keeps microseconds, and so does this: what was recorded within the one asked for was there.
    after = await call.gateway.log.first_since(time + timedelta(microseconds=1))
    state = await call.gateway.log.state()
    if after is None and state.first_position <= state.last_position:
        return state.last_position
    if after is not None and (after > state.first_position or after == 1):
        return after - 1
    return await as_of.position_at(call.gateway.reader, Scope(call.org_id, call.within), time)


def time_of(text: str, path: str) -> datetime:
    """A time of a request's, in UTC. Raises InvalidInputError, which names the field by its JSON Pointer.

    One before EARLIEST is taken for it: nothing was recorded before either.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(path, f"{text!r} is no time as RFC 3339 has it, such as 2026-01-31T12:00:00Z.") from None
    if time.tzinfo is None:
        raise invalid(path, "The time has no zone: add Z, or an offset as +02:00.")
    try:
        return max(time.astimezone(UTC), EARLIEST)
    except OverflowError:  # by its zone it is in the year 0 or 10000
        return EARLIEST if time.year == 1 else LATEST


def before_of(moment_: Moment | None, before: int) -> int:
    """Below which position a list of what never changes lies."""
    return before if moment_ is None else min(before, moment_.position + 1, POSITION_MAX)
