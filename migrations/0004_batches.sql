-- Large batches: in what form a payload is, what a step reports, and how far it is with its chunks. The defaults are
-- right for every row that was there before. Runs with `psql -f` too; running it twice changes nothing.
BEGIN;

ALTER TABLE data_engine.submissions_v1 ADD COLUMN IF NOT EXISTS records_format text NOT NULL DEFAULT 'json';

ALTER TABLE data_engine.step_results_v1
    ADD COLUMN IF NOT EXISTS output_format  text NOT NULL DEFAULT 'json',
    ADD COLUMN IF NOT EXISTS rejects_format text NOT NULL DEFAULT 'json',
    ADD COLUMN IF NOT EXISTS report         text,
    ADD COLUMN IF NOT EXISTS chunks_done    integer,
    ADD COLUMN IF NOT EXISTS chunks_total   integer;

INSERT INTO data_engine.schema_migrations (version) VALUES ('0004_batches') ON CONFLICT DO NOTHING;

COMMIT;
