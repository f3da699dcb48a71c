-- What an org's history is proved with: a Merkle tree over its decisions in the archive (RFC 6962), and signed
-- checkpoints of it. All of it is made from event_log, by the archiver. Runs with `psql -f` too; running it twice changes
-- nothing.
BEGIN;

-- One leaf a decision of the org, in the order of the log; leaf_hash is SHA-256(0x00, leaf bytes) (events/leaf.py).
CREATE TABLE IF NOT EXISTS data_engine.org_leaves (
    org_id     uuid   NOT NULL,
    leaf_index bigint NOT NULL,
    position   bigint NOT NULL,
    leaf_hash  bytea  NOT NULL,
    PRIMARY KEY (org_id, leaf_index),
    UNIQUE (org_id, position)
);

-- Full tiles of 256 hashes of the height 8 * level, and the root of those: a hash of the level above.
CREATE TABLE IF NOT EXISTS data_engine.org_tiles (
    org_id     uuid     NOT NULL,
    level      smallint NOT NULL,
    tile_index bigint   NOT NULL,
    hashes     bytea    NOT NULL CHECK (octet_length(hashes) = 8192),
    root       bytea    NOT NULL,
    PRIMARY KEY (org_id, level, tile_index)
);

-- How far each org's tree is: its size, the position of its last leaf, the roots of its largest perfect subtrees from
-- left to right, and its latest checkpoint as a signed note (NULL where there is no key to sign it). `kept_at` is when
-- one was last kept in org_checkpoints.
CREATE TABLE IF NOT EXISTS data_engine.org_trees (
    org_id   uuid        PRIMARY KEY,
    size     bigint      NOT NULL,
    position bigint      NOT NULL,
    peaks    bytea       NOT NULL,
    note     text,
    kept_at  timestamptz
);

-- Checkpoints that are kept: at most one a minute for an org.
CREATE TABLE IF NOT EXISTS data_engine.org_checkpoints (
    org_id    uuid        NOT NULL,
    size      bigint      NOT NULL,
    position  bigint      NOT NULL,
    signed_at timestamptz NOT NULL,
    note      text        NOT NULL,
    PRIMARY KEY (org_id, size)
);

-- Where the trees are in event_log; moved in the transaction that adds the leaves.
CREATE TABLE IF NOT EXISTS data_engine.org_trees_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint  NOT NULL,
    chain    bytea   NOT NULL
);
INSERT INTO data_engine.org_trees_head (position, chain) VALUES (0, decode(repeat('00', 32), 'hex'))
ON CONFLICT DO NOTHING;

-- An org's hashes are for all its callers: those of other companies' decisions tell nothing of them, and without them
-- nothing is proved. The decisions themselves are in event_log, under its own policies.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['org_leaves', 'org_tiles', 'org_checkpoints', 'org_trees'] LOOP
        EXECUTE format('ALTER TABLE data_engine.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('DROP POLICY IF EXISTS tenant ON data_engine.%I', name);
        EXECUTE format(
            'CREATE POLICY tenant ON data_engine.%I FOR SELECT TO data_engine_gateway'
            ' USING (org_id = (SELECT data_engine.scope_org()))', name
        );
        EXECUTE format('DROP POLICY IF EXISTS archiver ON data_engine.%I', name);
        EXECUTE format(
            'CREATE POLICY archiver ON data_engine.%I TO data_engine_archiver USING (true) WITH CHECK (true)', name
        );
        EXECUTE format('GRANT SELECT ON data_engine.%I TO data_engine_gateway', name);
        EXECUTE format('GRANT SELECT, INSERT ON data_engine.%I TO data_engine_archiver', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['org_leaves', 'org_tiles', 'org_checkpoints'] LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER is_append_only BEFORE UPDATE OR DELETE ON data_engine.%I'
            ' FOR EACH ROW EXECUTE FUNCTION data_engine.refuse_change()', name
        );
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER is_not_truncated BEFORE TRUNCATE ON data_engine.%I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION data_engine.refuse_change()', name
        );
    END LOOP;
END
$$;
GRANT UPDATE ON data_engine.org_trees TO data_engine_archiver;
GRANT SELECT, INSERT, UPDATE ON data_engine.org_trees_head TO data_engine_archiver;
GRANT SELECT (position) ON data_engine.org_trees_head TO data_engine_gateway;

INSERT INTO data_engine.schema_migrations (version) VALUES ('0009_audit') ON CONFLICT DO NOTHING;

COMMIT;
