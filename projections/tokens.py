"""The read model `tokens_v1`: API tokens by their verifier; a revoked token stays, with the time of it."""

from collections.abc import Sequence

from events.administration import TOKEN, TokenCreated, TokenRevoked
from events.model import Recorded
from projections.base import Projection, Statement, Table, statements, storable

INSERT = """
INSERT INTO {schema}.tokens_v1 (token_id, org_id, user_id, name, hint, verifier, created_at, position)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                     $8::bigint[])
ON CONFLICT (token_id) DO NOTHING
"""

REVOKE = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS g (token_id, org_id, revoked_at)
), changed AS (
    UPDATE {schema}.tokens_v1 t SET revoked_at = g.revoked_at
    FROM given g WHERE t.token_id = g.token_id AND t.org_id = g.org_id AND t.revoked_at IS NULL
)
SELECT g.token_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {schema}.tokens_v1 t WHERE t.token_id = g.token_id AND t.org_id = g.org_id)
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of the tokens made in the batch, and those revoked in it."""
    made: dict[str, tuple[object, ...]] = {}
    revoked: dict[str, tuple[object, ...]] = {}
    for recorded in batch:
        decision = recorded.decision
        for event in decision.events:
            token_id = event.originator_id
            if isinstance(event, TokenCreated):
                made[token_id] = (
                    token_id,
                    decision.org_id,
                    event.user_id,
                    storable(event.name),
                    storable(event.hint),
                    storable(event.verifier),
                    decision.at,
                    recorded.position,
                )
            elif isinstance(event, TokenRevoked):
                revoked.setdefault(token_id, (token_id, decision.org_id, decision.at))
    return statements(Statement.of(INSERT, made.values()), Statement.of(REVOKE, revoked.values()))


TOKENS = Projection(name="tokens_v1", kind=TOKEN, tables=(Table("tokens_v1", ("token_id",)),), fold=fold)
