"""Comparing a rebuilt read model with the live one, row by row, and putting the rebuilt rows in its place."""

from dataclasses import dataclass

from projections.base import Table
from projections.database import Database

SAMPLE_KEYS = 3
LONG_STATEMENT_S = 6 * 3600.0
"""Comparing takes as long as the tables are large; the pool's time-out is for small statements."""

COUNT = "SELECT count(*) FROM {schema}.{table}"

ONLY_IN_ONE = """
SELECT count(*) OVER () AS rows, concat_ws(' ', {key}) AS key
FROM (SELECT {columns} FROM {one} EXCEPT ALL SELECT {columns} FROM {other}) AS differing
ORDER BY {key}
LIMIT {samples}
"""

SHARED_COLUMNS = """
SELECT one.attname::text AS name FROM pg_attribute one
JOIN pg_attribute other ON other.attname = one.attname AND other.attrelid = to_regclass($2)
WHERE one.attrelid = to_regclass($1) AND one.attnum > 0 AND NOT one.attisdropped ORDER BY one.attnum
"""

DELETE_DIFFERING = """
DELETE FROM {live}.{table} AS t
USING (SELECT * FROM {live}.{table} EXCEPT ALL SELECT * FROM {rebuilt}.{table}) AS differing
WHERE ({t_key}) = ({differing_key})
"""

INSERT_MISSING = """
INSERT INTO {live}.{table}
SELECT * FROM {rebuilt}.{table} EXCEPT ALL SELECT * FROM {live}.{table}
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one table: how many rows were rebuilt, how many are on one side only, and the first keys of those."""

    rows: int
    only_live: int
    only_rebuilt: int
    sample_live: tuple[str, ...]
    sample_rebuilt: tuple[str, ...]

    @property
    def none(self) -> bool:
        """Whether both sides have the same rows."""
        return not self.only_live and not self.only_rebuilt


async def compare(connection: Database, table: Table, live: str, rebuilt: str) -> Difference:
    """Compare a table of one schema with that of another; the order of the rows does not matter."""
    rows = await connection.fetchval(COUNT.format(schema=rebuilt, table=table.name), timeout=LONG_STATEMENT_S)
    sides = f"{live}.{table.name}", f"{rebuilt}.{table.name}"
    return await _difference(connection, table.key, "*", rows, *sides)


async def compare_columns(connection: Database, schema: str, old: Table, new: Table) -> Difference:
    """Compare two generations of a table in the columns that both have."""
    sides = f"{schema}.{old.name}", f"{schema}.{new.name}"
    rows = await connection.fetchval(COUNT.format(schema=schema, table=new.name), timeout=LONG_STATEMENT_S)
    shared = [row["name"] for row in await connection.fetch(SHARED_COLUMNS, *sides)]
    return await _difference(connection, new.key, ", ".join(shared), rows, *sides)


async def _difference(
    connection: Database, key: tuple[str, ...], columns: str, rows: int, live: str, rebuilt: str
) -> Difference:
    only_live, sample_live = await _only_in_one(connection, key, columns, live, rebuilt)
    only_rebuilt, sample_rebuilt = await _only_in_one(connection, key, columns, rebuilt, live)
    return Difference(rows, only_live, only_rebuilt, sample_live, sample_rebuilt)


async def replace(connection: Database, table: Table, live: str, rebuilt: str) -> None:
    """Make the live rows those that were rebuilt, by changing only the rows that differ.

    The tables themselves stay, with their grants and policies, and readers see the one state or the other: nothing is
    locked but the rows that change.
    """
    names = {"live": live, "rebuilt": rebuilt, "table": table.name}
    delete = DELETE_DIFFERING.format(**names, t_key=_columns("t", table), differing_key=_columns("differing", table))
    await connection.execute(delete, timeout=LONG_STATEMENT_S)
    await connection.execute(INSERT_MISSING.format(**names), timeout=LONG_STATEMENT_S)


async def _only_in_one(
    connection: Database, key: tuple[str, ...], columns: str, one: str, other: str
) -> tuple[int, tuple[str, ...]]:
    sql = ONLY_IN_ONE.format(one=one, other=other, columns=columns, key=", ".join(key), samples=SAMPLE_KEYS)
    found = await connection.fetch(sql, timeout=LONG_STATEMENT_S)
    return (found[0]["rows"] if found else 0), tuple(row["key"] for row in found)


def _columns(alias: str, table: Table) -> str:
    return ", ".join(f"{alias}.{column}" for column in table.key)
