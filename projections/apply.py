"""Applying a batch: rows, dead letters and checkpoints of all projections in one transaction.

There is no temporary table, no session setting and no session lock, so this works through a transaction pooler. Two
projectors may run at once: whoever locks the checkpoints first applies the batch, the other sees that they moved.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from events import metrics
from events.keys import Owner
from events.logging import get_logger
from events.model import Recorded
from projections import checkpoints
from projections.base import LIVE_SCHEMA, Projection, storable
from projections.batch import DATA_FAULTS, Batch, Undecodable
from projections.catalogue import EARLIER, KINDS
from projections.checkpoints import Checkpoint, Checkpoints, CheckpointsMovedError
from projections.database import Database

# The plan depends on the batch's size, so it is made for each.
SETTINGS = "SET LOCAL plan_cache_mode = force_custom_plan"
# A crash of Postgres may then take back what was told a moment ago, until it is applied again: the data is derived, and
# a query that names a position checks in its own transaction that it is there (data_engine.require_position).
WITHOUT_FLUSH = f"{SETTINGS}; SET LOCAL synchronous_commit = off"

BURY = """
INSERT INTO {schema}.projection_dead_letters (name, position, subject, reason)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[])
ON CONFLICT (name, position) DO UPDATE SET reason = excluded.reason
"""

REASON_MAX_CHARS = 2000

# What Postgres, or asyncpg before it, says of values that a table cannot hold.
_REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)

_logger = get_logger("projector")


class PoisonError(Exception):
    """A projection cannot take a decision of the batch: a fault of the data, which no repetition mends."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The position of a decision that one projection could not apply, and why."""

    name: str
    position: int
    reason: str


ApplyOne = Callable[[Database, str, Projection, Sequence[Recorded]], Awaitable[list[DeadLetter]]]


async def apply(
    connection: Database,
    schema: str,
    projections: Sequence[Projection],
    at: Checkpoints,
    batch: Batch,
    epoch: str,
    *,
    durable: bool = True,
) -> dict[str, Checkpoint]:
    """Apply to each projection what it has not seen of the batch, and return all checkpoints as they are then.

    `at` is where the caller believes the projections to be. Raises CheckpointsMovedError when they are elsewhere;
    nothing is changed then. What a projection cannot take becomes a dead letter of that projection alone. Unless it is
    to be `durable`, the commit does not wait for its flush.
    """
    settings = SETTINGS if durable else WITHOUT_FLUSH
    behind = [projection for projection in projections if at[projection.name].position < batch.last_position]
    try:
        return await _in_transaction(connection, schema, behind, at, batch, epoch, settings, _whole)
    except PoisonError as error:
        _logger.warning("batch_has_poison", first=batch.first_position, last=batch.last_position, reason=str(error))
    return await _in_transaction(connection, schema, behind, at, batch, epoch, settings, _without_poison)


async def _in_transaction(
    connection: Database,
    schema: str,
    behind: Sequence[Projection],
    at: Checkpoints,
    batch: Batch,
    epoch: str,
    settings: str,
    apply_one: ApplyOne,
) -> dict[str, Checkpoint]:
    async with connection.transaction():
        await connection.execute(settings)
        found = await checkpoints.lock(connection, schema, list(at))
        if found != at:
            raise CheckpointsMovedError(found)
        letters: list[DeadLetter] = []
        for projection in behind:
            position = at[projection.name].position
            letters += _undecodable(projection, position, batch.undecodable)
            if decisions := batch.decisions_after(projection.kind, position):
                letters += await apply_one(connection, schema, projection, decisions)
            await _erase(connection, schema, projection, batch.erasures_after(position))
        if batch.erasures and schema == LIVE_SCHEMA:
            await _erase_earlier(connection, [erasure.owner for erasure in batch.erasures])
        await _bury(connection, schema, batch, letters)
        moved = [Checkpoint(p.name, batch.last_position, epoch, batch.decision_id) for p in behind]
        await checkpoints.move(connection, schema, moved)
    return {**at, **{checkpoint.name: checkpoint for checkpoint in moved}}


async def _erase(connection: Database, schema: str, projection: Projection, erased: Sequence[Owner]) -> None:
    """Remove what earlier decisions of erased companies left; a log that is read later does not have it any more."""
    companies = [owner.company_id for owner in erased]
    for sql in projection.erase if companies else ():
        await connection.execute(sql.replace("{schema}", schema), companies)


async def _erase_earlier(connection: Database, erased: Sequence[Owner]) -> None:
    """The same for generations that are no longer in service, whose tables nobody has dropped yet."""
    for projection in EARLIER:
        if await connection.fetchval("SELECT to_regclass($1)::oid", f"{LIVE_SCHEMA}.{projection.name}") is not None:
            await _erase(connection, LIVE_SCHEMA, projection, erased)


async def _whole(
    connection: Database, schema: str, projection: Projection, decisions: Sequence[Recorded]
) -> list[DeadLetter]:
    """All at once. Raises PoisonError."""
    try:
        folded = projection.fold(decisions)
    except DATA_FAULTS as error:
        raise PoisonError(repr(error)) from error
    for statement in folded:
        try:
            missing = await connection.fetch(statement.sql.replace("{schema}", schema), *statement.columns)
        except _REFUSED as error:
            raise PoisonError(_told(error)) from error
        if missing:
            raise PoisonError(f"What is changed is not there: {', '.join(row[0] for row in missing[:3])}")
    return []


def _told(error: asyncpg.PostgresError) -> str:
    """What was refused, without the value: reasons are logged and kept, and what is in them could not be erased."""
    if error.severity is None:  # asyncpg's own: "invalid input for query argument $2: 'the value' (…)"
        return str(error).partition(":")[0]
    where = " ".join(filter(None, (error.table_name, error.column_name, error.constraint_name)))
    return f"{type(error).__name__} ({error.sqlstate}){': ' if where else ''}{where}"


async def _without_poison(
    connection: Database, schema: str, projection: Projection, decisions: Sequence[Recorded]
) -> list[DeadLetter]:
    """In halves, each within a savepoint, down to the decisions at fault."""
    try:
        async with connection.transaction():
            return await _whole(connection, schema, projection, decisions)
    except PoisonError as error:
        if len(decisions) == 1:
            return [DeadLetter(projection.name, decisions[0].position, str(error))]
    middle = len(decisions) // 2
    return [
        *await _without_poison(connection, schema, projection, decisions[:middle]),
        *await _without_poison(connection, schema, projection, decisions[middle:]),
    ]


def _undecodable(projection: Projection, position: int, found: Sequence[Undecodable]) -> list[DeadLetter]:
    """Those that are, or may be, of the projection's kind."""
    return [
        DeadLetter(projection.name, poison.position, poison.reason)
        for poison in found
        if poison.position > position and (poison.kind == projection.kind or poison.kind not in KINDS)
    ]


async def _bury(connection: Database, schema: str, batch: Batch, letters: Sequence[DeadLetter]) -> None:
    for letter in letters:
        metrics.PROJECTOR_DEAD_LETTERS.labels(letter.name).inc()
        _logger.error("dead_letter", projection=letter.name, position=letter.position, reason=letter.reason)
    if letters:
        rows = [
            (
                letter.name,
                letter.position,
                storable(batch.subject_at(letter.position)),
                storable(letter.reason[:REASON_MAX_CHARS]),
            )
            for letter in letters
        ]
        await connection.execute(BURY.replace("{schema}", schema), *zip(*rows, strict=True))
