-- The read models and their checkpoints. Everything here is derived from the log and can be dropped and rebuilt.
-- Runs with `psql -f` too; running it twice changes nothing.
BEGIN;

CREATE SCHEMA IF NOT EXISTS data_engine;

CREATE TABLE IF NOT EXISTS data_engine.schema_migrations (
    version    text        PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- Where each projection stands: the position, and the id of the decision there, by which a log that was rewound or
-- recreated under it is noticed.
CREATE TABLE IF NOT EXISTS data_engine.projection_checkpoints (
    name        text        PRIMARY KEY,
    position    bigint      NOT NULL,
    epoch       text        NOT NULL,
    decision_id text        NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- What a projection could not apply: never skipped silently, shown by `dex status`.
CREATE TABLE IF NOT EXISTS data_engine.projection_dead_letters (
    name     text        NOT NULL,
    position bigint      NOT NULL,
    subject  text        NOT NULL,
    reason   text        NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, position)
);

CREATE TABLE IF NOT EXISTS data_engine.orgs_v1 (
    org_id     uuid        PRIMARY KEY,
    name       text        NOT NULL,
    created_at timestamptz NOT NULL,
    position   bigint      NOT NULL
);

CREATE TABLE IF NOT EXISTS data_engine.companies_v1 (
    company_id uuid        PRIMARY KEY,
    org_id     uuid        NOT NULL,
    name       text        NOT NULL,
    created_at timestamptz NOT NULL,
    position   bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS companies_v1_list ON data_engine.companies_v1 (org_id, position DESC);

CREATE TABLE IF NOT EXISTS data_engine.users_v1 (
    user_id        uuid        PRIMARY KEY,
    org_id         uuid        NOT NULL,
    company_id     uuid,
    email          text        NOT NULL,
    name           text,
    role           text        NOT NULL,
    identity       text,
    created_at     timestamptz NOT NULL,
    deactivated_at timestamptz,
    position       bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS users_v1_list ON data_engine.users_v1 (org_id, position DESC);
CREATE INDEX IF NOT EXISTS users_v1_identity ON data_engine.users_v1 (identity) WHERE identity IS NOT NULL;

CREATE TABLE IF NOT EXISTS data_engine.tokens_v1 (
    token_id   uuid        PRIMARY KEY,
    org_id     uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    name       text        NOT NULL,
    hint       text        NOT NULL,
    verifier   text        NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    position   bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS tokens_v1_list ON data_engine.tokens_v1 (org_id, position DESC);

CREATE TABLE IF NOT EXISTS data_engine.steps_v1 (
    step_key      text        PRIMARY KEY,
    version       text        NOT NULL,
    summary       text        NOT NULL,
    config_schema text        NOT NULL,
    has_effects   boolean     NOT NULL,
    registered_at timestamptz NOT NULL,
    position      bigint      NOT NULL
);

CREATE TABLE IF NOT EXISTS data_engine.blueprints_v1 (
    blueprint_id uuid        PRIMARY KEY,
    org_id       uuid        NOT NULL,
    name         text        NOT NULL,
    description  text,
    steps        text        NOT NULL,
    created_at   timestamptz NOT NULL,
    archived_at  timestamptz,
    position     bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS blueprints_v1_list ON data_engine.blueprints_v1 (org_id, position DESC);

CREATE TABLE IF NOT EXISTS data_engine.submissions_v1 (
    submission_id      uuid        PRIMARY KEY,
    org_id             uuid        NOT NULL,
    company_id         uuid        NOT NULL,
    blueprint_id       uuid        NOT NULL,
    name               text,
    records_digest     text        NOT NULL,
    records_size_bytes bigint      NOT NULL,
    records_rows       bigint      NOT NULL,
    records_inline     boolean     NOT NULL,
    created_by         uuid,
    created_at         timestamptz NOT NULL,
    position           bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS submissions_v1_list ON data_engine.submissions_v1 (org_id, position DESC);
CREATE INDEX IF NOT EXISTS submissions_v1_company ON data_engine.submissions_v1 (company_id, position DESC);

-- status: running, succeeded, failed, cancelled. `position` is that of the run's start and orders lists;
-- `last_position` is that of its last decision. current_step and not_before say what it waits for.
CREATE TABLE IF NOT EXISTS data_engine.runs_v1 (
    run_id          uuid        PRIMARY KEY,
    org_id          uuid        NOT NULL,
    company_id      uuid        NOT NULL,
    submission_id   uuid        NOT NULL,
    blueprint_id    uuid        NOT NULL,
    retry_of        uuid,
    status          text        NOT NULL,
    step_keys       text[]      NOT NULL,
    current_step    integer,
    current_attempt integer,
    not_before      timestamptz,
    error_step      integer,
    error_code      text,
    error_message   text,
    created_by      uuid,
    started_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    position        bigint      NOT NULL,
    last_position   bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_v1_list ON data_engine.runs_v1 (org_id, position DESC);
CREATE INDEX IF NOT EXISTS runs_v1_submission ON data_engine.runs_v1 (submission_id, position DESC);

-- One row for each step of a run that something is known of: running, succeeded, failed (finally), retrying, skipped.
-- Steps without a row are pending. An output that is inline is found at `output_position` of the log.
CREATE TABLE IF NOT EXISTS data_engine.step_results_v1 (
    run_id             uuid        NOT NULL,
    step_index         integer     NOT NULL,
    org_id             uuid        NOT NULL,
    company_id         uuid        NOT NULL,
    submission_id      uuid        NOT NULL,
    step_key           text        NOT NULL,
    step_version       text,
    status             text        NOT NULL,
    attempt            integer     NOT NULL,
    reused_from_run_id uuid,
    started_at         timestamptz,
    ended_at           timestamptz,
    duration_us        bigint,
    input_digest       text,
    input_rows         bigint,
    output_digest      text,
    output_size_bytes  bigint,
    output_rows        bigint,
    output_inline      boolean,
    output_position    bigint,
    rejects_digest     text,
    rejects_size_bytes bigint,
    rejects_rows       bigint,
    rejects_inline     boolean,
    error_code         text,
    error_message      text,
    position           bigint      NOT NULL,
    PRIMARY KEY (run_id, step_index)
);

INSERT INTO data_engine.schema_migrations (version) VALUES ('0001_read_models') ON CONFLICT DO NOTHING;

COMMIT;
