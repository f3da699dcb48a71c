"""The entity sets that companies keep."""

from projections.queries.reader import Reader, Row, Scope

_SET = """
SELECT set_id::text, company_id::text, name, version, snapshot_digest, snapshot_size_bytes, snapshot_rows,
       snapshot_inline, snapshot_format, last_run_id::text, created_at, updated_at, position, last_position
FROM data_engine.entity_sets_v1
"""

ENTITY_SET = f"""
{_SET}
WHERE org_id = $1::uuid AND set_id = $2::uuid AND ($3::uuid IS NULL OR company_id = $3::uuid)
"""

ENTITY_SETS = f"""
{_SET}
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid) AND position < $3
  AND ($5::text IS NULL OR name = $5)
ORDER BY position DESC
LIMIT $4
"""


async def entity_set(reader: Reader, scope: Scope, set_id: str) -> Row | None:
    """One set."""
    return await reader.row(scope, ENTITY_SET, scope.org_id, set_id, scope.company_id)


async def entity_sets(reader: Reader, scope: Scope, before: int, limit: int, name: str | None) -> list[Row]:
    """Sets, newest first."""
    return await reader.rows(scope, ENTITY_SETS, scope.org_id, scope.company_id, before, limit, name)
