"""`dex log restore archive`: what was altered or lost in the archive, made anew from the hot log.

The archive is cut back to its last whole position, and filled again from there as the archiver does it. What is cut off
and is not what the log has is kept in DEAD_LETTERS.
"""

import asyncio
from dataclasses import dataclass

import asyncpg
from nats.aio.client import Client

from events.errors import StateConflictError
from events.leaf import NO_CHAIN
from projections.archive.archiver import Archiver
from projections.archive.check import CHAIN_AT, CheckResult, Fault, OnProgress, check
from projections.archive.stream import dead_letter

ROW_AT = "SELECT subject, body FROM data_engine.event_log WHERE position = $1"

# The one way past the triggers that is ours: of the tables' owner, who is no process.
CUT = """
ALTER TABLE data_engine.event_log DISABLE TRIGGER event_log_is_append_only;
DELETE FROM data_engine.event_log WHERE position > {position:d};
ALTER TABLE data_engine.event_log ENABLE TRIGGER event_log_is_append_only;
DELETE FROM data_engine.event_log_head
"""
SET_HEAD = "INSERT INTO data_engine.event_log_head (epoch, position, chain) VALUES ($1, $2, $3)"


@dataclass(frozen=True, slots=True)
class ArchiveRestored:
    """What was done: cut off after a position, filled again up to another; what was cut off and not in the log."""

    cut_after: int
    last_position: int
    dead_letters: int


async def restore_archive(
    pool: asyncpg.Pool, connection: Client, progress: OnProgress = lambda _: None
) -> ArchiveRestored | None:
    """Make the archive anew from its first fault on; None when it has none.

    Raises StateConflictError when the log cannot give back what is wrong, or is itself not the log that was archived:
    then nothing is changed.
    """
    found = await check(pool, connection, progress)
    faults = found.of_archive()
    if not faults:
        return None
    # Of a row that was put in far beyond the head, what is between the two is missing as well.
    first = min(max(1, min(fault.position for fault in faults)), found.archive.position + 1)
    _refuse_what_would_lose(found, faults, first)
    kept = await _keep_what_differs(pool, connection, found)
    async with pool.acquire() as database, database.transaction():
        chain = await database.fetchval(CHAIN_AT, first - 1) or NO_CHAIN
        await database.execute(CUT.format(position=first - 1))
        await database.execute(SET_HEAD, found.log.epoch, first - 1, chain)
    await Archiver(pool, connection).run(asyncio.Event(), until_position=found.log.last_position)
    return ArchiveRestored(first - 1, found.log.last_position, kept)


def _refuse_what_would_lose(found: CheckResult, faults: list[Fault], first: int) -> None:
    damaged = {fault.position for fault in faults}
    if found.more_faults:
        damaged |= set(range(first, found.archive.position + 1))
    for fault in found.of_log():
        alone = fault.kind != "differs" or fault.position not in damaged
        if alone and not (fault.kind == "epoch" and first == 1 and found.archived == 0):
            raise StateConflictError(
                f"The log is not what was archived: {fault.message} The archive cannot be made anew from it; see "
                "dex log check, and restore the log first: dex log restore log"
            )
    if found.log.first_position > first:
        raise StateConflictError(
            f"Position {first} of the archive is damaged, and the log begins at {found.log.first_position}: restore "
            "the database from a backup. What it lacks then, the archiver adds."
        )


async def _keep_what_differs(pool: asyncpg.Pool, connection: Client, found: CheckResult) -> int:
    kept = 0
    for fault in found.faults:
        if fault.kind in ("differs", "inserted") and (row := await pool.fetchrow(ROW_AT, fault.position)) is not None:
            reason = f"cut off the archive when it was restored from the log: {fault.message}"
            await dead_letter(connection, f"archive.{fault.position}", row["body"], reason)
            kept += 1
    return kept
