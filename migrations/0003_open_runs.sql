-- The runs of an org that have not ended, by who started them: what the limit of open runs counts.
-- Runs with `psql -f` too; running it twice changes nothing.
BEGIN;

CREATE INDEX IF NOT EXISTS runs_v1_open ON data_engine.runs_v1 (org_id, created_by) WHERE status = 'running';

INSERT INTO data_engine.schema_migrations (version) VALUES ('0003_open_runs') ON CONFLICT DO NOTHING;

COMMIT;
