"""The read model `orgs_v2`: the org, its name, and what was set for it. `position` is that of the last change."""

from collections.abc import Sequence

import orjson

from events.administration import ORG, OrgConfigured, OrgCreated, OrgLimitsSet, OrgRenamed
from events.model import Recorded
from projections.base import Projection, Statement, Table, statements, storable

UPSERT = """
INSERT INTO {schema}.orgs_v2 AS t (org_id, name, members_may_work, sign_in_rules, limits, created_at, position)
SELECT org_id, name, true, '[]', '{}', created_at, position
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[]) AS g (org_id, name, created_at, position)
ON CONFLICT (org_id) DO NOTHING
"""

# A change that is not given keeps what is there.
CHANGE = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[], $5::text[], $6::bigint[])
        AS g (org_id, name, members_may_work, sign_in_rules, limits, position)
), changed AS (
    UPDATE {schema}.orgs_v2 t
    SET name = coalesce(g.name, t.name),
        members_may_work = coalesce(g.members_may_work, t.members_may_work),
        sign_in_rules = coalesce(g.sign_in_rules, t.sign_in_rules),
        limits = coalesce(g.limits, t.limits),
        position = g.position
    FROM given g WHERE t.org_id = g.org_id AND t.position < g.position
)
SELECT g.org_id::text FROM given g WHERE NOT EXISTS (SELECT FROM {schema}.orgs_v2 t WHERE t.org_id = g.org_id)
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of orgs made in the batch, and the last of each org's changes in it."""
    made: dict[str, tuple[object, ...]] = {}
    changed: dict[str, dict[str, object]] = {}
    for recorded in batch:
        for event in recorded.decision.events:
            org_id = event.originator_id
            if isinstance(event, OrgCreated):
                made[org_id] = (org_id, storable(event.name), recorded.decision.at, recorded.position)
            elif change := _change(event):
                changed.setdefault(org_id, {}).update(change, position=recorded.position)
    columns = ("name", "members_may_work", "sign_in_rules", "limits", "position")
    changes = ((org_id, *(change.get(column) for column in columns)) for org_id, change in changed.items())
    return statements(Statement.of(UPSERT, made.values()), Statement.of(CHANGE, changes))


def _change(event: object) -> dict[str, object]:
    match event:
        case OrgRenamed():
            return {"name": storable(event.name)}
        case OrgConfigured():
            rules = orjson.dumps([rule.model_dump() for rule in event.sign_in_rules]).decode()
            return {"members_may_work": event.members_may_work, "sign_in_rules": storable(rules)}
        case OrgLimitsSet():
            return {"limits": event.limits.model_dump_json(exclude_none=True)}
    return {}


ORGS = Projection(name="orgs_v2", kind=ORG, tables=(Table("orgs_v2", ("org_id",)),), fold=fold)
