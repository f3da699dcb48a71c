"""Comparing the archive with itself and with the hot log: count, contiguity, chain, and each common position's bytes.

Whoever alters both copies alike, and the chain, is not found here; that is what signed checkpoints outside are for.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from uuid import UUID

import asyncpg
from nats.aio.client import Client

from events import subjects
from events.archive import HEAD, ArchiveHead
from events.follow import Followed, follow
from events.leaf import NO_CHAIN, leaf_bytes, next_chain
from events.log import EventLog, LogState
from events.tasks import ended
from projections.archive.rows import COLUMNS, derived
from projections.archive.stream import ask

PAGE_ROWS = 2000
FAULTS_MAX = 1000
SILENCE_S = 2.0
"""After so long without a message the server is asked whether it can read another one."""
NO_MESSAGE = 10037

DERIVED = tuple(COLUMNS)[4:5] + tuple(COLUMNS)[6:]
ROWS = f"""
SELECT position, subject, body, chain, {", ".join(DERIVED)} FROM data_engine.event_log
WHERE position > $1 AND position <= $2 ORDER BY position LIMIT {PAGE_ROWS}
"""
CHAIN_AT = "SELECT chain FROM data_engine.event_log WHERE position = $1"
BEYOND = """
SELECT min(position) FROM data_engine.event_log
WHERE position > coalesce((SELECT position FROM data_engine.event_log_head), 0)
"""

Kind = Literal["altered", "missing", "inserted", "head", "column", "differs", "log_missing", "epoch", "log_cut"]
ARCHIVE_KINDS = frozenset({"altered", "missing", "inserted", "head", "column"})
"""What is wrong with the archive itself; the others tell how the hot log differs from it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and at which position."""

    position: int
    kind: Kind
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a comparison, a restoration is: positions."""

    position: int
    total: int


OnProgress = Callable[[Progress], None]


@dataclass(slots=True)
class CheckResult:
    """What was found. `compared` positions are in both copies; `not_archived` ones are waiting for the archiver."""

    log: LogState
    archive: ArchiveHead
    compared: int = 0
    archived: int = 0
    not_archived: int = 0
    faults: list[Fault] = field(default_factory=list)
    more_faults: int = 0

    @property
    def ok(self) -> bool:
        """Whether both copies are whole and the same."""
        return not self.faults

    def add(self, position: int, kind: Kind, message: str) -> None:
        """Note a fault; those beyond FAULTS_MAX are counted only."""
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(position, kind, message))
        else:
            self.more_faults += 1

    def of_archive(self) -> list[Fault]:
        """What is wrong with the archive itself."""
        return [fault for fault in self.faults if fault.kind in ARCHIVE_KINDS]

    def of_log(self) -> list[Fault]:
        """How the hot log differs from the archive."""
        return [fault for fault in self.faults if fault.kind not in ARCHIVE_KINDS]


async def check(
    pool: asyncpg.Pool, connection: Client, progress: OnProgress = lambda _: None, after: int = 0
) -> CheckResult:
    """Compare the two copies as they are now, from the position `after` on. Both may go on growing meanwhile."""
    head_row = await pool.fetchrow(HEAD)
    head = ArchiveHead(**head_row) if head_row is not None else ArchiveHead()
    state = await EventLog(connection).state()  # after the head: what is archived is in the log
    found = CheckResult(state, head)
    _check_bounds(found)
    hot = Hot(connection, state)
    async with aclosing(hot):
        chain, expected = await pool.fetchval(CHAIN_AT, after) or NO_CHAIN, after + 1
        async for rows in archived_rows(pool, head.position, after):
            messages = await hot.up_to(rows[-1]["position"])
            for row in rows:
                _missing(found, expected, row["position"])
                chain = _check_row(found, row, chain)
                _compare(found, row, messages.get(row["position"]))
                expected = row["position"] + 1
            found.archived += len(rows)
            progress(Progress(expected - 1, head.position))
    _check_tail(found, expected, chain)
    if (beyond := await pool.fetchval(BEYOND)) is not None:
        found.add(beyond, "inserted", f"The archive has a row at position {beyond}, beyond its head.")
    return found


