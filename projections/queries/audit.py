"""What an org's history is proved with: its tree's hashes, its checkpoints, and the decisions themselves."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from events.audit import merkle
from events.audit.merkle import HASH_BYTES, TILE_HEIGHT, TILE_LEAVES, Node
from events.errors import ArchiveAlteredError
from projections.queries.reader import Reader, Row, Scope

PAGE_ROWS = 2048
PAGE_BYTES = 16 * 1024 * 1024

PROVED_POSITION = "SELECT position FROM data_engine.org_trees_head"

TREE = "SELECT size, position, note FROM data_engine.org_trees WHERE org_id = $1::uuid"

CHECKPOINT_FROM = """
SELECT size, position, note FROM data_engine.org_checkpoints
WHERE org_id = $1::uuid AND position >= $2 ORDER BY size LIMIT 1
"""

CHECKPOINT_OF_SIZE = "SELECT note FROM data_engine.org_checkpoints WHERE org_id = $1::uuid AND size = $2"

FIRST_INDEX_FROM = """
SELECT leaf_index FROM data_engine.org_leaves WHERE org_id = $1::uuid AND position >= $2 ORDER BY position LIMIT 1
"""

# Of what the scope may see: event_log has policies of its own.
LEAF_AT = """
SELECT leaf.leaf_index, leaf.position, leaf.leaf_hash
FROM data_engine.event_log entry
JOIN data_engine.org_leaves leaf ON leaf.org_id = entry.org_id AND leaf.position = entry.position
WHERE entry.org_id = $1::uuid AND entry.position = $2 AND ($3::uuid IS NULL OR entry.company_id = $3::uuid)
"""

LEAVES_OF = """
SELECT leaf.leaf_index, leaf.position, leaf.leaf_hash
FROM data_engine.event_log entry
JOIN data_engine.org_leaves leaf ON leaf.org_id = entry.org_id AND leaf.position = entry.position
WHERE entry.org_id = $1::uuid AND ($2::uuid IS NULL OR entry.company_id = $2::uuid)
    AND entry.aggregate_id = ANY($3::text[]) AND entry.position > $4 AND leaf.leaf_index < $5
ORDER BY entry.position LIMIT $6
"""

LAST_POSITION_OF = """
SELECT max(last_position) AS position FROM data_engine.runs
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid)
    AND (run_id = $3::uuid OR submission_id = $4::uuid)
"""

RUN_IDS_OF = """
SELECT run_id::text FROM data_engine.runs
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid) AND submission_id = $3::uuid
ORDER BY position LIMIT $4
"""

# Tile by tile: joined as wholes, all leaves would be read.
TILES = """
SELECT wanted.level, wanted.tile_index, part.hashes
FROM unnest($2::int[], $3::bigint[]) AS wanted (level, tile_index)
CROSS JOIN LATERAL (
    SELECT hashes FROM data_engine.org_tiles
    WHERE org_id = $1::uuid AND level = wanted.level AND tile_index = wanted.tile_index
    OFFSET 0
) part
UNION ALL
SELECT 0, wanted.tile_index, part.hashes
FROM unnest($4::bigint[], $5::bigint[]) AS wanted (tile_index, end_index)
CROSS JOIN LATERAL (
    SELECT string_agg(leaf_hash, ''::bytea ORDER BY leaf_index) AS hashes FROM data_engine.org_leaves
    WHERE org_id = $1::uuid AND leaf_index >= wanted.tile_index * 256 AND leaf_index < wanted.end_index
) part
UNION ALL
SELECT wanted.level, wanted.tile_index, part.hashes
FROM unnest($6::int[], $7::bigint[], $8::bigint[]) AS wanted (level, tile_index, end_index)
CROSS JOIN LATERAL (
    SELECT string_agg(root, ''::bytea ORDER BY tile_index) AS hashes FROM data_engine.org_tiles
    WHERE org_id = $1::uuid AND level = wanted.level - 1
        AND tile_index >= wanted.tile_index * 256 AND tile_index < wanted.end_index
) part
"""

# As many rows as are wanted, or fewer when their bodies are more bytes than are wanted; one at least.
_PAGE = f"""
SELECT sized.position, sized.recorded_at, sized.subject, sized.body, leaf.leaf_index
FROM (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY position) - octet_length(body) AS bytes_before
    FROM (
        SELECT position, recorded_at, subject, body FROM data_engine.event_log
        WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid)
            AND position > $3 AND position <= $4 {{condition}}
        ORDER BY position LIMIT {PAGE_ROWS}
    ) wanted
) sized
LEFT JOIN LATERAL (
    SELECT leaf_index FROM data_engine.org_leaves WHERE org_id = $1::uuid AND position = sized.position
    OFFSET 0  -- row by row: joined as a whole, all leaves of the org would be read for each page
) leaf ON true
WHERE bytes_before < {PAGE_BYTES}
ORDER BY sized.position
"""
PAGE_OF_ALL = _PAGE.format(condition="")
PAGE_OF_HISTORIES = _PAGE.format(condition="AND aggregate_id = ANY($5::text[])")


class Tree(NamedTuple):
    """An org's tree as far as it is: its size, the position of its last leaf, its latest checkpoint if it is signed."""

    size: int = 0
    position: int = 0
    note: str | None = None


