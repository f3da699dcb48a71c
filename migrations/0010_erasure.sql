-- Erased companies: a tombstone without a name. Runs with `psql -f` too; running it twice changes nothing.
BEGIN;

ALTER TABLE data_engine.companies_v1
    ALTER COLUMN name DROP NOT NULL,
    ADD COLUMN IF NOT EXISTS erased_at       timestamptz,
    ADD COLUMN IF NOT EXISTS erased_position bigint;
CREATE INDEX IF NOT EXISTS companies_v1_erased ON data_engine.companies_v1 (erased_position)
    WHERE erased_position IS NOT NULL;

-- As before, and an erased company is a change of its org: its users and tokens are gone, and leave no row that tells.
CREATE OR REPLACE FUNCTION data_engine.access_changes(after_orgs bigint, after_users bigint, after_tokens bigint)
RETURNS TABLE (kind text, org_id uuid, last_position bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
SELECT 'org', NULL::uuid, greatest(
    coalesce((SELECT max(position) FROM data_engine.orgs_v2), 0),
    coalesce((SELECT max(erased_position) FROM data_engine.companies_v1), 0)
)
UNION ALL
SELECT 'user', NULL, coalesce((SELECT max(last_position) FROM data_engine.users_v2), 0)
UNION ALL
SELECT 'token', NULL, coalesce((SELECT max(last_position) FROM data_engine.tokens_v2), 0)
UNION ALL
SELECT 'org', org_id, position FROM data_engine.orgs_v2 WHERE position > after_orgs
UNION ALL
SELECT 'org', org_id, erased_position FROM data_engine.companies_v1 WHERE erased_position > after_orgs
UNION ALL
SELECT 'user', org_id, last_position FROM data_engine.users_v2 WHERE last_position > after_users
UNION ALL
SELECT 'token', org_id, last_position FROM data_engine.tokens_v2 WHERE last_position > after_tokens
$$;

INSERT INTO data_engine.schema_migrations (version) VALUES ('0010_erasure') ON CONFLICT DO NOTHING;

COMMIT;
