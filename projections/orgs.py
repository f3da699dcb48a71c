"""The read model `orgs_v1`: the org and its name. `position` is that of the last change."""

from collections.abc import Sequence

from events.administration import ORG, OrgCreated, OrgRenamed
from events.model import Recorded
from projections.base import Projection, Statement, Table, statements, storable

UPSERT = """
INSERT INTO {schema}.orgs_v1 AS t (org_id, name, created_at, position)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[])
ON CONFLICT (org_id) DO UPDATE
SET name = excluded.name, created_at = excluded.created_at, position = excluded.position
WHERE t.position <= excluded.position
"""

RENAME = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS g (org_id, name, position)
), changed AS (
    UPDATE {schema}.orgs_v1 t SET name = g.name, position = g.position
    FROM given g WHERE t.org_id = g.org_id AND t.position <= g.position
)
SELECT g.org_id::text FROM given g WHERE NOT EXISTS (SELECT FROM {schema}.orgs_v1 t WHERE t.org_id = g.org_id)
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of orgs made in the batch, and names of those made before it."""
    made: dict[str, tuple[object, ...]] = {}
    renamed: dict[str, tuple[object, ...]] = {}
    for recorded in batch:
        position, decision = recorded.position, recorded.decision
        for event in decision.events:
            org_id = event.originator_id
            if isinstance(event, OrgCreated):
                made[org_id] = (org_id, storable(event.name), decision.at, position)
            elif isinstance(event, OrgRenamed):
                if org_id in made:
                    made[org_id] = (org_id, storable(event.name), made[org_id][2], position)
                else:
                    renamed[org_id] = (org_id, storable(event.name), position)
    return statements(Statement.of(UPSERT, made.values()), Statement.of(RENAME, renamed.values()))


ORGS = Projection(name="orgs_v1", kind=ORG, tables=(Table("orgs_v1", ("org_id",)),), fold=fold)
