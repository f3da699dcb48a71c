"""The read model `entity_sets_v1`: a company's entity sets, and where their records are."""

from collections.abc import Sequence
from typing import Any

from events.entities import ENTITIES, EntitiesUpdated
from events.model import Recorded
from projections.base import Projection, Statement, Table, rows_of_company, statements, storable

UPSERT = """
INSERT INTO {schema}.entity_sets_v1 AS t (
    set_id, org_id, company_id, name, version, snapshot_digest, snapshot_size_bytes, snapshot_rows, snapshot_inline,
    snapshot_format, last_run_id, created_at, updated_at, position, last_position
)
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::boolean[],
    $10::text[], $11::uuid[], $12::timestamptz[], $13::timestamptz[], $14::bigint[], $15::bigint[]
)
ON CONFLICT (set_id) DO UPDATE SET
    version = excluded.version, snapshot_digest = excluded.snapshot_digest,
    snapshot_size_bytes = excluded.snapshot_size_bytes, snapshot_rows = excluded.snapshot_rows,
    snapshot_inline = excluded.snapshot_inline, snapshot_format = excluded.snapshot_format,
    last_run_id = excluded.last_run_id, updated_at = excluded.updated_at, last_position = excluded.last_position
WHERE t.last_position < excluded.last_position
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """A row for each set that changed in the batch: as it was made, and as it is after its last change."""
    made: dict[str, tuple[Any, ...]] = {}
    first: dict[str, Recorded] = {}
    for recorded in batch:
        for event in recorded.decision.events:
            if isinstance(event, EntitiesUpdated):
                begun = first.setdefault(event.originator_id, recorded)
                made[event.originator_id] = _row(recorded, event, begun)
    return statements(Statement.of(UPSERT, made.values()))


def _row(recorded: Recorded, event: EntitiesUpdated, begun: Recorded) -> tuple[Any, ...]:
    snapshot = event.snapshot
    return (
        event.originator_id,
        recorded.decision.org_id,
        event.company_id,
        storable(event.name),
        event.originator_version,
        snapshot.digest,
        snapshot.size_bytes,
        snapshot.rows,
        snapshot.inline is not None,
        snapshot.format,
        event.run_id,
        begun.decision.at,
        recorded.decision.at,
        begun.position,
        recorded.position,
    )


ENTITY_SETS = Projection(
    name="entity_sets_v1",
    kind=ENTITIES,
    tables=(Table("entity_sets_v1", ("set_id",)),),
    fold=fold,
    erase=(rows_of_company("entity_sets_v1"),),
)
