"""The SQL of the trees (migrations/0009_audit.sql), by name."""

LOCK_HEAD = "SELECT position, chain FROM data_engine.org_trees_head FOR UPDATE"
MOVE_HEAD = "UPDATE data_engine.org_trees_head SET position = $1, chain = $2"

# As many rows as are wanted, or fewer when their bodies are more bytes than are wanted; one at least.
READ = """
SELECT position, subject, body, chain, org_id::text
FROM (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY position) - octet_length(body) AS bytes_before
    FROM (
        SELECT position, subject, body, chain, org_id FROM data_engine.event_log
        WHERE position > $1 ORDER BY position LIMIT $2
    ) wanted
) sized
WHERE bytes_before < $3
ORDER BY position
"""
CHAIN_AT = "SELECT chain FROM data_engine.event_log WHERE position = $1"
EPOCH = "SELECT epoch FROM data_engine.event_log_head"

TREES = """
SELECT org_id::text, size, position, peaks, note, kept_at FROM data_engine.org_trees WHERE org_id = ANY($1::uuid[])
"""
UNSIGNED = """
SELECT org_id::text, size, position, peaks, note, kept_at FROM data_engine.org_trees WHERE note IS NULL LIMIT $1
"""

# Unnested, because COPY is refused where row-level security is on.
ADD_LEAVES = """
INSERT INTO data_engine.org_leaves (org_id, leaf_index, position, leaf_hash)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bytea[])
"""
# Tile by tile: joined as wholes, all leaves would be read for each batch.
ADD_LEAF_TILES = """
INSERT INTO data_engine.org_tiles (org_id, level, tile_index, hashes, root)
SELECT full_tile.org_id, 0, full_tile.tile_index, part.hashes, full_tile.root
FROM unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS full_tile (org_id, tile_index, root)
CROSS JOIN LATERAL (
    SELECT string_agg(leaf_hash, ''::bytea ORDER BY leaf_index) AS hashes FROM data_engine.org_leaves
    WHERE org_id = full_tile.org_id
        AND leaf_index >= full_tile.tile_index * 256 AND leaf_index < (full_tile.tile_index + 1) * 256
) part
"""
ADD_TILES_ABOVE = """
INSERT INTO data_engine.org_tiles (org_id, level, tile_index, hashes, root)
SELECT full_tile.org_id, $1, full_tile.tile_index, part.hashes, full_tile.root
FROM unnest($2::uuid[], $3::bigint[], $4::bytea[]) AS full_tile (org_id, tile_index, root)
CROSS JOIN LATERAL (
    SELECT string_agg(root, ''::bytea ORDER BY tile_index) AS hashes FROM data_engine.org_tiles
    WHERE org_id = full_tile.org_id AND level = $1 - 1
        AND tile_index >= full_tile.tile_index * 256 AND tile_index < (full_tile.tile_index + 1) * 256
) part
"""
PUT_TREES = """
INSERT INTO data_engine.org_trees (org_id, size, position, peaks, note, kept_at)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::timestamptz[])
ON CONFLICT (org_id) DO UPDATE SET size = EXCLUDED.size, position = EXCLUDED.position, peaks = EXCLUDED.peaks,
    note = EXCLUDED.note, kept_at = EXCLUDED.kept_at
"""
KEEP_CHECKPOINTS = """
INSERT INTO data_engine.org_checkpoints (org_id, size, position, signed_at, note)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::text[])
ON CONFLICT DO NOTHING
"""
PUSHABLE = """
SELECT coalesce(max(position) FILTER (WHERE note IS NOT NULL), 0) AS last,
       min(position) FILTER (WHERE note IS NULL) AS unsigned
FROM data_engine.org_trees
"""
LATEST_NOTES = """
SELECT position, note FROM data_engine.org_trees
WHERE note IS NOT NULL AND position > $1 ORDER BY position LIMIT $2
"""
