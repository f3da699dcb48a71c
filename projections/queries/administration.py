"""Orgs, companies, users, tokens, blueprints, and the steps that every org may use."""

from projections.queries.reader import Reader, Row, Scope

ORG = """
SELECT org_id::text, name, members_may_work, sign_in_rules, created_at, position
FROM data_engine.orgs_v2 WHERE org_id = $1::uuid
"""

_COMPANY = "SELECT company_id::text, name, created_at, erased_at, position FROM data_engine.companies_v1"

COMPANY = f"""
{_COMPANY}
WHERE org_id = $1::uuid AND company_id = $2::uuid AND ($3::uuid IS NULL OR company_id = $3::uuid)
"""

COMPANIES = f"""
{_COMPANY}
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid)
  AND position < $3 AND ($5::text IS NULL OR starts_with(lower(name), lower($5)))
ORDER BY position DESC
LIMIT $4
"""

_USER = """
SELECT user_id::text, company_id::text, email, name, role, identity, deactivated_at IS NULL AS active,
       invitation_expires_at, created_at, deactivated_at, position
FROM data_engine.users_v2
"""

USER = f"""
{_USER}
WHERE org_id = $1::uuid AND user_id = $2::uuid AND ($3::uuid IS NULL OR company_id = $3::uuid)
"""

USERS = f"""
{_USER}
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid)
  AND position < $3 AND ($5::text IS NULL OR role = $5)
  AND ($6::boolean IS NULL OR (deactivated_at IS NULL) = $6)
ORDER BY position DESC
LIMIT $4
"""

TWO_ADMINS = """
SELECT user_id::text
FROM data_engine.users_v2
WHERE org_id = $1::uuid AND role = 'org_admin' AND deactivated_at IS NULL
  AND (identity IS NOT NULL OR invitation_id IS NULL)
LIMIT 2
"""

_TOKEN_ACTIVE = """(
    t.revoked_at IS NULL AND coalesce(t.expires_at, 'infinity') > now() AND data_engine.user_is_active(t.user_id)
)"""

_TOKEN = f"""
SELECT t.token_id::text, t.user_id::text, t.company_id::text, t.role, t.name, t.hint, {_TOKEN_ACTIVE} AS active,
       t.expires_at, l.last_used_at, t.created_at, t.rotated_at, t.revoked_at, t.position
FROM data_engine.tokens_v2 t
LEFT JOIN data_engine.token_usage l ON l.token_id = t.token_id AND l.org_id = t.org_id
"""

TOKEN = f"""
{_TOKEN}
WHERE t.org_id = $1::uuid AND t.token_id = $2::uuid AND ($3::uuid IS NULL OR t.company_id = $3::uuid)
"""

TOKENS = f"""
{_TOKEN}
WHERE t.org_id = $1::uuid AND ($2::uuid IS NULL OR t.company_id = $2::uuid)
  AND t.position < $3 AND ($5::uuid IS NULL OR t.user_id = $5::uuid)
  AND ($6::boolean IS NULL OR {_TOKEN_ACTIVE} = $6)
ORDER BY t.position DESC
LIMIT $4
"""

_BLUEPRINT = """
SELECT blueprint_id::text, name, description, steps, archived_at IS NOT NULL AS archived, created_at, archived_at,
       position
FROM data_engine.blueprints_v1
"""

BLUEPRINT = f"""
{_BLUEPRINT}
WHERE org_id = $1::uuid AND blueprint_id = $2::uuid
"""

BLUEPRINTS = f"""
{_BLUEPRINT}
WHERE org_id = $1::uuid AND position < $2 AND ($4::boolean IS NULL OR (archived_at IS NOT NULL) = $4)
ORDER BY position DESC
LIMIT $3
"""

_STEP = """
SELECT step_key, version, summary, config_schema, has_effects, registered_at, position
FROM data_engine.steps_v1
"""

STEP = f"""
{_STEP}
WHERE step_key = $1
"""

STEPS = f"""
{_STEP}
WHERE position < $1
ORDER BY position DESC
LIMIT $2
"""


async def org(reader: Reader, scope: Scope) -> Row | None:
    """The org itself."""
    return await reader.row(scope, ORG, scope.org_id)


async def company(reader: Reader, scope: Scope, company_id: str) -> Row | None:
    """One company."""
    return await reader.row(scope, COMPANY, scope.org_id, company_id, scope.company_id)


async def companies(reader: Reader, scope: Scope, before: int, limit: int, name_prefix: str | None) -> list[Row]:
    """Companies, newest first."""
    return await reader.rows(scope, COMPANIES, scope.org_id, scope.company_id, before, limit, name_prefix)


async def user(reader: Reader, scope: Scope, user_id: str) -> Row | None:
    """One user."""
    return await reader.row(scope, USER, scope.org_id, user_id, scope.company_id)


async def users(
    reader: Reader, scope: Scope, before: int, limit: int, role: str | None, active: bool | None
) -> list[Row]:
    """Users, newest first."""
    return await reader.rows(scope, USERS, scope.org_id, scope.company_id, before, limit, role, active)


async def is_last_admin(reader: Reader, scope: Scope, user_id: str) -> bool:
    """Whether this is the only active org_admin of the org that can act: one who was only invited cannot."""
    rows = await reader.rows(Scope(scope.org_id), TWO_ADMINS, scope.org_id)
    return [row["user_id"] for row in rows] == [user_id]


async def token(reader: Reader, scope: Scope, token_id: str) -> Row | None:
    """One API token; never its verifier."""
    return await reader.row(scope, TOKEN, scope.org_id, token_id, scope.company_id)


async def tokens(
    reader: Reader, scope: Scope, before: int, limit: int, user_id: str | None, active: bool | None
) -> list[Row]:
    """API tokens, newest first."""
    return await reader.rows(scope, TOKENS, scope.org_id, scope.company_id, before, limit, user_id, active)


async def blueprint(reader: Reader, scope: Scope, blueprint_id: str) -> Row | None:
    """One blueprint; `steps` is JSON text."""
    return await reader.row(scope, BLUEPRINT, scope.org_id, blueprint_id)


async def blueprints(reader: Reader, scope: Scope, before: int, limit: int, archived: bool | None) -> list[Row]:
    """Blueprints, newest first."""
    return await reader.rows(scope, BLUEPRINTS, scope.org_id, before, limit, archived)


async def step(reader: Reader, step_key: str) -> Row | None:
    """One registered step; `config_schema` is JSON text."""
    found = await reader.platform_rows(STEP, step_key)
    return found[0] if found else None


async def steps(reader: Reader, before: int, limit: int) -> list[Row]:
    """Registered steps, the latest registration first."""
    return await reader.platform_rows(STEPS, before, limit)
