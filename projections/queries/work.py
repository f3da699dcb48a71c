"""Submissions, pipeline runs and step results."""

from collections.abc import Sequence

from projections.queries.reader import Reader, Row, Scope

_SUBMISSION = """
SELECT submission_id::text, company_id::text, blueprint_id::text, name, records_digest, records_size_bytes,
       records_rows, records_inline, records_format, created_by::text, created_at, position
FROM data_engine.submissions_v1
"""

SUBMISSION = f"""
{_SUBMISSION}
WHERE org_id = $1::uuid AND submission_id = $2::uuid AND ($3::uuid IS NULL OR company_id = $3::uuid)
"""

SUBMISSIONS = f"""
{_SUBMISSION}
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid)
  AND position < $3 AND ($5::uuid IS NULL OR blueprint_id = $5::uuid)
ORDER BY position DESC
LIMIT $4
"""

_RUN = """
SELECT r.run_id::text, r.org_id::text, r.company_id::text, r.submission_id::text, r.blueprint_id::text,
       r.retry_of::text, r.status, r.step_keys, r.current_step, r.current_attempt, r.not_before, r.error_step,
       r.error_code, r.error_message, r.created_by::text, r.started_at, r.ended_at, r.position, r.last_position,
       r.input_rows, r.output_rows AS made_rows,
       (SELECT v.verifies::text FROM data_engine.verifications_v1 v WHERE v.run_id = r.run_id) AS verifies,
       s.indexes, s.statuses, s.attempts, s.chunks_done, s.chunks_total, s.output_digest, s.output_size_bytes,
       s.output_rows, s.output_inline, s.output_format, s.output_position
"""

_STEPS_OF_RUN = """
LEFT JOIN LATERAL (
    SELECT array_agg(s.step_index) AS indexes, array_agg(s.status) AS statuses, array_agg(s.attempt) AS attempts,
           array_agg(s.chunks_done) AS chunks_done, array_agg(s.chunks_total) AS chunks_total,
           max(s.output_digest) FILTER (WHERE is_last) AS output_digest,
           max(s.output_size_bytes) FILTER (WHERE is_last) AS output_size_bytes,
           max(s.output_rows) FILTER (WHERE is_last) AS output_rows,
           bool_or(s.output_inline) FILTER (WHERE is_last) AS output_inline,
           max(s.output_format) FILTER (WHERE is_last) AS output_format,
           max(s.output_position) FILTER (WHERE is_last) AS output_position
    FROM (
        SELECT *, step_index = cardinality(r.step_keys) - 1 AS is_last
        FROM data_engine.step_results_v1
        WHERE run_id = r.run_id AND org_id = r.org_id
    ) s
) s ON true
"""

RUNS_BY_ID = f"""
{_RUN}
FROM unnest($3::uuid[]) AS asked (run_id)
JOIN data_engine.runs r ON r.run_id = asked.run_id AND r.org_id = $1::uuid
  AND ($2::uuid IS NULL OR r.company_id = $2::uuid)
{_STEPS_OF_RUN}
"""

RUNS = f"""
{_RUN}
FROM (
    SELECT *
    FROM data_engine.runs AS all_runs
    WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid)
      AND position < $3 AND ($5::uuid IS NULL OR submission_id = $5::uuid)
      AND ($6::uuid IS NULL OR blueprint_id = $6::uuid) AND ($7::text IS NULL OR status = $7)
      AND ($8 OR NOT EXISTS (SELECT FROM data_engine.verifications_v1 v WHERE v.run_id = all_runs.run_id))
    ORDER BY position DESC
    LIMIT $4
) r
{_STEPS_OF_RUN}
ORDER BY r.position DESC
"""

RUN_IDS_OF_SUBMISSION = """
SELECT run_id::text, position
FROM data_engine.runs
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid) AND submission_id = $3::uuid
  AND last_position > $4
ORDER BY position
LIMIT $5
"""

OPEN_RUNS = """
SELECT r.created_by::text AS user_id, count(*) AS runs
FROM (
    SELECT created_by FROM data_engine.runs WHERE org_id = $1::uuid AND status = 'running' LIMIT $2
) r
GROUP BY r.created_by
"""

# With the position that the counts are of: one statement, so one state of the read models.
_OPEN_RUNS_AT = f"""
SELECT p.position, o.user_id, o.runs
FROM (
    SELECT coalesce(min(position), 0)::bigint AS position FROM data_engine.projection_checkpoints WHERE NOT building
) p
LEFT JOIN ({OPEN_RUNS}) o ON true
"""

RUN_EXISTS = "SELECT 1 FROM data_engine.runs WHERE org_id = $1::uuid AND run_id = $2::uuid"

STEP_RESULTS = """
SELECT company_id::text, step_index, step_key, step_version, status, attempt, reused_from_run_id::text, started_at,
       ended_at, duration_us,
       input_digest, input_rows, output_digest, output_size_bytes, output_rows, output_inline, output_format,
       output_position, rejects_digest, rejects_size_bytes, rejects_rows, rejects_inline, rejects_format, error_code,
       error_message, report, chunks_done, chunks_total, position
FROM data_engine.step_results_v1
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid) AND run_id = $3::uuid
ORDER BY step_index
"""


async def submission(reader: Reader, scope: Scope, submission_id: str) -> Row | None:
    """One submission."""
    return await reader.row(scope, SUBMISSION, scope.org_id, submission_id, scope.company_id)


async def submissions(reader: Reader, scope: Scope, before: int, limit: int, blueprint_id: str | None) -> list[Row]:
    """Submissions, newest first."""
    return await reader.rows(scope, SUBMISSIONS, scope.org_id, scope.company_id, before, limit, blueprint_id)


async def runs_by_id(reader: Reader, scope: Scope, run_ids: Sequence[str]) -> dict[str, Row]:
    """Runs with their steps and the reference of their output, by id; those that the scope may see."""
    found = await reader.rows(scope, RUNS_BY_ID, scope.org_id, scope.company_id, run_ids)
    return {row["run_id"]: row for row in found}


async def runs(
    reader: Reader,
    scope: Scope,
    before: int,
    limit: int,
    submission_id: str | None,
    blueprint_id: str | None,
    status: str | None,
    verifications: bool,
) -> list[Row]:
    """Runs, newest first; those that verify others too, if they are wanted."""
    return await reader.rows(
        scope, RUNS, scope.org_id, scope.company_id, before, limit, submission_id, blueprint_id, status, verifications
    )


async def run_ids_of_submission(reader: Reader, scope: Scope, submission_id: str, after: int, limit: int) -> list[Row]:
    """The submission's runs that have decisions after a position, oldest first."""
    return await reader.rows(scope, RUN_IDS_OF_SUBMISSION, scope.org_id, scope.company_id, submission_id, after, limit)


async def step_results(reader: Reader, scope: Scope, run_id: str) -> list[Row]:
    """What is known of a run's steps, in their order; a step without a row is pending."""
    return await reader.rows(scope, STEP_RESULTS, scope.org_id, scope.company_id, run_id)


async def open_runs(reader: Reader, scope: Scope, limit: int) -> tuple[int, dict[str, int]]:
    """A position, and the runs open at it by who started them; of an org with more, `limit` in all."""
    rows = await reader.rows(scope, _OPEN_RUNS_AT, scope.org_id, limit)
    return rows[0]["position"], {row["user_id"] or "": row["runs"] for row in rows if row["runs"] is not None}


async def run_exists(reader: Reader, scope: Scope, run_id: str) -> bool:
    """Whether the scope has such a run."""
    return await reader.row(scope, RUN_EXISTS, scope.org_id, run_id) is not None
