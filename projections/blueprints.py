"""The read model `blueprints_v1`: blueprints never change, they are archived. `steps` is JSON text."""

from collections.abc import Sequence

from events import strictjson
from events.administration import BLUEPRINT, BlueprintArchived, BlueprintCreated
from events.model import Recorded
from projections.base import Projection, Statement, Table, statements, storable

INSERT = """
INSERT INTO {schema}.blueprints_v1 (blueprint_id, org_id, name, description, steps, created_at, position)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::bigint[])
ON CONFLICT (blueprint_id) DO NOTHING
"""

ARCHIVE = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS g (blueprint_id, org_id, archived_at)
), changed AS (
    UPDATE {schema}.blueprints_v1 t SET archived_at = g.archived_at
    FROM given g WHERE t.blueprint_id = g.blueprint_id AND t.org_id = g.org_id AND t.archived_at IS NULL
)
SELECT g.blueprint_id::text FROM given g
WHERE NOT EXISTS (
    SELECT FROM {schema}.blueprints_v1 t WHERE t.blueprint_id = g.blueprint_id AND t.org_id = g.org_id
)
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of the blueprints made in the batch, and those archived in it."""
    made: dict[str, tuple[object, ...]] = {}
    archived: dict[str, tuple[object, ...]] = {}
    for recorded in batch:
        decision = recorded.decision
        for event in decision.events:
            blueprint_id = event.originator_id
            if isinstance(event, BlueprintCreated):
                made[blueprint_id] = (
                    blueprint_id,
                    decision.org_id,
                    storable(event.name),
                    storable(event.description),
                    strictjson.dumps([step.model_dump(mode="json") for step in event.steps]).decode(),
                    decision.at,
                    recorded.position,
                )
            elif isinstance(event, BlueprintArchived):
                archived.setdefault(blueprint_id, (blueprint_id, decision.org_id, decision.at))
    return statements(Statement.of(INSERT, made.values()), Statement.of(ARCHIVE, archived.values()))


BLUEPRINTS = Projection(
    name="blueprints_v1", kind=BLUEPRINT, tables=(Table("blueprints_v1", ("blueprint_id",)),), fold=fold
)
