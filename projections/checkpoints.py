"""Checkpoints: where each projection stands in the log, and by which decision. SQL and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from events.errors import ConfigurationError
from projections.base import LIVE_SCHEMA
from projections.database import Database

ENSURE = """
INSERT INTO {schema}.projection_checkpoints (name, position, epoch, decision_id)
SELECT name, 0, '', '' FROM unnest($1::text[]) AS g (name)
ON CONFLICT (name) DO NOTHING
"""

READ = """
SELECT name, position, epoch, decision_id FROM {schema}.projection_checkpoints
WHERE name = ANY($1::text[]) ORDER BY name
"""

# Ordered, so that two that lock the same rows never wait for each other.
LOCK = f"{READ.rstrip()} FOR UPDATE"

MOVE = """
UPDATE {schema}.projection_checkpoints
SET position = $2, epoch = $3, decision_id = $4, updated_at = now()
WHERE name = ANY($1::text[])
"""

STATUS = """
SELECT c.name, c.position, c.updated_at, count(d.position) AS dead_letters, c.building, c.building_since,
       c.building_message
FROM {schema}.projection_checkpoints c
LEFT JOIN {schema}.projection_dead_letters d ON d.name = c.name
GROUP BY c.name ORDER BY c.name
"""

SERVING = "SELECT name FROM {schema}.projection_checkpoints WHERE NOT building"
# Nobody switches a generation before the transaction ends; a switch that goes on is waited for.
HOLD_SERVING = f"{SERVING} ORDER BY name FOR KEY SHARE"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one projection is: the position and the id of the last decision that it has seen, in which log."""

    name: str
    position: int = 0
    epoch: str = ""
    decision_id: str = ""


Checkpoints = Mapping[str, Checkpoint]
"""By the projection's name."""


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """One projection as `dex status` shows it; `dead_letters` is how many decisions it could not apply.

    One that is `building` is to take the place of another; `building_message` says why it does not.
    """

    name: str
    position: int
    updated_at: datetime
    dead_letters: int
    building: bool
    building_since: datetime | None
    building_message: str | None


class CheckpointsMovedError(Exception):
    """Another projector, or a rebuild, moved the checkpoints. `found` is where they are."""

    def __init__(self, found: Checkpoints) -> None:
        super().__init__("the checkpoints were moved by somebody else")
        self.found = found


def lowest(checkpoints: Checkpoints) -> int:
    """The position that all projections have reached."""
    return min(checkpoint.position for checkpoint in checkpoints.values())


async def load(connection: Database, schema: str, names: Sequence[str]) -> dict[str, Checkpoint]:
    """The checkpoints of these projections, made at position 0 where there are none. Raises ConfigurationError.

    Whether a live projection is in service is held meanwhile (`generations.live_checkpoints`).
    """
    try:
        await connection.execute(ENSURE.replace("{schema}", schema), names)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise ConfigurationError(f"The read models' tables are not there: {error}. Run: dex migrate") from error
    return _by_name(await connection.fetch(READ.replace("{schema}", schema), names))


async def read(connection: Database, schema: str, names: Sequence[str]) -> dict[str, Checkpoint]:
    """The checkpoints of those of these projections that have one: of a generation that was replaced, none is made."""
    return _by_name(await connection.fetch(READ.replace("{schema}", schema), names))


async def lock(connection: Database, schema: str, names: Sequence[str]) -> dict[str, Checkpoint]:
    """The same, locked until the transaction ends: nobody else applies a batch meanwhile."""
    return _by_name(await connection.fetch(LOCK.replace("{schema}", schema), names))


async def move(connection: Database, schema: str, to: Iterable[Checkpoint]) -> None:
    """Move checkpoints that are locked; those with the same goal in one statement."""
    goals: dict[tuple[int, str, str], list[str]] = {}
    for checkpoint in to:
        goals.setdefault((checkpoint.position, checkpoint.epoch, checkpoint.decision_id), []).append(checkpoint.name)
    for goal, names in goals.items():
        await connection.execute(MOVE.replace("{schema}", schema), names, *goal)


async def projection_status(pool: asyncpg.Pool, schema: str = LIVE_SCHEMA) -> list[ProjectionStatus]:
    """Every projection that ever ran here, by name."""
    rows = await pool.fetch(STATUS.replace("{schema}", schema))
    return [ProjectionStatus(**row) for row in rows]


async def serving(connection: Database, schema: str, *, hold: bool = False) -> frozenset[str]:
    """The names of the projections that queries are answered from, as far as they have begun; with `hold` that is so
    until the transaction ends. Raises ConfigurationError."""
    try:
        rows = await connection.fetch((HOLD_SERVING if hold else SERVING).replace("{schema}", schema))
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError) as error:
        raise ConfigurationError(f"The read models' tables are not as needed: {error}. Run: dex migrate") from error
    return frozenset(row["name"] for row in rows)


def _by_name(rows: Iterable[asyncpg.Record]) -> dict[str, Checkpoint]:
    return {row["name"]: Checkpoint(**row) for row in rows}
