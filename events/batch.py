"""Batches too large for one JSON text: chunks of typed columns, each column a blob, held together by a manifest.

A payload whose format is `batch` is the JSON of a manifest. A step that changes one field stores the columns of that
field, and its manifest names the others again: what did not change is neither read nor written.

    {"v":1,"names":["email",…],"chunks":[{"rows":25000,"first":0,"columns":[["string",0,"<sha-256>",190312],…]},…]}

`columns` stand in the order of `names`, null for a field that no row of the chunk has; each is [kind, sparse, digest,
size in bytes] (`events.columns`). Row ids are `first`, `first` + 1, …, or the int64 column that `ids` names instead.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from events.blobs import BlobStore
from events.columns import TYPES, Column, Kind, absent_column, decode_column, encode_column
from events.keys import Owner
from events.payload import Payload, describe, digest_of

VERSION = 1
AT_ONCE = 8
"""Blobs of a chunk that are on their way at the same time."""


@dataclass(frozen=True, slots=True)
class ColumnRef:
    """Where a column of a chunk is, and what it is."""

    kind: Kind
    sparse: bool
    digest: str
    size_bytes: int

    def plain(self) -> list[Any]:
        """As JSON holds it."""
        return [self.kind, int(self.sparse), self.digest, self.size_bytes]

    @classmethod
    def of(cls, plain: Sequence[Any]) -> "ColumnRef":
        """The inverse of `plain`. Raises ValueError."""
        kind, sparse, digest, size_bytes = plain
        if kind not in TYPES or not isinstance(digest, str) or type(size_bytes) is not int:
            raise ValueError(f"not a column: {plain!r}")
        return cls(kind, bool(sparse), digest, size_bytes)


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """Some rows in a row: a column for each name of the manifest, and the ids."""

    rows: int
    columns: tuple[ColumnRef | None, ...]
    first_id: int = 0
    ids: ColumnRef | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        where = {"first": self.first_id} if self.ids is None else {"ids": self.ids.plain()}
        return {"rows": self.rows, **where, "columns": [column and column.plain() for column in self.columns]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "ChunkRef":
        """The inverse of `plain`. Raises ValueError, KeyError."""
        ids = ColumnRef.of(plain["ids"]) if "ids" in plain else None
        columns = tuple(None if column is None else ColumnRef.of(column) for column in plain["columns"])
        return cls(plain["rows"], columns, plain.get("first", 0), ids)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A batch: its fields in order, and its chunks in order."""

    names: tuple[str, ...]
    chunks: tuple[ChunkRef, ...]

    @property
    def rows(self) -> int:
        """Of all chunks."""
        return sum(chunk.rows for chunk in self.chunks)

    def encode(self) -> bytes:
        """Its JSON: the same bytes for the same batch."""
        return orjson.dumps({"v": VERSION, "names": self.names, "chunks": [chunk.plain() for chunk in self.chunks]})

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """The inverse of `encode`. Raises ValueError."""
        try:
            plain = orjson.loads(data)
            if plain["v"] != VERSION:
                raise ValueError(f"a manifest of version {plain['v']}; this program reads version {VERSION}")
            names = tuple(plain["names"])
            chunks = tuple(ChunkRef.of(chunk) for chunk in plain["chunks"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error
        if any(len(chunk.columns) != len(names) for chunk in chunks):
            raise ValueError("not a manifest: a chunk has more or fewer columns than there are names")
        return cls(names, chunks)


def merged(parts: Sequence[Manifest]) -> Manifest:
    """The chunks of all parts, in order, under the names of all of them, in the order of their first appearance."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    chunks: list[ChunkRef] = []
    for part in parts:
        if part.names == names:
            chunks += part.chunks
            continue
        for chunk in part.chunks:
            columns = dict(zip(part.names, chunk.columns, strict=True))
            chunks.append(replace(chunk, columns=tuple(columns.get(name) for name in names)))
    return Manifest(names, tuple(chunks))


@dataclass(frozen=True, slots=True)
class EncodedColumn:
    """A column in bytes."""

    kind: Kind
    sparse: bool
    data: bytes

    @classmethod
    def of(cls, column: Column) -> "EncodedColumn":
        """The column, encoded."""
        return cls(column.kind, column.sparse, encode_column(column))

    def decode(self) -> Column:
        """The column. Raises ValueError."""
        return decode_column(self.kind, self.sparse, self.data)


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """A chunk in bytes, or the part of it that somebody needs. `ids` is an integer column, None: `first_id` and on."""

    rows: int
    columns: dict[str, EncodedColumn] = field(default_factory=dict)
    first_id: int = 0
    ids: EncodedColumn | None = None

    def row_ids(self) -> pa.Array:
        """The ids, int64. Raises ValueError."""
        if self.ids is not None:
            return self.ids.decode().array
        return pa.array(np.arange(self.first_id, self.first_id + self.rows), pa.int64())


def encoded_ids(ids: pa.Array) -> tuple[int, EncodedColumn | None]:
    """`first_id` and `ids` of a chunk: row ids that follow each other need no column."""
    if not len(ids):
        return 0, None
    numbers = ids.to_numpy()
    if (np.diff(numbers) == 1).all():
        return int(numbers[0]), None
    return 0, EncodedColumn.of(Column("integer", ids))


class BatchStore:
    """Batches of a company in the blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def manifest(self, owner: Owner, payload: Payload) -> Manifest:
        """The manifest of a payload whose format is `batch`. Raises UnavailableError, ValueError."""
        return Manifest.decode(await self._blobs.load(owner, payload))

    async def keep(self, owner: Owner, manifest: Manifest) -> Payload:
        """Store a manifest whose columns are stored."""
        data = manifest.encode()
        payload = describe(data, manifest.rows).model_copy(update={"format": "batch"})
        if payload.inline is None:
            await self._blobs.put(owner, payload.digest, data)
        return payload

    async def load(
        self, owner: Owner, manifest: Manifest, number: int, names: Iterable[str] | None = None
    ) -> EncodedChunk:
        """A chunk's bytes, of these fields or of all; a field that no row of it has is left out."""
        chunk = manifest.chunks[number]
        wanted = None if names is None else set(names)
        refs = {
            name: ref
            for name, ref in zip(manifest.names, chunk.columns, strict=True)
            if ref is not None and (wanted is None or name in wanted)
        }
        columns = await asyncio.gather(*(self._get(owner, ref) for ref in refs.values()))
        ids = None if chunk.ids is None else await self._get(owner, chunk.ids)
        return EncodedChunk(chunk.rows, dict(zip(refs, columns, strict=True)), chunk.first_id, ids)

    async def store(self, owner: Owner, columns: Mapping[str, EncodedColumn]) -> dict[str, ColumnRef]:
        """Store columns; where they are."""
        refs = await asyncio.gather(*(self._put(owner, column) for column in columns.values()))
        return dict(zip(columns, refs, strict=True))

    async def store_ids(self, owner: Owner, ids: EncodedColumn | None) -> ColumnRef | None:
        """Store row ids that are a column."""
        return None if ids is None else await self._put(owner, ids)

    async def chunks(
        self, owner: Owner, manifest: Manifest, names: Sequence[str] | None = None, first: int = 0
    ) -> AsyncIterator[tuple[dict[str, Column], pa.Array]]:
        """Each chunk's columns, one for each name that is wanted, and row ids. Holds one chunk at a time."""
        wanted = manifest.names if names is None else names
        for number in range(first, len(manifest.chunks)):
            yield await asyncio.to_thread(decode_chunk, await self.load(owner, manifest, number, wanted), wanted)

    async def _get(self, owner: Owner, ref: ColumnRef) -> EncodedColumn:
        async with self._at_once:
            return EncodedColumn(ref.kind, ref.sparse, await self._blobs.get(owner, ref.digest, ref.size_bytes))

    async def _put(self, owner: Owner, column: EncodedColumn) -> ColumnRef:
        digest = digest_of(column.data)
        async with self._at_once:
            await self._blobs.put(owner, digest, column.data)
        return ColumnRef(column.kind, column.sparse, digest, len(column.data))


def decode_chunk(chunk: EncodedChunk, names: Sequence[str]) -> tuple[dict[str, Column], pa.Array]:
    """A column for each name, and the row ids. Raises ValueError."""
    columns = {
        name: chunk.columns[name].decode() if name in chunk.columns else absent_column(chunk.rows) for name in names
    }
    return columns, chunk.row_ids()
