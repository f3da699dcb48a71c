"""The read model `users_v1`: who may act; a deactivated user stays, with the time of it."""

from collections.abc import Sequence

from events.administration import USER, UserCreated, UserDeactivated
from events.model import Recorded
from projections.base import Projection, Statement, Table, statements, storable

INSERT = """
INSERT INTO {schema}.users_v1 (user_id, org_id, company_id, email, name, role, identity, created_at, position)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::bigint[])
ON CONFLICT (user_id) DO NOTHING
"""

DEACTIVATE = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS g (user_id, org_id, deactivated_at)
), changed AS (
    UPDATE {schema}.users_v1 t SET deactivated_at = g.deactivated_at
    FROM given g WHERE t.user_id = g.user_id AND t.org_id = g.org_id AND t.deactivated_at IS NULL
)
SELECT g.user_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {schema}.users_v1 t WHERE t.user_id = g.user_id AND t.org_id = g.org_id)
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of the users made in the batch, and who was deactivated in it."""
    made: dict[str, tuple[object, ...]] = {}
    deactivated: dict[str, tuple[object, ...]] = {}
    for recorded in batch:
        decision = recorded.decision
        for event in decision.events:
            user_id = event.originator_id
            if isinstance(event, UserCreated):
                made[user_id] = (
                    user_id,
                    decision.org_id,
                    event.company_id,
                    storable(event.email),
                    storable(event.name),
                    event.role,
                    storable(event.identity),
                    decision.at,
                    recorded.position,
                )
            elif isinstance(event, UserDeactivated):
                deactivated.setdefault(user_id, (user_id, decision.org_id, decision.at))
    return statements(Statement.of(INSERT, made.values()), Statement.of(DEACTIVATE, deactivated.values()))


USERS = Projection(name="users_v1", kind=USER, tables=(Table("users_v1", ("user_id",)),), fold=fold)
