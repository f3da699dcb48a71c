-- The permanent archive of the log: every decision, in order, for ever. Runs with `psql -f` too; running it twice changes
-- nothing.
--
-- data_engine_archiver  adds rows at the end, and nothing else. Nobody changes or removes a row: no role of the service may,
--                       and triggers refuse it to the owner too. Whoever takes the triggers away is found out by the chain.
-- data_engine_services  the command service and the worker: read what the hot log no longer has.
BEGIN;

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['data_engine_archiver', 'data_engine_services'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', role_name);
        END IF;
    END LOOP;
END
$$;

-- One decision a row. `subject` and `body` are what the log holds, byte for byte; `recorded_at` is the stream's own time.
-- What follows them is taken from the two, for queries; NULL where they do not say it (a message that is no decision, a
-- decision of the platform's). `chain` is SHA-256 (FIPS 180-4) of the chain before it and this row's leaf bytes
-- (events/leaf.py).
CREATE TABLE IF NOT EXISTS data_engine.event_log (
    position       bigint      NOT NULL,
    recorded_at    timestamptz NOT NULL,
    subject        text        NOT NULL,
    body           bytea       NOT NULL,
    decision_id    text        NOT NULL,
    chain          bytea       NOT NULL,
    org_id         uuid,
    kind           text,
    aggregate_id   text,
    version        bigint,
    company_id     uuid,
    correlation_id text,
    causation_id   text,
    user_id        uuid,
    decided_at     timestamptz,
    PRIMARY KEY (position)
) PARTITION BY RANGE (position);
-- Most of a body is packed and encrypted already: to try to compress it again cost half of each insert.
ALTER TABLE data_engine.event_log ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS event_log_aggregate ON data_engine.event_log (aggregate_id, version);
CREATE INDEX IF NOT EXISTS event_log_org ON data_engine.event_log (org_id, position);
CREATE INDEX IF NOT EXISTS event_log_company ON data_engine.event_log (company_id, position) WHERE company_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS event_log_correlation ON data_engine.event_log (correlation_id, position)
    WHERE correlation_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS event_log_cause ON data_engine.event_log (causation_id) WHERE causation_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS event_log_decision ON data_engine.event_log (decision_id);
CREATE INDEX IF NOT EXISTS event_log_time ON data_engine.event_log USING brin (recorded_at);

-- Where the archive ends, in which life of the log; moved in the transaction that adds the rows.
CREATE TABLE IF NOT EXISTS data_engine.event_log_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    text    NOT NULL,
    position bigint  NOT NULL,
    chain    bytea   NOT NULL
);

CREATE OR REPLACE FUNCTION data_engine.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS
$$
BEGIN
    RAISE EXCEPTION 'The archive is append-only: % on % is refused.', TG_OP, TG_TABLE_NAME USING ERRCODE = 'DEX02';
END
$$;

CREATE OR REPLACE TRIGGER event_log_is_append_only BEFORE UPDATE OR DELETE ON data_engine.event_log
    FOR EACH ROW EXECUTE FUNCTION data_engine.refuse_change();
CREATE OR REPLACE TRIGGER event_log_is_not_truncated BEFORE TRUNCATE ON data_engine.event_log
    FOR EACH STATEMENT EXECUTE FUNCTION data_engine.refuse_change();

-- Makes the partition that holds a position, of ten million; the owner's right, lent to the archiver.
CREATE OR REPLACE FUNCTION data_engine.ensure_event_log_partition(for_position bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS
$$
DECLARE
    size  CONSTANT bigint := 10000000;
    first CONSTANT bigint := (for_position / size) * size;
    name  CONSTANT text := 'event_log_from_' || first;
BEGIN
    IF to_regclass('data_engine.' || name) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE TABLE data_engine.%I PARTITION OF data_engine.event_log FOR VALUES FROM (%s) TO (%s)',
        name, first, first + size
    );
    EXECUTE format(
        'CREATE TRIGGER event_log_is_not_truncated BEFORE TRUNCATE ON data_engine.%I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION data_engine.refuse_change()', name
    );
    EXECUTE format('ALTER TABLE data_engine.%I ENABLE ROW LEVEL SECURITY', name);  -- no policy: only through event_log
END
$$;
REVOKE ALL ON FUNCTION data_engine.ensure_event_log_partition(bigint), data_engine.refuse_change() FROM PUBLIC;
SELECT data_engine.ensure_event_log_partition(0);

-- Tenants: the rows of the transaction's scope. An org-wide fact (no company) is for those who see the whole org.
ALTER TABLE data_engine.event_log ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant ON data_engine.event_log;
CREATE POLICY tenant ON data_engine.event_log FOR SELECT TO data_engine_gateway
    USING (org_id = (SELECT data_engine.scope_org())
           AND ((SELECT data_engine.scope_is_whole_org()) OR company_id = (SELECT data_engine.scope_company())));
DROP POLICY IF EXISTS everything ON data_engine.event_log;
CREATE POLICY everything ON data_engine.event_log FOR SELECT
    TO data_engine_archiver, data_engine_projector, data_engine_services USING (true);
DROP POLICY IF EXISTS additions ON data_engine.event_log;
CREATE POLICY additions ON data_engine.event_log FOR INSERT TO data_engine_archiver WITH CHECK (true);

GRANT USAGE ON SCHEMA data_engine TO data_engine_archiver, data_engine_services;
GRANT SELECT ON data_engine.event_log, data_engine.event_log_head
    TO data_engine_gateway, data_engine_projector, data_engine_services, data_engine_archiver;
GRANT INSERT ON data_engine.event_log TO data_engine_archiver;
GRANT INSERT, UPDATE ON data_engine.event_log_head TO data_engine_archiver;
GRANT EXECUTE ON FUNCTION data_engine.ensure_event_log_partition(bigint) TO data_engine_archiver;

INSERT INTO data_engine.schema_migrations (version) VALUES ('0005_archive') ON CONFLICT DO NOTHING;

COMMIT;
