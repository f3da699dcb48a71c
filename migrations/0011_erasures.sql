-- The decisions that erased companies, found in the archive without reading it: `services/erasure.py` looks at its start
-- whether all of their keys are destroyed, also those of before the hot log begins. Runs with `psql -f` too; running it
-- twice changes nothing.
BEGIN;

CREATE INDEX IF NOT EXISTS event_log_erasures ON data_engine.event_log (position)
    WHERE kind = 'company' AND subject LIKE '%.log.erased';

INSERT INTO data_engine.schema_migrations (version) VALUES ('0011_erasures') ON CONFLICT DO NOTHING;

COMMIT;