class Entry(NamedTuple):
    """A decision of the archive; `leaf_index` is None where the tree has no leaf for it."""

    position: int
    recorded_at: datetime
    subject: str
    body: bytes
    leaf_index: int | None


async def proved_position(reader: Reader) -> int:
    """The position up to which the orgs' trees go."""
    rows = await reader.platform_rows(PROVED_POSITION)
    return int(rows[0][0]) if rows else 0


async def tree(reader: Reader, scope: Scope) -> Tree:
    """The org's tree."""
    row = await reader.row(scope, TREE, scope.org_id)
    return Tree() if row is None else Tree(*row)


async def checkpoint_from(reader: Reader, scope: Scope, position: int) -> Tree | None:
    """The earliest of the checkpoints that were kept which has this position; None when only later ones will."""
    row = await reader.row(scope, CHECKPOINT_FROM, scope.org_id, position)
    return None if row is None else Tree(*row)


async def checkpoint_of_size(reader: Reader, scope: Scope, size: int) -> str | None:
    """The note of the checkpoint of a size, if it was kept."""
    row = await reader.row(scope, CHECKPOINT_OF_SIZE, scope.org_id, size)
    return None if row is None else row["note"]


async def index_from(reader: Reader, scope: Scope, position: int, size: int) -> int:
    """How many leaves stand before a position, of a tree of `size`."""
    row = await reader.row(scope, FIRST_INDEX_FROM, scope.org_id, position)
    return size if row is None else min(int(row["leaf_index"]), size)


async def leaf_at(reader: Reader, scope: Scope, position: int) -> Row | None:
    """The leaf of a decision that the scope may see."""
    return await reader.row(scope, LEAF_AT, scope.org_id, position, scope.company_id)


async def leaves_of(
    reader: Reader, scope: Scope, aggregate_ids: Sequence[str], after: int, size: int, limit: int
) -> list[Row]:
    """The leaves of histories, by position: those below `size`, after a position."""
    return await reader.rows(scope, LEAVES_OF, scope.org_id, scope.company_id, aggregate_ids, after, size, limit)


async def last_position_of(reader: Reader, scope: Scope, run_id: str | None, submission_id: str | None) -> int | None:
    """The last position of a run, or of a submission's runs; None when the scope has no such run."""
    row = await reader.row(scope, LAST_POSITION_OF, scope.org_id, scope.company_id, run_id, submission_id)
    return None if row is None else row["position"]


async def run_ids_of(reader: Reader, scope: Scope, submission_id: str, limit: int) -> list[str]:
    """The runs of a submission, oldest first."""
    rows = await reader.rows(scope, RUN_IDS_OF, scope.org_id, scope.company_id, submission_id, limit)
    return [row["run_id"] for row in rows]


