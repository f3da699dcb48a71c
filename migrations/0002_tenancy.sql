-- The second lock between tenants: row-level security, and database roles that own nothing.
--
-- data_engine_gateway   reads what the org and the company of its transaction may see (data_engine.org_id and
--                       data_engine.company_id, set per transaction; 'all' for the whole org). Without them: nothing.
-- data_engine_projector writes the read models.
--
-- Both are groups without a login; the processes log in as members of them. The owner of the schema migrates and
-- rebuilds. Runs with `psql -f` too; running it twice changes nothing.
BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'data_engine_gateway') THEN
        CREATE ROLE data_engine_gateway NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'data_engine_projector') THEN
        CREATE ROLE data_engine_projector NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
END
$$;

-- The scope of the present transaction. Unset, empty or not an id: no row's org equals it.
CREATE OR REPLACE FUNCTION data_engine.scope_org() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT nullif(current_setting('data_engine.org_id', true), '')::uuid $$;

CREATE OR REPLACE FUNCTION data_engine.scope_is_whole_org() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT coalesce(current_setting('data_engine.company_id', true), '') = 'all' $$;

CREATE OR REPLACE FUNCTION data_engine.scope_company() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT nullif(nullif(current_setting('data_engine.company_id', true), ''), 'all')::uuid $$;

