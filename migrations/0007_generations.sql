-- Generations of a read model: a changed one is built beside the one in service, and takes its place in one transaction.
-- `runs_v2` is `runs_v1` with the rows that a run read and gave. Runs with `psql -f` too; running it twice changes nothing.
BEGIN;

-- A projection that is `building` is in no query yet, and nobody waits for its position.
ALTER TABLE data_engine.projection_checkpoints
    ADD COLUMN IF NOT EXISTS building         boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS building_since   timestamptz,
    ADD COLUMN IF NOT EXISTS building_message text;

CREATE OR REPLACE FUNCTION data_engine.require_position(wanted bigint) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    IF (SELECT coalesce(min(position), 0) FROM data_engine.projection_checkpoints WHERE NOT building) < wanted THEN
        RAISE EXCEPTION 'the read models have not reached position %', wanted USING ERRCODE = 'DEX01';
    END IF;
END
$$;
GRANT SELECT (name, position, building) ON data_engine.projection_checkpoints TO data_engine_gateway;

-- The columns of the generation before it, in their order, then what is new: so a view can go from one to the next.
CREATE TABLE IF NOT EXISTS data_engine.runs_v2 (
    LIKE data_engine.runs_v1 INCLUDING DEFAULTS,
    PRIMARY KEY (run_id)
);
ALTER TABLE data_engine.runs_v2
    ADD COLUMN IF NOT EXISTS input_rows  bigint,
    ADD COLUMN IF NOT EXISTS output_rows bigint;
CREATE INDEX IF NOT EXISTS runs_v2_list ON data_engine.runs_v2 (org_id, position DESC);
CREATE INDEX IF NOT EXISTS runs_v2_submission ON data_engine.runs_v2 (submission_id, position DESC);
CREATE INDEX IF NOT EXISTS runs_v2_open ON data_engine.runs_v2 (org_id, created_by) WHERE status = 'running';

ALTER TABLE data_engine.runs_v2 ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant_reads ON data_engine.runs_v2;
CREATE POLICY tenant_reads ON data_engine.runs_v2 FOR SELECT TO data_engine_gateway
    USING (org_id = (SELECT data_engine.scope_org())
           AND ((SELECT data_engine.scope_is_whole_org()) OR company_id = (SELECT data_engine.scope_company())));
DROP POLICY IF EXISTS projector_writes ON data_engine.runs_v2;
CREATE POLICY projector_writes ON data_engine.runs_v2 TO data_engine_projector USING (true) WITH CHECK (true);
GRANT SELECT ON data_engine.runs_v2 TO data_engine_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON data_engine.runs_v2 TO data_engine_projector;

-- What queries read. Row-level security is that of the table behind it, for the role that asks.
DO $$
BEGIN
    IF to_regclass('data_engine.runs') IS NOT NULL THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM data_engine.projection_checkpoints WHERE name = 'runs_v1') THEN
        CREATE VIEW data_engine.runs WITH (security_invoker = true) AS
        SELECT *, NULL::bigint AS input_rows, NULL::bigint AS output_rows FROM data_engine.runs_v1;
    ELSE
        CREATE VIEW data_engine.runs WITH (security_invoker = true) AS SELECT * FROM data_engine.runs_v2;
    END IF;
END
$$;
GRANT SELECT ON data_engine.runs TO data_engine_gateway, data_engine_projector;

-- Puts a generation that was built into service. The caller holds the locks of both checkpoints, and has compared.
-- Raises 55000 when the new one is not being built.
CREATE OR REPLACE FUNCTION data_engine.switch_generation(of_view text, old_name text, new_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    IF old_name !~ ('^' || of_view || '_v[0-9]+$') OR new_name !~ ('^' || of_view || '_v[0-9]+$')
        OR NOT EXISTS (SELECT FROM data_engine.projection_checkpoints WHERE name = new_name AND building)
        OR NOT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(format('data_engine.%I', of_view)) AND relkind = 'v')
    THEN
        RAISE EXCEPTION '% is not being built beside %', new_name, old_name USING ERRCODE = '55000';
    END IF;
    EXECUTE format(
        'CREATE OR REPLACE VIEW data_engine.%I WITH (security_invoker = true) AS SELECT * FROM data_engine.%I',
        of_view, new_name
    );
    DELETE FROM data_engine.projection_checkpoints WHERE name = old_name;
    DELETE FROM data_engine.projection_dead_letters WHERE name = old_name;
    UPDATE data_engine.projection_checkpoints
    SET building = false, building_since = NULL, building_message = NULL WHERE name = new_name;
END
$$;
REVOKE ALL ON FUNCTION data_engine.switch_generation(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION data_engine.switch_generation(text, text, text) TO data_engine_projector;

INSERT INTO data_engine.schema_migrations (version) VALUES ('0007_generations') ON CONFLICT DO NOTHING;

COMMIT;