async def page(
    reader: Reader, scope: Scope, after: int, until: int, aggregate_ids: Sequence[str] | None
) -> list[Entry]:
    """The next decisions that the scope may see, after a position: all, or those of some histories."""
    bounds = (scope.org_id, scope.company_id, after, until)
    if aggregate_ids is None:
        rows = await reader.rows(scope, PAGE_OF_ALL, *bounds)
    else:
        rows = await reader.rows(scope, PAGE_OF_HISTORIES, *bounds, aggregate_ids)
    return [Entry(*row) for row in rows]


class TreeNodes:
    """The hashes of an org's tree as it was at a size; read tile by tile, and kept until they are forgotten."""

    def __init__(self, reader: Reader, scope: Scope, size: int) -> None:
        self._reader = reader
        self._scope = scope
        self._tiles: dict[tuple[int, int], bytes] = {}
        self.size = size

    async def load(self, nodes: Iterable[Node]) -> None:
        """Read the tiles that these are in. Raises ArchiveAlteredError when the tree does not have them."""
        wanted = {_tile_of(height, index) for height, index in nodes} - self._tiles.keys()
        if not wanted:
            return
        full, low, high = [], [], []
        for level, tile in sorted(wanted):
            end = self.size >> TILE_HEIGHT * level
            if (tile + 1) * TILE_LEAVES <= end:
                full.append((level, tile))
            elif level:
                high.append((level, tile, end))
            else:
                low.append((tile, end))
        columns = [list(column) for rows, width in ((full, 2), (low, 2), (high, 3)) for column in _turned(rows, width)]
        for level, tile, hashes in await self._reader.rows(self._scope, TILES, self._scope.org_id, *columns):
            self._tiles[level, tile] = hashes
        for level, tile in wanted:
            count = min(TILE_LEAVES, (self.size >> TILE_HEIGHT * level) - tile * TILE_LEAVES)
            if len(self._tiles.get((level, tile)) or b"") != count * HASH_BYTES:
                raise ArchiveAlteredError(
                    f"The tree of the org lacks hashes: those of level {level} from {tile * TILE_LEAVES} on."
                )

    def node(self, height: int, index: int) -> bytes:
        """The root of a perfect subtree; of one that was loaded."""
        level, tile = _tile_of(height, index)
        width = 1 << height % TILE_HEIGHT
        at = index * width - tile * TILE_LEAVES
        hashes = self._tiles[level, tile][at * HASH_BYTES : (at + width) * HASH_BYTES]
        return merkle.tree_hash(merkle.split(hashes))

    async def proofs(self, proofs: Sequence[Sequence[merkle.Range]]) -> list[list[bytes]]:
        """The roots of subtrees of the tree, for several proofs at once."""
        await self.load(node for ranges in proofs for one in ranges for node in merkle.nodes_of(*one))
        return [merkle.proof(ranges, self.node) for ranges in proofs]

    async def tiles(self, tiles: Sequence[int]) -> list[tuple[bytes, list[bytes]]]:
        """Of some tiles of leaves: their hashes, and the proof that leads from their root to that of the tree."""
        await self.load((0, tile * TILE_LEAVES) for tile in tiles)
        count = -(-self.size // TILE_LEAVES)
        paths = [
            [(a * TILE_LEAVES, min(b * TILE_LEAVES, self.size)) for a, b in merkle.inclusion_ranges(tile, count)]
            for tile in tiles
        ]
        found = await self.proofs(paths)
        return [(self._tiles[0, tile], path) for tile, path in zip(tiles, found, strict=True)]

    def forget_leaves(self) -> None:
        """Let go of the lowest tiles, which are the many."""
        self._tiles = {key: hashes for key, hashes in self._tiles.items() if key[0]}


def _tile_of(height: int, index: int) -> tuple[int, int]:
    level, above = divmod(height, TILE_HEIGHT)
    return level, (index << above) // TILE_LEAVES


def _turned(rows: Sequence[tuple[int, ...]], width: int) -> list[list[int]]:
    return [[row[column] for row in rows] for column in range(width)]
