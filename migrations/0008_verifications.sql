-- Verified executions: which runs execute another one's steps again, to compare. Such a run is no result of its
-- submission. Runs with `psql -f` too; running it twice changes nothing.
BEGIN;

CREATE TABLE IF NOT EXISTS data_engine.verifications_v1 (
    run_id     uuid   PRIMARY KEY,
    org_id     uuid   NOT NULL,
    company_id uuid   NOT NULL,
    verifies   uuid   NOT NULL,
    position   bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS verifications_v1_verifies ON data_engine.verifications_v1 (verifies, position DESC);

ALTER TABLE data_engine.verifications_v1 ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant_reads ON data_engine.verifications_v1;
CREATE POLICY tenant_reads ON data_engine.verifications_v1 FOR SELECT TO data_engine_gateway
    USING (org_id = (SELECT data_engine.scope_org())
           AND ((SELECT data_engine.scope_is_whole_org()) OR company_id = (SELECT data_engine.scope_company())));
DROP POLICY IF EXISTS projector_writes ON data_engine.verifications_v1;
CREATE POLICY projector_writes ON data_engine.verifications_v1 TO data_engine_projector USING (true) WITH CHECK (true);
GRANT SELECT ON data_engine.verifications_v1 TO data_engine_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON data_engine.verifications_v1 TO data_engine_projector;

INSERT INTO data_engine.schema_migrations (version) VALUES ('0008_verifications') ON CONFLICT DO NOTHING;

COMMIT;
