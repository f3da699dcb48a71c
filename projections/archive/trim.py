"""`dex log trim`: the beginning of the hot log goes; it is in the archive, and was compared with it a moment ago.

The stream denies purges and deletes for ever, so its messages go by age: a limit that is set for a moment. Before that,
the new beginning is announced in the stream's metadata, and everybody who reads has had the time to look (a lease).

All times are the server's, by which messages get old: by a wrong clock here, others would go than were announced.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from nats.aio.client import Client

from events import subjects
from events.archive import Archive
from events.errors import StateConflictError, UnavailableError
from events.history import LEASE_S
from events.log import APPEND_WITHIN_S, REQUEST_TIMEOUT_S, TRIMMED_TO, TRIMMING, EventLog, LogState, server_time
from projections.archive.check import OnProgress, check
from projections.archive.stream import api, config_of, metadata_of

MARGIN_S = 600.0
"""What becomes old enough while the limit is set is announced too."""
LOOK_AGAIN_S = 0.1
TRIM_WITHIN_S = 300.0
"""So long the limit is meant at most, which the stream's metadata say. One that a killed trim left is a fault after
that, before more goes than was announced."""
WAIT_S = LEASE_S + APPEND_WITHIN_S + 3 * REQUEST_TIMEOUT_S
"""Who appends looks where the log begins, then for the version's holder, for a key, and then he may try for so long."""
NANOSECONDS = 1_000_000_000

LOWEST_CHECKPOINT = "SELECT name, position FROM data_engine.projection_checkpoints ORDER BY position LIMIT 1"


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Where the log began before, and where it begins now."""

    before: int
    first_position: int


async def trim(
    pool: asyncpg.Pool,
    connection: Client,
    keep_s: float,
    progress: OnProgress = lambda _: None,
    lease_s: float = WAIT_S,
) -> Trimmed:
    """Drop from the hot log what is older than `keep_s`.

    Raises StateConflictError, and changes nothing, when something would be lost: the copies differ, the archive is not
    so far, or a follower of the log is behind.
    """
    log = EventLog(connection)
    await _end_trimming(connection)  # of an earlier one that was killed
    state = await log.state()
    if state.faults:
        raise StateConflictError(f"The stream EVENTS was reconfigured: {'; '.join(state.faults)}.")
    archive, oldest = Archive(pool), await _now(connection) - timedelta(seconds=keep_s)
    if await archive.position_at(oldest) < max(1, state.first_position):
        return Trimmed(state.first_position, state.first_position)
    announced = await archive.position_at(oldest + timedelta(seconds=min(MARGIN_S, keep_s / 2)))
    await _refuse_what_would_lose(pool, connection, state, announced, progress)
    # Not less than another trim has announced that goes on.
    await _set_metadata(connection, {TRIMMED_TO: str(max(announced, (await log.state()).trimmed_to))})
    await asyncio.sleep(lease_s)  # no wait for an event: until here others may believe what they saw before
    try:
        now = await _now(connection)
        age_s = (now - oldest).total_seconds()  # not `keep_s`: the lease has passed since
        until = now + timedelta(seconds=TRIM_WITHIN_S)
        await _set_metadata(connection, {TRIMMING: until.isoformat()}, max_age=int(age_s * NANOSECONDS))
        await _until_old_ones_are_gone(connection, oldest)
    finally:
        await _end_trimming(connection)
    return Trimmed(state.first_position, (await log.state()).first_position)


async def _refuse_what_would_lose(
    pool: asyncpg.Pool, connection: Client, state: LogState, announced: int, progress: OnProgress
) -> None:
    found = await check(pool, connection, progress, after=max(0, state.first_position - 1))
    if not found.ok:
        raise StateConflictError(f"Nothing is trimmed: {found.faults[0].message} See dex log check.")
    if found.not_archived and announced >= found.archive.position:
        raise StateConflictError(
            f"Nothing is trimmed: the archive ends at position {found.archive.position}, and what comes after it may "
            "be old enough to go. Try again once the archiver is there (dex status)."
        )
    row = await pool.fetchrow(LOWEST_CHECKPOINT)
    if row is not None and row["position"] < announced:
        raise StateConflictError(
            f"Nothing is trimmed: {row['name']} is at position {row['position']}, and {announced} would go. Try again "
            "once the projector is there (dex status)."
        )
    for stream in (subjects.TASKS, subjects.BULK_TASKS):
        info = await api(connection, f"STREAM.INFO.{stream}")
        behind = max((source.get("lag", 0) for source in info.get("sources", ())), default=0)
        if behind:
            raise StateConflictError(f"Nothing is trimmed: {stream} has {behind} tasks of the log still to take.")


async def _set_metadata(connection: Client, changes: dict[str, str], **config: Any) -> None:
    present = await config_of(connection)
    if present is None:
        raise StateConflictError("There is no log: the stream EVENTS is missing.")
    metadata = metadata_of(present) | changes
    await api(connection, f"STREAM.UPDATE.{subjects.EVENTS}", {**present, **config, "metadata": metadata})


async def _end_trimming(connection: Client) -> None:
    """No limit stays on the stream, whatever happened."""
    present = await config_of(connection)
    if present is None or TRIMMING not in metadata_of(present):
        return
    metadata = {name: value for name, value in metadata_of(present).items() if name != TRIMMING}
    await api(connection, f"STREAM.UPDATE.{subjects.EVENTS}", {**present, "max_age": 0, "metadata": metadata})


async def _until_old_ones_are_gone(connection: Client, oldest: datetime) -> None:
    try:
        async with asyncio.timeout(TRIM_WITHIN_S):
            while True:
                state = (await api(connection, f"STREAM.INFO.{subjects.EVENTS}"))["state"]
                if not state["messages"] or datetime.fromisoformat(state["first_ts"]) > oldest:
                    return
                await asyncio.sleep(LOOK_AGAIN_S)  # the bounded interval between two questions
    except TimeoutError as error:
        raise UnavailableError(
            "The server has not dropped all that is old yet; what is left is whole. Run dex log trim again."
        ) from error


async def _now(connection: Client) -> datetime:
    return server_time(await api(connection, f"STREAM.INFO.{subjects.EVENTS}"))
