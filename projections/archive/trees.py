"""The trees: follows the archive, adds each decision's leaf to its org's tree, and signs a checkpoint.

Leaves, tiles, checkpoints and the head are one transaction, under a lock on the head: whatever crashes, and however
many of these run, nothing is left out or added twice. What is followed is looked at on the way: a row that is missing,
does not continue the chain, or is another org's than its subject says, stops it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from events import metrics, subjects
from events.audit import merkle
from events.audit.checkpoint import AuditKey, Checkpoint
from events.audit.merkle import CompactRange
from events.errors import ArchiveAlteredError, ConfigurationError
from events.leaf import leaf_bytes, next_chain
from events.logging import get_logger
from projections.archive import tree_sql
from projections.database import Database
from projections.waiting import TROUBLE, pause

BATCH_MAX = 4000
BATCH_MAX_BYTES = 32 * 1024 * 1024
KEEP_EVERY = timedelta(minutes=1)
TREES_MAX = 50_000
"""Trees that are held in memory: some hundred bytes each."""
IDLE_S = 2.0
"""How often the archive is looked at while nothing tells of more: another archiver may have added it."""
UNSIGNED_MAX = 500

AFTER_TREES, BEFORE_COMMIT, AFTER_COMMIT = "after_trees", "before_commit", "after_commit"

_WRONG_SCHEMA = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError)

_logger = get_logger("trees")


@dataclass(slots=True)
class Tree:
    """One org's tree as far as it is; its leaves, and the tiles that they completed, of a transaction that goes on."""

    org_id: str
    range: CompactRange
    position: int = 0
    note: str | None = None
    kept_at: datetime | None = None

    @classmethod
    def of_row(cls, row: asyncpg.Record) -> "Tree":
        """A tree as it is stored."""
        tree = CompactRange(0, row["size"], merkle.split(row["peaks"]))
        return cls(row["org_id"], tree, row["position"], row["note"], row["kept_at"])


