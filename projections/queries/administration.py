"""Orgs, companies, users, tokens, blueprints, and the steps that every org may use."""

from projections.queries.reader import Reader, Row

ORG = """
SELECT org_id::text, name, created_at, position FROM data_engine.orgs_v1 WHERE org_id = $1::uuid
"""

_COMPANY = "SELECT company_id::text, name, created_at, position FROM data_engine.companies_v1"

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
       created_at, deactivated_at, position
FROM data_engine.users_v1
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

_TOKEN = """
SELECT t.token_id::text, t.user_id::text, t.name, t.hint, t.revoked_at IS NULL AND u.deactivated_at IS NULL AS active,
       t.created_at, t.revoked_at, t.position
FROM data_engine.tokens_v1 t
JOIN data_engine.users_v1 u ON u.user_id = t.user_id AND u.org_id = t.org_id
"""

TOKEN = f"""
{_TOKEN}
WHERE t.org_id = $1::uuid AND t.token_id = $2::uuid AND ($3::uuid IS NULL OR u.company_id = $3::uuid)
"""

TOKENS = f"""
{_TOKEN}
WHERE t.org_id = $1::uuid AND ($2::uuid IS NULL OR u.company_id = $2::uuid)
  AND t.position < $3 AND ($5::uuid IS NULL OR t.user_id = $5::uuid)
  AND ($6::boolean IS NULL OR (t.revoked_at IS NULL AND u.deactivated_at IS NULL) = $6)
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


async def org(reader: Reader, org_id: str) -> Row | None:
    """The org itself."""
    return await reader.row(ORG, org_id)


async def company(reader: Reader, org_id: str, within: str | None, company_id: str) -> Row | None:
    """One company."""
    return await reader.row(COMPANY, org_id, company_id, within)


async def companies(
    reader: Reader, org_id: str, within: str | None, before: int, limit: int, name_prefix: str | None
) -> list[Row]:
    """Companies, newest first."""
    return await reader.rows(COMPANIES, org_id, within, before, limit, name_prefix)


async def user(reader: Reader, org_id: str, within: str | None, user_id: str) -> Row | None:
    """One user."""
    return await reader.row(USER, org_id, user_id, within)


async def users(
    reader: Reader, org_id: str, within: str | None, before: int, limit: int, role: str | None, active: bool | None
) -> list[Row]:
    """Users, newest first."""
    return await reader.rows(USERS, org_id, within, before, limit, role, active)


async def token(reader: Reader, org_id: str, within: str | None, token_id: str) -> Row | None:
    """One API token; never its verifier."""
    return await reader.row(TOKEN, org_id, token_id, within)


async def tokens(
    reader: Reader, org_id: str, within: str | None, before: int, limit: int, user_id: str | None, active: bool | None
) -> list[Row]:
    """API tokens, newest first."""
    return await reader.rows(TOKENS, org_id, within, before, limit, user_id, active)


async def blueprint(reader: Reader, org_id: str, blueprint_id: str) -> Row | None:
    """One blueprint; `steps` is JSON text."""
    return await reader.row(BLUEPRINT, org_id, blueprint_id)


async def blueprints(reader: Reader, org_id: str, before: int, limit: int, archived: bool | None) -> list[Row]:
    """Blueprints, newest first."""
    return await reader.rows(BLUEPRINTS, org_id, before, limit, archived)


async def step(reader: Reader, step_key: str) -> Row | None:
    """One registered step; `config_schema` is JSON text."""
    return await reader.row(STEP, step_key)


async def steps(reader: Reader, before: int, limit: int) -> list[Row]:
    """Registered steps, the latest registration first."""
    return await reader.rows(STEPS, before, limit)
