"""Applying `NNNN_name.sql`: plain files in order, each its own transaction, each recording itself.

The same files run with `psql "$DATA_ENGINE_DATABASE_URL" -f …`. They are written to change nothing when run twice, so
it does not matter who ran which.
"""

from pathlib import Path

import asyncpg

FOLDER = Path(__file__).parent
_LOCK_KEY = 0x64_65_78  # "dex": one migration at a time
_APPLIED = "SELECT version FROM data_engine.schema_migrations ORDER BY version"


def versions() -> list[str]:
    """The migrations there are, in order."""
    return sorted(path.stem for path in FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql"))


async def applied(database: asyncpg.Connection | asyncpg.Pool) -> list[str]:
    """The migrations that the database says it has."""
    try:
        return [row["version"] for row in await database.fetch(_APPLIED)]
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return []


async def migrate(dsn: str) -> list[str]:
    """Apply what is missing and return it. Safe beside another migration, and through a transaction pooler."""
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        done = []
        for version in versions():
            if version in await applied(connection):
                continue
            await _apply(connection, (FOLDER / f"{version}.sql").read_text())
            done.append(version)
        return done
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection, sql: str) -> None:
    """Run one file, with the lock taken inside its own transaction: a pooler may give each one another session."""
    begin = "BEGIN;"
    assert begin in sql, "a migration begins its own transaction"
    await connection.execute(sql.replace(begin, f"{begin}\nSELECT pg_advisory_xact_lock({_LOCK_KEY});", 1))