def _check_bounds(found: CheckResult) -> None:
    state, head = found.log, found.archive
    if head.position and head.epoch != state.epoch:
        found.add(0, "epoch", f"The archive is of the log {head.epoch!r}, and this one is {state.epoch!r}.")
    if state.last_position < head.position:
        lost = state.last_position + 1
        found.add(lost, "log_cut", f"The log ends at {state.last_position}, and the archive has up to {head.position}.")
    if state.first_position > head.position + 1:
        found.add(
            head.position + 1,
            "missing",
            f"The archive ends at {head.position}, and the log begins at {state.first_position}: what was between is "
            "in neither.",
        )
    if found.log.first_position > max(1, state.trimmed_to + 1):
        upto = f"1 to {state.first_position - 1}" if state.first_position > 2 else "1"
        found.add(1, "log_missing", f"The log lost its beginning, which nobody trimmed: it has no position {upto}.")
    found.not_archived = max(0, state.last_position - head.position)


def _missing(found: CheckResult, expected: int, position: int) -> None:
    if position > expected:
        upto = f" to {position - 1}" if position - 1 > expected else ""
        found.add(expected, "missing", f"The archive has no row at position {expected}{upto}.")


def _check_row(found: CheckResult, row: Mapping[str, Any], chain: bytes) -> bytes:
    """The chain to go on with: that of the row, so that what is altered later is found too."""
    position = row["position"]
    if next_chain(chain, leaf_bytes(position, row["subject"], row["body"])) != row["chain"]:
        found.add(position, "altered", f"Position {position} of the archive, or the one before it, was altered.")
    told = derived(row["subject"], row["body"])
    for name, value in zip(DERIVED, told, strict=True):
        if _plain(row[name]) != value:
            found.add(position, "column", f"Position {position} of the archive: {name} is not what the decision says.")
    return bytes(row["chain"])


def _plain(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _compare(found: CheckResult, row: Mapping[str, Any], message: Followed | None) -> None:
    position = row["position"]
    if message is None:
        if found.log.first_position <= position <= found.log.last_position:
            found.add(position, "log_missing", f"The log has nothing at position {position}, and the archive has.")
        return
    found.compared += 1
    if (message.subject, message.body) != (row["subject"], row["body"]):
        found.add(position, "differs", f"At position {position} the log has another decision than the archive.")


def _check_tail(found: CheckResult, expected: int, chain: bytes) -> None:
    head = found.archive
    if expected <= head.position:
        _missing(found, expected, head.position + 1)
    elif chain != head.chain:
        found.add(head.position, "head", "The archive's head has another chain than its last row.")


async def archived_rows(pool: asyncpg.Pool, until: int, after: int = 0) -> AsyncIterator[list[Any]]:
    """The archive's rows up to a position, in pages."""
    while after < until and (rows := await pool.fetch(ROWS, after, until)):
        yield rows
        after = rows[-1]["position"]


class Hot:
    """The hot log's messages as it is now, in step with another reader."""

    def __init__(self, connection: Client, state: LogState) -> None:
        self._nc = connection
        self._last = state.last_position
        self._at = max(0, state.first_position - 1)
        self._waiting: list[Followed] = []
        self._messages = cast(Any, follow(connection, subjects.EVENTS, [">"], self._at))
        self._asked: asyncio.Task[list[Followed]] | None = None

    async def up_to(self, position: int) -> dict[int, Followed]:
        """Those that were not given out yet, up to a position, by their positions."""
        while self._at < min(position, self._last):
            batch = await self._next()
            self._at = batch[-1].position if batch and batch[-1].pending else self._last
            self._waiting += batch
        given = {message.position: message for message in self._waiting if message.position <= position}
        self._waiting = [message for message in self._waiting if message.position > position]
        return given

    async def _next(self) -> list[Followed]:
        """What comes next; nothing when nothing comes, and the server has nothing more that it could read."""
        self._asked = self._asked or asyncio.create_task(anext(self._messages))
        while not (await asyncio.wait({self._asked}, timeout=SILENCE_S))[0]:
            beyond = {"seq": self._at + 1, "next_by_subj": ">"}
            answer = await ask(self._nc, f"STREAM.MSG.GET.{subjects.EVENTS}", beyond)
            if answer.get("error", {}).get("err_code") == NO_MESSAGE:
                return []
        batch, self._asked = self._asked.result(), None
        return batch

    async def aclose(self) -> None:
        """Give the consumer back."""
        if self._asked is not None:
            await ended([self._asked])
        await self._messages.aclose()
