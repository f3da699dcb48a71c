"""Who stands behind a credential, and which company a thing belongs to."""

from projections.queries.reader import Reader, Row

TOKEN_OWNER = """
SELECT t.token_id::text, u.user_id::text, u.org_id::text, u.company_id::text, u.role
FROM data_engine.tokens_v1 t
JOIN data_engine.users_v1 u ON u.user_id = t.user_id AND u.org_id = t.org_id
WHERE t.verifier = $1 AND t.revoked_at IS NULL AND u.deactivated_at IS NULL
"""

IDENTITY_USERS = """
SELECT NULL::text AS token_id, u.user_id::text, u.org_id::text, u.company_id::text, u.role
FROM data_engine.users_v1 u
WHERE u.identity = $1 AND u.deactivated_at IS NULL
ORDER BY u.position
LIMIT 100
"""

USER_COMPANY = """
SELECT company_id::text FROM data_engine.users_v1 WHERE org_id = $1::uuid AND user_id = $2::uuid
"""

TOKEN_COMPANY = """
SELECT u.company_id::text
FROM data_engine.tokens_v1 t
JOIN data_engine.users_v1 u ON u.user_id = t.user_id AND u.org_id = t.org_id
WHERE t.org_id = $1::uuid AND t.token_id = $2::uuid
"""

SUBMISSION_COMPANY = """
SELECT company_id::text FROM data_engine.submissions_v1 WHERE org_id = $1::uuid AND submission_id = $2::uuid
"""

RUN_COMPANY = """
SELECT company_id::text FROM data_engine.runs_v1 WHERE org_id = $1::uuid AND run_id = $2::uuid
"""

_COMPANY_OF = {
    "user": USER_COMPANY,
    "token": TOKEN_COMPANY,
    "submission": SUBMISSION_COMPANY,
    "run": RUN_COMPANY,
}


async def token_owner(reader: Reader, verifier: str) -> Row | None:
    """The active user behind a token that is not revoked. The one query without an org: it finds the org."""
    return await reader.row(TOKEN_OWNER, verifier)


async def identity_users(reader: Reader, identity: str) -> list[Row]:
    """The active users, of any org, that a session's `sub` stands for."""
    return await reader.rows(IDENTITY_USERS, identity)


async def company_of(reader: Reader, kind: str, org_id: str, thing_id: str) -> tuple[bool, str | None]:
    """Whether the org has this thing, and the company that it belongs to (None: to the org)."""
    row = await reader.row(_COMPANY_OF[kind], org_id, thing_id)
    return (False, None) if row is None else (True, row["company_id"])