-- An org with what its admins and the platform have set. limits and sign_in_rules are JSON text.
CREATE TABLE IF NOT EXISTS data_engine.orgs_v2 (
    org_id           uuid        PRIMARY KEY,
    name             text        NOT NULL,
    members_may_work boolean     NOT NULL,
    sign_in_rules    text        NOT NULL,
    limits           text        NOT NULL,
    created_at       timestamptz NOT NULL,
    position         bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS orgs_v2_changes ON data_engine.orgs_v2 (position);

-- `position` orders lists; `last_position` is that of the last change, by which gateways notice it.
CREATE TABLE IF NOT EXISTS data_engine.users_v2 (
    user_id               uuid        PRIMARY KEY,
    org_id                uuid        NOT NULL,
    company_id            uuid,
    email                 text        NOT NULL,
    name                  text,
    role                  text        NOT NULL,
    identity              text,
    invitation_id         uuid,
    invitation_expires_at timestamptz,
    created_at            timestamptz NOT NULL,
    deactivated_at        timestamptz,
    position              bigint      NOT NULL,
    last_position         bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS users_v2_list ON data_engine.users_v2 (org_id, position DESC);
CREATE INDEX IF NOT EXISTS users_v2_identity ON data_engine.users_v2 (identity) WHERE identity IS NOT NULL;
CREATE INDEX IF NOT EXISTS users_v2_invitation ON data_engine.users_v2 (invitation_id) WHERE invitation_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS users_v2_changes ON data_engine.users_v2 (last_position);

-- role NULL: that of the user (tokens of the first generation had no scope of their own).
CREATE TABLE IF NOT EXISTS data_engine.tokens_v2 (
    token_id      uuid        PRIMARY KEY,
    org_id        uuid        NOT NULL,
    company_id    uuid,
    user_id       uuid        NOT NULL,
    role          text,
    name          text        NOT NULL,
    hint          text        NOT NULL,
    expires_at    timestamptz,
    created_at    timestamptz NOT NULL,
    rotated_at    timestamptz,
    revoked_at    timestamptz,
    position      bigint      NOT NULL,
    last_position bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS tokens_v2_list ON data_engine.tokens_v2 (org_id, position DESC);
CREATE INDEX IF NOT EXISTS tokens_v2_changes ON data_engine.tokens_v2 (last_position);

-- The secrets of a token: one, or two while a rotation's overlap lasts. What they look like is in `credentials`.
CREATE TABLE IF NOT EXISTS data_engine.token_secrets_v2 (
    secret_id   uuid        PRIMARY KEY,
    org_id      uuid        NOT NULL,
    token_id    uuid        NOT NULL,
    valid_until timestamptz,
    position    bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS token_secrets_v2_token ON data_engine.token_secrets_v2 (token_id);

-- No read model: the SHA-256 of API tokens and invitations. They are in no event, so that the log can be shown.
-- Without its secret_id in a read model a row opens nothing.
CREATE TABLE IF NOT EXISTS data_engine.credentials (
    verifier   text        PRIMARY KEY,
    secret_id  uuid        NOT NULL UNIQUE,
    org_id     uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- No read model either: when a token was last used, to a minute or so. Of use to people, and to nothing else.
CREATE TABLE IF NOT EXISTS data_engine.token_usage (
    token_id     uuid        PRIMARY KEY,
    org_id       uuid        NOT NULL,
    last_used_at timestamptz NOT NULL
);

-- Tokens of the first generation keep working: their only secret has the token's own id (as its upcaster says).
DO $$
BEGIN
    IF to_regclass('data_engine.tokens_v1') IS NOT NULL THEN
        INSERT INTO data_engine.credentials (verifier, secret_id, org_id, created_at)
        SELECT verifier, token_id, org_id, created_at FROM data_engine.tokens_v1
        ON CONFLICT DO NOTHING;
    END IF;
END
$$;
DROP TABLE IF EXISTS data_engine.orgs_v1, data_engine.users_v1, data_engine.tokens_v1;
DELETE FROM data_engine.projection_checkpoints WHERE name IN ('orgs_v1', 'users_v1', 'tokens_v1');
DELETE FROM data_engine.projection_dead_letters WHERE name IN ('orgs_v1', 'users_v1', 'tokens_v1');

-- A query that names a position is not answered from a state before it, also when a crash has just taken that back.
CREATE OR REPLACE FUNCTION data_engine.require_position(wanted bigint) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    IF (SELECT coalesce(min(position), 0) FROM data_engine.projection_checkpoints) < wanted THEN
        RAISE EXCEPTION 'the read models have not reached position %', wanted USING ERRCODE = 'DEX01';
    END IF;
END
$$;

-- Who stands behind a credential is asked before the org is known. These functions run as the owner, answer one
-- question each, and are all that the gateway has of the rows behind them.
CREATE OR REPLACE FUNCTION data_engine.token_caller(of_verifier text)
RETURNS TABLE (
    org_id uuid, user_id uuid, company_id uuid, role text, token_id uuid, expires_at timestamptz,
    members_may_work boolean, limits text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
SELECT u.org_id, u.user_id, coalesce(t.company_id, u.company_id),
       CASE WHEN 'member' IN (u.role, t.role) THEN 'member'
            WHEN 'company_admin' IN (u.role, t.role) THEN 'company_admin'
            ELSE u.role END,
       t.token_id, least(t.expires_at, s.valid_until), o.members_may_work, o.limits
FROM data_engine.credentials c
JOIN data_engine.token_secrets_v2 s ON s.secret_id = c.secret_id AND s.org_id = c.org_id
JOIN data_engine.tokens_v2 t ON t.token_id = s.token_id AND t.org_id = s.org_id
JOIN data_engine.users_v2 u ON u.user_id = t.user_id AND u.org_id = t.org_id
JOIN data_engine.orgs_v2 o ON o.org_id = u.org_id
WHERE c.verifier = of_verifier AND t.revoked_at IS NULL AND u.deactivated_at IS NULL
  AND coalesce(least(t.expires_at, s.valid_until), 'infinity') > now()
$$;

CREATE OR REPLACE FUNCTION data_engine.identity_callers(of_identity text)
RETURNS TABLE (
    org_id uuid, user_id uuid, company_id uuid, role text, token_id uuid, expires_at timestamptz,
    members_may_work boolean, limits text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
SELECT u.org_id, u.user_id, u.company_id, u.role, NULL::uuid, NULL::timestamptz, o.members_may_work, o.limits
FROM data_engine.users_v2 u
JOIN data_engine.orgs_v2 o ON o.org_id = u.org_id
WHERE u.identity = of_identity AND u.deactivated_at IS NULL
ORDER BY u.position
LIMIT 100
$$;

CREATE OR REPLACE FUNCTION data_engine.open_invitation(of_verifier text)
RETURNS TABLE (org_id uuid, user_id uuid, company_id uuid, role text, invitation_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
SELECT u.org_id, u.user_id, u.company_id, u.role, u.invitation_id
FROM data_engine.credentials c
JOIN data_engine.users_v2 u ON u.invitation_id = c.secret_id AND u.org_id = c.org_id
WHERE c.verifier = of_verifier AND u.identity IS NULL AND u.deactivated_at IS NULL AND u.invitation_expires_at > now()
$$;

-- A caller of one company sees its tokens, and not the rows of the org's own users behind some of them.
CREATE OR REPLACE FUNCTION data_engine.user_is_active(of_user uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
SELECT EXISTS (
    SELECT FROM data_engine.users_v2
    WHERE user_id = of_user AND org_id = data_engine.scope_org() AND deactivated_at IS NULL
)
$$;

-- The orgs in which anybody's access changed after these positions, and (org_id NULL) how far each read model goes now.
-- One position for each: one of them may be built anew while the others are long there.
CREATE OR REPLACE FUNCTION data_engine.access_changes(after_orgs bigint, after_users bigint, after_tokens bigint)
RETURNS TABLE (kind text, org_id uuid, last_position bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
SELECT 'org', NULL::uuid, coalesce((SELECT max(position) FROM data_engine.orgs_v2), 0)
UNION ALL
SELECT 'user', NULL, coalesce((SELECT max(last_position) FROM data_engine.users_v2), 0)
UNION ALL
SELECT 'token', NULL, coalesce((SELECT max(last_position) FROM data_engine.tokens_v2), 0)
UNION ALL
SELECT 'org', org_id, position FROM data_engine.orgs_v2 WHERE position > after_orgs
UNION ALL
SELECT 'user', org_id, last_position FROM data_engine.users_v2 WHERE last_position > after_users
UNION ALL
SELECT 'token', org_id, last_position FROM data_engine.tokens_v2 WHERE last_position > after_tokens
$$;

REVOKE ALL ON SCHEMA data_engine FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA data_engine FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA data_engine FROM PUBLIC;
GRANT USAGE ON SCHEMA data_engine TO data_engine_gateway, data_engine_projector;
GRANT EXECUTE ON FUNCTION
    data_engine.scope_org(), data_engine.scope_is_whole_org(), data_engine.scope_company()
    TO data_engine_gateway, data_engine_projector;
GRANT EXECUTE ON FUNCTION
    data_engine.token_caller(text), data_engine.identity_callers(text), data_engine.open_invitation(text),
    data_engine.access_changes(bigint, bigint, bigint), data_engine.user_is_active(uuid),
    data_engine.require_position(bigint)
    TO data_engine_gateway;

-- Every table with an org has row-level security on. Read models: the gateway reads by scope, the projector writes.
DO $$
DECLARE
    org_wide    constant text := 'org_id = (SELECT data_engine.scope_org())';
    company     constant text := org_wide || ' AND ((SELECT data_engine.scope_is_whole_org())'
                                          || ' OR company_id = (SELECT data_engine.scope_company()))';
    read_models constant text[][] := ARRAY[
        ['orgs_v2', org_wide], ['companies_v1', company], ['users_v2', company], ['tokens_v2', company],
        ['blueprints_v1', org_wide], ['submissions_v1', company], ['runs_v1', company], ['step_results_v1', company]
    ];
    name text;
    rows text;
BEGIN
    FOR i IN 1 .. array_length(read_models, 1) LOOP
        name := read_models[i][1];
        rows := read_models[i][2];
        EXECUTE format('ALTER TABLE data_engine.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('DROP POLICY IF EXISTS tenant_reads ON data_engine.%I', name);
        EXECUTE format(
            'CREATE POLICY tenant_reads ON data_engine.%I FOR SELECT TO data_engine_gateway USING (%s)', name, rows
        );
        EXECUTE format('GRANT SELECT ON data_engine.%I TO data_engine_gateway', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY[
        'orgs_v2', 'companies_v1', 'users_v2', 'tokens_v2', 'token_secrets_v2', 'blueprints_v1', 'submissions_v1',
        'runs_v1', 'step_results_v1'
    ] LOOP
        EXECUTE format('ALTER TABLE data_engine.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('DROP POLICY IF EXISTS projector_writes ON data_engine.%I', name);
        EXECUTE format(
            'CREATE POLICY projector_writes ON data_engine.%I TO data_engine_projector USING (true) WITH CHECK (true)',
            name
        );
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON data_engine.%I TO data_engine_projector', name);
    END LOOP;
END
$$;

-- What belongs to no tenant.
GRANT SELECT ON data_engine.steps_v1 TO data_engine_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON data_engine.steps_v1 TO data_engine_projector;
GRANT SELECT (name, position) ON data_engine.projection_checkpoints TO data_engine_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON data_engine.projection_checkpoints TO data_engine_projector;
GRANT SELECT, INSERT, UPDATE, DELETE ON data_engine.projection_dead_letters TO data_engine_projector;

-- What the gateway itself writes: new verifiers, which it can never read back, and when tokens were used.
ALTER TABLE data_engine.credentials ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant_adds ON data_engine.credentials;
CREATE POLICY tenant_adds ON data_engine.credentials FOR INSERT TO data_engine_gateway
    WITH CHECK (org_id = (SELECT data_engine.scope_org()));
GRANT INSERT (verifier, secret_id, org_id) ON data_engine.credentials TO data_engine_gateway;

ALTER TABLE data_engine.token_usage ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant_notes ON data_engine.token_usage;
CREATE POLICY tenant_notes ON data_engine.token_usage TO data_engine_gateway
    USING (org_id = (SELECT data_engine.scope_org())) WITH CHECK (org_id = (SELECT data_engine.scope_org()));
GRANT SELECT, INSERT, UPDATE ON data_engine.token_usage TO data_engine_gateway;

INSERT INTO data_engine.schema_migrations (version) VALUES ('0002_tenancy') ON CONFLICT DO NOTHING;

COMMIT;
