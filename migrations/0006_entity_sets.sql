-- The entity sets that companies keep: what each submission taught them is in the log, what is known now is a batch.
-- Runs with `psql -f` too; running it twice changes nothing.
BEGIN;

-- `snapshot_…` say where the set's records are, each with its entity; `position` orders lists, `last_position` is that of
-- the last change.
CREATE TABLE IF NOT EXISTS data_engine.entity_sets_v1 (
    set_id              uuid        PRIMARY KEY,
    org_id              uuid        NOT NULL,
    company_id          uuid        NOT NULL,
    name                text        NOT NULL,
    version             bigint      NOT NULL,
    snapshot_digest     text        NOT NULL,
    snapshot_size_bytes bigint      NOT NULL,
    snapshot_rows       bigint      NOT NULL,
    snapshot_inline     boolean     NOT NULL,
    snapshot_format     text        NOT NULL,
    last_run_id         uuid        NOT NULL,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    position            bigint      NOT NULL,
    last_position       bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS entity_sets_v1_list ON data_engine.entity_sets_v1 (org_id, position DESC);

ALTER TABLE data_engine.entity_sets_v1 ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant_reads ON data_engine.entity_sets_v1;
CREATE POLICY tenant_reads ON data_engine.entity_sets_v1 FOR SELECT TO data_engine_gateway
    USING (org_id = (SELECT data_engine.scope_org())
           AND ((SELECT data_engine.scope_is_whole_org()) OR company_id = (SELECT data_engine.scope_company())));
DROP POLICY IF EXISTS projector_writes ON data_engine.entity_sets_v1;
CREATE POLICY projector_writes ON data_engine.entity_sets_v1 TO data_engine_projector USING (true) WITH CHECK (true);
GRANT SELECT ON data_engine.entity_sets_v1 TO data_engine_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON data_engine.entity_sets_v1 TO data_engine_projector;

INSERT INTO data_engine.schema_migrations (version) VALUES ('0006_entity_sets') ON CONFLICT DO NOTHING;

COMMIT;
