"""An archive that is filled as the archiver fills it, and changed as only its owner can."""

from collections.abc import Sequence

import asyncpg

from events.archive import Archive, ArchiveHead
from events.follow import Followed
from projections.archive.archiver import insert, move_head
from projections.archive.rows import rows_of
from tests.audit.support import AT, EPOCH, Entry

TABLES = "event_log, event_log_head, org_leaves, org_tiles, org_checkpoints, org_trees, org_trees_head"
PAST_THE_TRIGGERS = "SET LOCAL session_replication_role = replica"
START_OVER = "UPDATE data_engine.org_trees_head SET position = 0, chain = decode(repeat('00', 32), 'hex')"
EMPTY = f"""
BEGIN; {PAST_THE_TRIGGERS}; TRUNCATE {", ".join(f"data_engine.{name}" for name in TABLES.split(", "))};
INSERT INTO data_engine.org_trees_head (position, chain) VALUES (0, decode(repeat('00', 32), 'hex')); COMMIT
"""


async def fill(pool: asyncpg.Pool, entries: Sequence[Entry]) -> int:
    """Add decisions whose positions follow on the archive's head; the last position."""
    head = await Archive(pool).head()
    at_ns = int(AT.timestamp()) * 10**9
    messages = [
        Followed(one.position, one.subject, one.body, pending=0, recorded_ns=at_ns + one.position * 10**9)
        for one in entries
    ]
    rows, chain = rows_of(messages, head.chain)
    async with pool.acquire() as connection, connection.transaction():
        await move_head(
            connection, ArchiveHead(EPOCH, head.position, head.chain), ArchiveHead(EPOCH, rows[-1][0], chain)
        )
        await insert(connection, rows)
    return int(rows[-1][0])


async def tamper(pool: asyncpg.Pool, *statements: str) -> None:
    """As a superuser who takes the triggers away."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(PAST_THE_TRIGGERS)
        for statement in statements:
            await connection.execute(statement)
