"""The read models `tokens_v2` and `token_secrets_v2`: API tokens with their scope, and the ids of their secrets.

A revoked token stays, with the time of it. A token that was rotated has two secrets, the older one until a time.
"""

from collections.abc import Sequence

from events.administration import TOKEN, TokenCreated, TokenRevoked, TokenRotated
from events.model import Recorded
from projections.base import Projection, Statement, Table, rows_of_company, statements, storable

INSERT = """
INSERT INTO {schema}.tokens_v2 (token_id, org_id, company_id, user_id, role, name, hint, expires_at, created_at,
                                position, last_position)
SELECT *, position
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
            $9::timestamptz[], $10::bigint[])
    AS g (token_id, org_id, company_id, user_id, role, name, hint, expires_at, created_at, position)
ON CONFLICT (token_id) DO NOTHING
"""

# valid_until is set once, by the rotation that put the next secret in its place.
INSERT_SECRET = """
INSERT INTO {schema}.token_secrets_v2 (secret_id, org_id, token_id, position)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
ON CONFLICT (secret_id) DO NOTHING
"""

END_SECRETS = """
UPDATE {schema}.token_secrets_v2 t SET valid_until = g.valid_until
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[]) AS g (token_id, org_id, position, valid_until)
WHERE t.token_id = g.token_id AND t.org_id = g.org_id AND t.position < g.position
  AND (t.valid_until IS NULL OR t.valid_until > g.valid_until)
"""

ROTATE = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
        AS g (token_id, org_id, hint, expires_at, rotated_at, position)
), changed AS (
    UPDATE {schema}.tokens_v2 t
    SET hint = g.hint, expires_at = g.expires_at, rotated_at = g.rotated_at, last_position = g.position
    FROM given g WHERE t.token_id = g.token_id AND t.org_id = g.org_id AND t.last_position <= g.position
)
SELECT g.token_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {schema}.tokens_v2 t WHERE t.token_id = g.token_id AND t.org_id = g.org_id)
"""

REVOKE = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[])
        AS g (token_id, org_id, revoked_at, position)
), changed AS (
    UPDATE {schema}.tokens_v2 t SET revoked_at = g.revoked_at, last_position = g.position
    FROM given g WHERE t.token_id = g.token_id AND t.org_id = g.org_id AND t.revoked_at IS NULL
)
SELECT g.token_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {schema}.tokens_v2 t WHERE t.token_id = g.token_id AND t.org_id = g.org_id)
"""


ERASE_SECRETS = """
DELETE FROM {schema}.token_secrets_v2 s USING {schema}.tokens_v2 t
WHERE s.token_id = t.token_id AND t.company_id = ANY($1::uuid[])
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of the tokens made in the batch and of their secrets; the rotations and revocations in it."""
    made: dict[str, tuple[object, ...]] = {}
    secrets: list[tuple[object, ...]] = []
    ended: list[tuple[object, ...]] = []
    rotated: dict[str, tuple[object, ...]] = {}
    revoked: dict[str, tuple[object, ...]] = {}
    for recorded in batch:
        decision, position = recorded.decision, recorded.position
        for event in decision.events:
            token_id = event.originator_id
            match event:
                case TokenCreated():
                    made[token_id] = _made(event, recorded)
                    secrets.append((event.secret_id or token_id, decision.org_id, token_id, position))
                case TokenRotated():
                    rotated[token_id] = (
                        token_id, decision.org_id, storable(event.hint), event.expires_at, decision.at, position,
                    )  # fmt: skip
                    secrets.append((event.secret_id, decision.org_id, token_id, position))
                    ended.append((token_id, decision.org_id, position, event.previous_valid_until))
                case TokenRevoked():
                    revoked.setdefault(token_id, (token_id, decision.org_id, decision.at, position))
    return statements(
        Statement.of(INSERT, made.values()),
        Statement.of(INSERT_SECRET, secrets),
        *(Statement.of(END_SECRETS, [end]) for end in ended),
        Statement.of(ROTATE, rotated.values()),
        Statement.of(REVOKE, revoked.values()),
    )


def _made(event: TokenCreated, recorded: Recorded) -> tuple[object, ...]:
    return (
        event.originator_id,
        recorded.decision.org_id,
        recorded.decision.company_id,  # version 1 had it there only
        event.user_id,
        event.role,
        storable(event.name),
        storable(event.hint),
        event.expires_at,
        recorded.decision.at,
        recorded.position,
    )


TOKENS = Projection(
    name="tokens_v2",
    kind=TOKEN,
    tables=(Table("tokens_v2", ("token_id",)), Table("token_secrets_v2", ("secret_id",))),
    fold=fold,
    erase=(ERASE_SECRETS, rows_of_company("tokens_v2")),
)
