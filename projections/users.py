"""The read model `users_v2`: who may act, and who is invited to; a deactivated user stays, with the time of it."""

from collections.abc import Sequence
from typing import NamedTuple

from events.administration import USER, UserCreated, UserDeactivated, UserIdentityLinked, UserInvited
from events.model import Recorded
from projections.base import Projection, Statement, Table, rows_of_company, statements, storable

INSERT = """
INSERT INTO {schema}.users_v2 (user_id, org_id, company_id, email, name, role, identity, created_at, position,
                               last_position)
SELECT *, position
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
            $9::bigint[]) AS g (user_id, org_id, company_id, email, name, role, identity, created_at, position)
ON CONFLICT (user_id) DO NOTHING
"""

# One decision after another of the same user may be in one batch: each statement has at most one row of a user.
INVITE = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[])
        AS g (user_id, org_id, invitation_id, expires_at, position)
), changed AS (
    UPDATE {schema}.users_v2 t
    SET invitation_id = g.invitation_id, invitation_expires_at = g.expires_at, last_position = g.position
    FROM given g WHERE t.user_id = g.user_id AND t.org_id = g.org_id AND t.last_position <= g.position
)
SELECT g.user_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {schema}.users_v2 t WHERE t.user_id = g.user_id AND t.org_id = g.org_id)
"""

LINK = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[]) AS g (user_id, org_id, identity, position)
), changed AS (
    UPDATE {schema}.users_v2 t
    SET identity = g.identity, invitation_id = NULL, invitation_expires_at = NULL, last_position = g.position
    FROM given g WHERE t.user_id = g.user_id AND t.org_id = g.org_id AND t.last_position <= g.position
)
SELECT g.user_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {schema}.users_v2 t WHERE t.user_id = g.user_id AND t.org_id = g.org_id)
"""

DEACTIVATE = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[])
        AS g (user_id, org_id, deactivated_at, position)
), changed AS (
    UPDATE {schema}.users_v2 t SET deactivated_at = g.deactivated_at, last_position = g.position
    FROM given g WHERE t.user_id = g.user_id AND t.org_id = g.org_id AND t.deactivated_at IS NULL
)
SELECT g.user_id::text FROM given g
WHERE NOT EXISTS (SELECT FROM {schema}.users_v2 t WHERE t.user_id = g.user_id AND t.org_id = g.org_id)
"""


class _Row(NamedTuple):
    """What INSERT takes, in its order."""

    user_id: str
    org_id: str
    company_id: str | None
    email: str | None
    name: str | None
    role: str
    identity: str | None
    created_at: object
    position: int


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of the users made in the batch; who was invited, linked and deactivated in it."""
    made: dict[str, _Row] = {}
    invited: dict[str, tuple[object, ...]] = {}
    linked: dict[str, tuple[object, ...]] = {}
    deactivated: dict[str, tuple[object, ...]] = {}
    for recorded in batch:
        decision, position = recorded.decision, recorded.position
        for event in decision.events:
            key = (event.originator_id, decision.org_id)
            match event:
                case UserCreated():
                    made[key[0]] = _made(event, recorded)
                case UserInvited():
                    invited[key[0]] = (*key, event.invitation_id, event.expires_at, position)
                case UserIdentityLinked():
                    linked[key[0]] = (*key, storable(event.identity), position)
                case UserDeactivated():
                    deactivated.setdefault(key[0], (*key, decision.at, position))
    return statements(
        Statement.of(INSERT, made.values()),
        Statement.of(INVITE, invited.values()),
        Statement.of(LINK, linked.values()),
        Statement.of(DEACTIVATE, deactivated.values()),
    )


def _made(event: UserCreated, recorded: Recorded) -> _Row:
    return _Row(
        event.originator_id,
        recorded.decision.org_id,
        event.company_id,
        storable(event.email),
        storable(event.name),
        event.role,
        storable(event.identity),
        recorded.decision.at,
        recorded.position,
    )


USERS = Projection(
    name="users_v2",
    kind=USER,
    tables=(Table("users_v2", ("user_id",)),),
    fold=fold,
    erase=(rows_of_company("users_v2"),),
)
