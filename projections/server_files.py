"""What is in PostgreSQL's files beside its tables: the write-ahead log's old bytes, and files that no table owns.

A checkpoint removes WAL segments that are no longer needed, or renames them to be used again with their old content in
them. What follows a switch in its segment is written as zeros. So going through all segments that were there after a
checkpoint leaves nothing of before it. (PostgreSQL, xlog.c: RemoveOldXlogFiles, CopyXLogRecordToWAL.)
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import asyncpg

SEGMENTS = "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' ORDER BY name"
WRITE = "SELECT pg_logical_emit_message(false, 'data-engine-x', 'so that there is something to switch from')"
CURRENT = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"
SWITCH = "SELECT pg_switch_wal()"
HOLDING = """
SELECT format('the replication slot %s', slot_name) AS what FROM pg_replication_slots WHERE restart_lsn IS NOT NULL
UNION ALL SELECT 'wal_keep_size' FROM pg_settings WHERE name = 'wal_keep_size' AND setting <> '0'
UNION ALL SELECT 'the archiver (archive_mode), which has not archived them yet' FROM pg_settings
WHERE name = 'archive_mode' AND setting <> 'off'
"""

# What a crash left of a table that was being made: nobody reads it, and nobody removes it.
ORPHANS = """
WITH here AS (
    SELECT 'base/' || oid AS folder FROM pg_database
    WHERE datname = current_database() AND dattablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'pg_default')
)
SELECT folder || '/' || file AS name FROM here, pg_ls_dir(folder) AS file
WHERE file ~ '^[0-9]+([._]|$)' AND pg_filenode_relation(0, substring(file FROM '^[0-9]+')::oid) IS NULL
  AND (pg_stat_file(folder || '/' || file, true)).size > 0
ORDER BY 1
"""

LOG_SETTINGS = "SELECT name, setting FROM pg_settings WHERE starts_with(name, 'log_')"


class Found(Protocol):
    """Where it is told what came of it."""

    wal_segments: int
    left: list[str]
    elsewhere: list[str]


async def overwrite_wal(database: asyncpg.Connection, found: Found, show: Callable[[str, int, int], None]) -> None:
    """Leave nothing in the server's WAL files of what was logged before this call.

    Writes as much as there are WAL files. Needs what a superuser may: CHECKPOINT (pg_checkpoint), pg_ls_waldir
    (pg_monitor), pg_switch_wal; where that is nobody's to have, it is told in `found.elsewhere`.
    """
    try:
        ended = await _end_segment(database)
        await database.execute("CHECKPOINT")
        names = [row["name"] for row in await database.fetch(SEGMENTS)]
    except asyncpg.InsufficientPrivilegeError as error:
        found.elsewhere.append(
            f"The WAL files of the server hold the rows until they are used again ({error}). Run this as a superuser, "
            "or wait: they go with the checkpoints that follow, and with your provider's retention of WAL and backups."
        )
        return
    if kept := [name for name in names if name <= ended]:
        holders = ", ".join(row["what"] for row in await database.fetch(HOLDING)) or "a checkpoint that is under way"
        found.left.append(
            f"{len(kept)} WAL files, up to {ended}, are kept for {holders}. Run this again when that is gone."
        )
    of = sum(name > ended for name in names)
    while (current := await _current(database)) <= names[-1]:
        show("overwriting WAL files", min(found.wal_segments, of), of)
        await database.execute(SWITCH)
        found.wal_segments += 1
        assert current < await _current(database), "a switch ends a segment"


async def _end_segment(database: asyncpg.Connection) -> str:
    """End the segment that is being written; its name."""
    name = await _current(database)
    await database.execute(SWITCH)
    await database.execute(WRITE)
    return name


async def _current(database: asyncpg.Connection) -> str:
    """The segment that is being written, of which something is written."""
    await database.execute(WRITE)
    name: str = await database.fetchval(CURRENT)
    return name


async def tell_orphans(database: asyncpg.Connection, found: Found) -> None:
    """Tell of files that no table owns. Silent for who may not list them: `overwrite_wal` has said so."""
    try:
        names = [row["name"] for row in await database.fetch(ORPHANS)]
    except asyncpg.InsufficientPrivilegeError:
        return
    if names:
        found.left.append(
            f"{len(names)} files of the database belong to no table ({', '.join(names[:5])}…): a transaction is making "
            "one, or a crash left them. Run this again; if they stay, stop PostgreSQL and remove them."
        )


class Logged(NamedTuple):
    """A way in which the server's own log comes to have what people handed in."""

    what: str
    todo: str


async def values_logged(database: asyncpg.Connection) -> list[Logged]:
    """What the server may write of rows and parameters into its log, which no erasure reaches."""
    setting = {row["name"]: row["setting"] for row in await database.fetch(LOG_SETTINGS)}
    found = []
    statements = setting["log_statement"] not in ("none", "ddl") or setting["log_min_duration_statement"] != "-1"
    if (statements and setting["log_parameter_max_length"] != "0") or setting[
        "log_parameter_max_length_on_error"
    ] != "0":
        found.append(Logged("The server's log has statements with their values", "set log_parameter_max_length = 0 and "
                            "log_parameter_max_length_on_error = 0"))  # fmt: skip
    if setting["log_error_verbosity"] != "terse":
        found.append(Logged("The server's log may quote rows that it refused", "set log_error_verbosity = terse"))
    return found
