"""All read models as they were at a position of the log, built into a schema of their own: `dex replay --as-of`.

The live ones are neither read nor changed; of them only the shape of the tables is taken.
"""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
from nats.aio.client import Client

from events.archive import Archive
from events.errors import InvalidInputError, LogRewoundError, StateConflictError
from events.keyring import keyring_of
from projections import checkpoints
from projections.apply import apply
from projections.archive.reading import follow_whole
from projections.base import LIVE_SCHEMA, Projection
from projections.batch import opened, rarer_collections
from projections.database import Database
from projections.generations import in_service
from projections.log_guard import LogGuard
from projections.rebuild import SHADOW_SCHEMA

BATCH_DECISIONS = 1500
MARK = "data-engine-x: read models at position "
"""How the comment of such a schema begins; one without it is somebody else's."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_RESERVED = {LIVE_SCHEMA, SHADOW_SCHEMA, "public", "information_schema"}

COMMENT_OF = "SELECT obj_description(oid, 'pg_namespace') AS comment FROM pg_namespace WHERE nspname = $1"
COUNT = "SELECT count(*) FROM {schema}.{table}"
COUNT_DEAD_LETTERS = "SELECT count(*) FROM {schema}.projection_dead_letters"
HAS_VIEW = f"SELECT to_regclass('{LIVE_SCHEMA}.' || $1) IS NOT NULL"


@dataclass(frozen=True, slots=True)
class BuiltMoment:
    """What was built: rows of each read model, and the decisions that could not be applied."""

    schema: str
    position: int
    rows: dict[str, int]
    dead_letters: int
    seconds: float


Show = Callable[[int, int], None]
"""Is told the position that was reached, and the last one."""


async def build_moment(
    pool: asyncpg.Pool, connection: Client, schema: str, position: int, show: Show = lambda _at, _of: None
) -> BuiltMoment:
    """Build the read models at a position, from the archive and the log. One connection of the pool is held meanwhile.

    A schema that was built so before is built anew. Raises InvalidInputError for another schema, or a position that
    the log has not reached; LogRewoundError; UnavailableError.
    """
    check_name(schema)
    quoted = f'"{schema}"'  # the name may be a word of SQL's
    state = await LogGuard(connection).state()
    if not 0 <= position <= state.last_position:
        raise InvalidInputError(f"The log has no position {position}; its last one is {state.last_position}.")
    began_s = time.perf_counter()
    with rarer_collections():
        async with pool.acquire() as database:
            serving = await _make_schema(database, quoted, position)
            await _build(database, connection, quoted, serving, position, state.epoch, show)
            rows = {
                table.name: await database.fetchval(COUNT.format(schema=quoted, table=table.name))
                for projection in serving
                for table in projection.tables
            }
            letters = await database.fetchval(COUNT_DEAD_LETTERS.format(schema=quoted))
    return BuiltMoment(schema, position, rows, letters, time.perf_counter() - began_s)


def check_name(schema: str) -> None:
    """Raises InvalidInputError for what is no plain name of a schema, or the name of one that is not to be replaced."""
    if not _NAME.match(schema):
        raise InvalidInputError(f"{schema!r} is no schema's name: use small letters, digits and _, at most 63.")
    if schema in _RESERVED or schema.startswith("pg_"):
        raise InvalidInputError(f"The schema {schema} is not to be replaced; choose another name.")


async def _make_schema(database: Database, schema: str, position: int) -> Sequence[Projection]:
    """An empty schema with our mark, and tables like the live ones, in one transaction; what is to be built in it.

    The tables are not logged: it is small work to make them again.
    """
    async with database.transaction():
        found = await database.fetchrow(COMMENT_OF, schema.strip('"'))
        if found is not None and not (found["comment"] or "").startswith(MARK):
            raise StateConflictError(
                f"There is a schema {schema} that `dex replay` did not make; choose another name, or drop it yourself.",
                code="schema_exists",
            )
        await database.execute(
            f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; "
            f"COMMENT ON SCHEMA {schema} IS '{MARK}{position:d}'"
        )
        serving = await in_service(database)
        tables = [table.name for projection in serving for table in projection.tables]
        for table in [*tables, "projection_checkpoints", "projection_dead_letters"]:
            await database.execute(f"CREATE UNLOGGED TABLE {schema}.{table} (LIKE {LIVE_SCHEMA}.{table} INCLUDING ALL)")
        for projection in serving:
            if await database.fetchval(HAS_VIEW, projection.view):
                await database.execute(
                    f"CREATE VIEW {schema}.{projection.view} AS SELECT * FROM {schema}.{projection.tables[0].name}"
                )
    return serving


async def _build(
    database: Database,
    connection: Client,
    schema: str,
    serving: Sequence[Projection],
    position: int,
    epoch: str,
    show: Show,
) -> None:
    at: checkpoints.Checkpoints = await checkpoints.load(database, schema, [p.name for p in serving])
    if not position:
        return

    async def check_epoch(_after: int) -> None:
        if (await LogGuard(connection).state()).epoch != epoch:
            raise LogRewoundError("The log was made anew while the read models were built from it. Begin again.")

    messages = follow_whole(Archive(database), connection, 0, BATCH_DECISIONS, before_open=check_epoch)
    async with aclosing(cast(Any, messages)) as batches:
        async for received in batches:
            wanted = [message for message in received if message.position <= position]
            if wanted:
                batch = await opened(wanted, keyring_of(connection))
                at = {**at, **await apply(database, schema, serving, at, batch, epoch)}
                show(wanted[-1].position, position)
            if received[-1].position >= position or received[-1].pending == 0:
                return