class TreeBuilder:
    """Builds the trees of all orgs from the archive. `wake` is called when there may be more of it.

    Without a key the trees grow, and there are no checkpoints. `told` is awaited after each commit with the position.
    `reached` is told of named points, so that a test can crash there.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        key: AuditKey | None,
        *,
        told: Callable[[int], Awaitable[None]] | None = None,
        reached: Callable[[str], None] = lambda _point: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        batch_max: int = BATCH_MAX,
        idle_s: float = IDLE_S,
    ) -> None:
        self._pool = pool
        self._key = key
        self._told = told
        self._reached = reached
        self._clock = clock
        self._batch_max = batch_max
        self._idle_s = idle_s
        self._woken = asyncio.Event()
        self._trees: dict[str, Tree] = {}
        self._position = -1

    def wake(self) -> None:
        """The archive has more, or may have."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Build until `stop` is set; trouble with Postgres is waited out.

        Raises ArchiveAlteredError, naming the position, when the archive is not what it was or does not hold together.
        """
        failures = 0
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._woken.clear()
                try:
                    added = await self.step()
                    failures = 0
                except _WRONG_SCHEMA as error:
                    raise ConfigurationError(f"The trees cannot be written: {error}. Run: dex migrate") from error
                except asyncpg.IntegrityConstraintViolationError as error:
                    raise ArchiveAlteredError(
                        f"The rows of the trees are not those that were added: {error}."
                    ) from error
                except TROUBLE as error:
                    await pause(stop, failures, error)
                    failures += 1
                    continue
                if not added:
                    await self._wait(stopping)
        finally:
            stopping.cancel()

    async def _wait(self, stopping: "asyncio.Task[bool]") -> None:
        woken = asyncio.create_task(self._woken.wait())
        await asyncio.wait({woken, stopping}, timeout=self._idle_s, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()

    async def step(self) -> int:
        """Add the next decisions of the archive, in one transaction; how many there were.

        Raises ArchiveAlteredError, and what asyncpg raises: then nothing was added.
        """
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                position, added = await self._add(connection)
                self._reached(BEFORE_COMMIT)
            self._reached(AFTER_COMMIT)
        except BaseException:
            self._trees.clear()  # what they were given is not stored
            self._position = -1
            raise
        self._position = position
        metrics.TREES_POSITION.set(position)
        if len(self._trees) > TREES_MAX:
            self._trees.clear()
        if added and self._told is not None:
            await self._told(position)
        return added

    async def _add(self, connection: Database) -> tuple[int, int]:
        """The head's new position, and how many decisions were added."""
        head = await connection.fetchrow(tree_sql.LOCK_HEAD)
        if head is None:
            raise ConfigurationError("The trees have no head. Run: dex migrate")
        position, chain = head["position"], head["chain"]
        if position != self._position:  # another one goes on with them, or we have just begun
            self._trees.clear()
            await self._check_head(connection, position, chain)
        rows = await connection.fetch(tree_sql.READ, position, self._batch_max, BATCH_MAX_BYTES)
        if not rows:
            await self._check_head(connection, position, chain)
            await self._sign_what_is_not(connection)
            return position, 0
        leaves, chain = checked(rows, position, chain)
        await self._load([org_id for org_id, _, _ in leaves if org_id], connection)
        await self._grow(connection, leaves)
        self._reached(AFTER_TREES)
        await connection.execute(tree_sql.MOVE_HEAD, rows[-1]["position"], chain)
        return rows[-1]["position"], len(rows)

    async def _check_head(self, connection: Database, position: int, chain: bytes) -> None:
        """Raises ArchiveAlteredError unless the archive has, where the trees end, what they were built from."""
        if not position:
            return
        found = await connection.fetchval(tree_sql.CHAIN_AT, position)
        if found != chain:
            what = "is missing" if found is None else "is another one, or one before it is"
            raise _altered(position, f"the decision at position {position}, up to which the orgs' trees go, {what}")

    async def _load(self, org_ids: Sequence[str], connection: Database) -> None:
        missing = list({org_id for org_id in org_ids if org_id not in self._trees})
        for row in await connection.fetch(tree_sql.TREES, missing) if missing else ():
            self._trees[row["org_id"]] = Tree.of_row(row)
        for org_id in missing:
            self._trees.setdefault(org_id, Tree(org_id, CompactRange()))

    async def _grow(self, connection: Database, leaves: Sequence[tuple[str | None, int, bytes]]) -> None:
        touched: dict[str, Tree] = {}
        rows: list[tuple[UUID, int, int, bytes]] = []
        tiles: dict[int, list[tuple[UUID, int, bytes]]] = {}
        ids: dict[str, UUID] = {}
        for org_id, position, leaf in leaves:
            if org_id is None:
                continue
            tree = touched[org_id] = self._trees[org_id]
            key = ids.get(org_id) or ids.setdefault(org_id, UUID(org_id))
            rows.append((key, tree.range.end, position, leaf))
            for level, root in enumerate(tree.range.append(leaf)):
                number = (tree.range.end >> merkle.TILE_HEIGHT * (level + 1)) - 1
                tiles.setdefault(level, []).append((key, number, root))
            tree.position = position
        if rows:
            await connection.execute(tree_sql.ADD_LEAVES, *_columns(rows))
        for level, full in sorted(tiles.items()):
            if level:
                await connection.execute(tree_sql.ADD_TILES_ABOVE, level, *_columns(full))
            else:
                await connection.execute(tree_sql.ADD_LEAF_TILES, *_columns(full))
        await self._store(connection, list(touched.values()))

    async def _sign_what_is_not(self, connection: Database) -> None:
        """Trees that grew while there was no key."""
        if self._key is not None:
            rows = await connection.fetch(tree_sql.UNSIGNED, UNSIGNED_MAX)
            await self._store(connection, [Tree.of_row(row) for row in rows])
            for row in rows:
                self._trees.pop(row["org_id"], None)

    async def _store(self, connection: Database, trees: Sequence[Tree]) -> None:
        """Sign checkpoints of the trees, and store both."""
        if not trees:
            return
        kept = []
        if self._key is None:
            for tree in trees:
                tree.note = None
        else:
            now, epoch = self._clock(), await connection.fetchval(tree_sql.EPOCH)
            for tree in trees:
                tree.note = self._key.sign(self._checkpoint(tree, self._key, now, epoch))
                if tree.kept_at is None or now - tree.kept_at >= KEEP_EVERY:
                    tree.kept_at = now
                    kept.append((UUID(tree.org_id), tree.range.end, tree.position, now, tree.note))
        rows = [
            (UUID(tree.org_id), tree.range.end, tree.position, b"".join(tree.range.hashes), tree.note, tree.kept_at)
            for tree in trees
        ]
        await connection.execute(tree_sql.PUT_TREES, *_columns(rows))
        if kept:
            await connection.execute(tree_sql.KEEP_CHECKPOINTS, *_columns(kept))

    @staticmethod
    def _checkpoint(tree: Tree, key: AuditKey, now: datetime, epoch: str) -> Checkpoint:
        return Checkpoint(key.origin(tree.org_id), tree.range.end, tree.range.root(), tree.position, epoch, now)


def checked(
    rows: Sequence[asyncpg.Record], position: int, chain: bytes
) -> tuple[list[tuple[str | None, int, bytes]], bytes]:
    """Of rows that follow on a position and its chain: (org or None, position, leaf hash) of each, and the last chain.

    Raises ArchiveAlteredError at the first row that does not follow.
    """
    leaves: list[tuple[str | None, int, bytes]] = []
    for row in rows:
        position += 1
        if row["position"] != position:
            raise _altered(position, f"position {position} is missing before {row['position']}")
        subject = row["subject"]
        leaf = leaf_bytes(position, subject, row["body"])
        chain = next_chain(chain, leaf)
        if chain != row["chain"]:
            raise _altered(position, f"the decision at position {position} is not the one that its chain was made of")
        org_id = org_of(subject)
        if org_id != row["org_id"]:
            raise _altered(position, f"position {position} is kept for the org {row['org_id']}, and is of {subject}")
        leaves.append((org_id, position, merkle.leaf_hash(leaf)))
    return leaves, chain


def org_of(subject: str) -> str | None:
    """The org whose tree a message belongs to; None for the platform's own, and for what is no decision's subject."""
    try:
        return str(UUID(subjects.Address.parse(subject).org_id))
    except ValueError:
        return None


def _altered(position: int, what: str) -> ArchiveAlteredError:
    return ArchiveAlteredError(
        f"The archive was altered: {what}. Nothing more is proved until it is as it was. Compare it with the log "
        "(dex log check), and find out who changed it.",
        position=position,
    )


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
