"""An org's history as a file that can be verified offline (docs/audit-format.md); written while it goes out."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from events.audit import export, merkle
from events.audit.merkle import TILE_HEIGHT
from events.errors import PoisonedMessageError
from events.keyring import Keyring
from events.keys import KeyMissingError
from events.logging import get_logger
from events.mapper import opening_of
from events.subjects import SEALED_PREFIX, Address
from projections.queries import audit
from projections.queries.audit import Entry, Tree, TreeNodes
from projections.queries.reader import Reader, Scope

GZIP_LEVEL = 4
_GZIP_WINDOW = 31

_logger = get_logger("audit")


@dataclass(frozen=True, slots=True)
class Part:
    """What is exported: the decisions after one position up to another, of some histories or of all.

    `indexes`: they are all leaves from the first up to the second; None when only some of them are. With a keyring the
    export says what is sealed in them, too.
    """

    selection: Mapping[str, Any]
    scope: Scope
    after: int
    until: int
    aggregate_ids: Sequence[str] | None
    indexes: tuple[int, int] | None
    keyring: Keyring | None = None


async def export_lines(
    reader: Reader,
    tree: Tree,
    part: Part,
    previous_sizes: Sequence[int],
    still_allowed: Callable[[], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    """The file's lines, some hundred at a time. A page of decisions is in memory, and the tiles that they are in.

    Raises ArchiveAlteredError when the tree lacks hashes.
    """
    assert tree.note is not None, "only a tree with a checkpoint is exported"
    scope = part.scope
    nodes = TreeNodes(reader, scope, tree.size)
    proofs = await nodes.proofs([merkle.consistency_ranges(size, tree.size) for size in previous_sizes])
    consistency = dict(zip(previous_sizes, proofs, strict=True))
    yield export.header_line(scope.org_id, part.selection, part.indexes, tree.note, consistency)
    tile, count = -1, 0
    async with aclosing(_pages(reader, part)) as pages:
        async for entries in pages:
            await still_allowed()
            wanted = sorted({e.leaf_index >> TILE_HEIGHT for e in entries if e.leaf_index is not None} - {tile})
            tiles = dict(zip(wanted, await nodes.tiles(wanted), strict=True))
            nodes.forget_leaves()
            if part.keyring is not None:
                await _look_up_keys(entries, part.keyring)
            text, tile = await asyncio.to_thread(_lines, entries, tiles, tile, part)
            count += len(entries)
            yield text
    yield export.end_line(count)


async def _pages(reader: Reader, part: Part) -> AsyncGenerator[list[Entry], None]:
    """The decisions, page by page; the next one is read while the present one is written."""

    def read(after: int) -> "asyncio.Task[list[Entry]]":
        return asyncio.create_task(audit.page(reader, part.scope, after, part.until, part.aggregate_ids))

    coming = read(part.after)
    try:
        while entries := await coming:
            coming = read(entries[-1].position)
            yield entries
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _look_up_keys(entries: Sequence[Entry], keyring: Keyring) -> None:
    """Have the keys of these at hand, if there are any."""
    for entry in entries:
        with suppress(KeyMissingError):  # `_opening` says so
            await keyring.load([(entry.subject, entry.body)])


def _lines(
    entries: Sequence[Entry], tiles: Mapping[int, tuple[bytes, list[bytes]]], tile: int, part: Part
) -> tuple[bytes, int]:
    """The lines of some decisions, each tile's before the first of its decisions; and the last tile."""
    lines = []
    for entry in entries:
        if entry.leaf_index is not None and entry.leaf_index >> TILE_HEIGHT != tile:
            tile = entry.leaf_index >> TILE_HEIGHT
            lines.append(export.tile_line(tile, *tiles[tile]))
        opening = None if part.keyring is None else _opening(entry, part.scope.org_id, part.keyring)
        lines.append(
            export.decision_line(
                entry.leaf_index, entry.position, entry.recorded_at, entry.subject, entry.body, opening
            )
        )
    return b"".join(lines), tile


def _opening(entry: Entry, org_id: str, keyring: Keyring) -> bytes | None:
    """What is sealed in a decision. None where nothing is, where it is erased, and where its row was altered or its key
    is lost: an export is what finds that, so it goes out as it is. The key of another org opens nothing.
    """
    if not entry.body.startswith(SEALED_PREFIX):
        return None
    try:
        if Address.parse(entry.subject).org_id != org_id:
            raise PoisonedMessageError(f"The decision at position {entry.position} is of another org.")
        return opening_of(entry.subject, entry.body, keyring)
    except (PoisonedMessageError, KeyMissingError) as error:
        _logger.warning("decision_not_opened", position=entry.position, error=str(error))
        return None


async def gzipped(lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same, compressed (RFC 1952); closes `lines`."""
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    async with aclosing(lines):
        async for part in lines:
            if packed := await asyncio.to_thread(compressor.compress, part):
                yield packed
    yield compressor.flush()
