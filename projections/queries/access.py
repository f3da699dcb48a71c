"""Who stands behind a credential, what an org lets people do, and which company a thing belongs to."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from projections.queries.reader import Reader, Row, Scope

TOKEN_CALLER = """
SELECT org_id::text, user_id::text, company_id::text, role, token_id::text, expires_at, members_may_work, limits
FROM data_engine.token_caller($1)
"""

IDENTITY_CALLERS = """
SELECT org_id::text, user_id::text, company_id::text, role, token_id::text, expires_at, members_may_work, limits
FROM data_engine.identity_callers($1)
"""

OPEN_INVITATION = """
SELECT org_id::text, user_id::text, company_id::text, role, invitation_id::text FROM data_engine.open_invitation($1)
"""

ACCESS_CHANGES = "SELECT kind, org_id::text, last_position FROM data_engine.access_changes($1, $2, $3)"

SIGN_IN = """
SELECT o.sign_in_rules, u.user_id::text, u.deactivated_at IS NULL AS active
FROM data_engine.orgs_v2 o
LEFT JOIN data_engine.users_v2 u ON u.org_id = o.org_id AND u.identity = $2
WHERE o.org_id = $1::uuid
ORDER BY u.deactivated_at IS NULL DESC, u.position
LIMIT 1
"""

ADD_CREDENTIAL = "INSERT INTO data_engine.credentials (verifier, secret_id, org_id) VALUES ($1, $2::uuid, $3::uuid)"

NOTE_USAGE = """
INSERT INTO data_engine.token_usage AS t (token_id, org_id, last_used_at)
SELECT token_id, $1::uuid, last_used_at FROM unnest($2::uuid[], $3::timestamptz[]) AS g (token_id, last_used_at)
ON CONFLICT (token_id) DO UPDATE SET last_used_at = greatest(t.last_used_at, excluded.last_used_at)
"""

_COMPANY_OF = {
    kind: f"SELECT company_id::text FROM data_engine.{table} WHERE org_id = $1::uuid AND {kind}_id = $2::uuid"
    " AND ($3::uuid IS NULL OR company_id = $3::uuid)"
    for kind, table in (
        ("user", "users_v2"), ("token", "tokens_v2"), ("submission", "submissions_v1"), ("run", "runs"),
    )
}  # fmt: skip


async def token_caller(reader: Reader, verifier: str) -> Row | None:
    """Who acts by a token that holds now: the token's scope within that of its active user."""
    found = await reader.platform_rows(TOKEN_CALLER, verifier)
    return found[0] if found else None


async def identity_callers(reader: Reader, identity: str) -> list[Row]:
    """The active users, of any org, that a session's `sub` stands for; the oldest first."""
    return await reader.platform_rows(IDENTITY_CALLERS, identity)


async def open_invitation(reader: Reader, verifier: str) -> Row | None:
    """The invited user behind an invitation that holds now."""
    found = await reader.platform_rows(OPEN_INVITATION, verifier)
    return found[0] if found else None


class AccessPositions(NamedTuple):
    """The position of the last change in each read model that access depends on."""

    org: int = 0
    user: int = 0
    token: int = 0


async def access_changes(reader: Reader, after: AccessPositions) -> tuple[AccessPositions, set[str]]:
    """Where the read models are, and the orgs in which somebody's access changed after these positions."""
    rows = await reader.platform_rows(ACCESS_CHANGES, *after)
    positions = AccessPositions(**{row["kind"]: row["last_position"] for row in rows if row["org_id"] is None})
    return positions, {row["org_id"] for row in rows if row["org_id"] is not None}


async def sign_in(reader: Reader, org_id: str, identity: str) -> Row | None:
    """The org's sign-in rules (JSON text), and the user that the identity has in it already, active or not."""
    return await reader.row(Scope(org_id), SIGN_IN, org_id, identity)


async def add_credential(reader: Reader, org_id: str, secret_id: str, verifier: str) -> None:
    """Keep the SHA-256 of a secret. It opens nothing until a decision in the log names its `secret_id`."""
    await reader.write(Scope(org_id), ADD_CREDENTIAL, verifier, secret_id, org_id)


async def note_usage(reader: Reader, org_id: str, last_used_at: Mapping[str, datetime]) -> None:
    """When tokens of an org were used, by token id."""
    columns: tuple[list[Any], list[Any]] = (list(last_used_at), list(last_used_at.values()))
    await reader.write(Scope(org_id), NOTE_USAGE, org_id, *columns)


async def company_of(reader: Reader, scope: Scope, kind: str, thing_id: str) -> str | None:
    """The company of a thing that the scope may see; None when it may see none, or one that is the org's own."""
    row = await reader.row(scope, _COMPANY_OF[kind], scope.org_id, thing_id, scope.company_id)
    return None if row is None else row["company_id"]
