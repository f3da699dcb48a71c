"""The rows behind a reference, whatever form they are kept in: a page of them, or all of them chunk by chunk."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from events.batch import BatchStore, Manifest
from events.columns import Column, Kind, columns_of, records_of
from events.errors import StateConflictError
from events.keys import Owner
from events.payload import decode_batch
from gateway.exports.writers import common_kind
from gateway.payloads import Payloads, Reference

PAGE_BYTES = 4 * 1024 * 1024
"""Of a page of rows, about: it is held in memory, and made JSON of in one go, while all other calls wait."""
CELL_BYTES = 8

Chunk = tuple[dict[str, Column], pa.Array]
"""A column for each field, and the row ids."""


@dataclass(frozen=True, slots=True)
class Table:
    """A batch that can be read: its fields with their kinds, how many rows it has, and where they are."""

    payloads: Payloads
    owner: Owner
    kinds: dict[str, Kind]
    rows: int
    manifest: Manifest | None
    held: Chunk | None

    async def chunks(self) -> AsyncIterator[Chunk]:
        """All rows in order, one chunk at a time. Raises UnavailableError."""
        if self.held is not None:
            yield self.held
        if self.manifest is not None:
            async for chunk in BatchStore(self.payloads.blobs).chunks(self.owner, self.manifest):
                yield chunk


async def open_table(payloads: Payloads, reference: Reference) -> Table:
    """The batch that a reference names. Raises UnavailableError, StateConflictError for an uploaded file."""
    refuse_file(reference)
    text = await payloads.text(reference)
    if reference.format == "json":
        records, ids = decode_batch(text)
        columns = await asyncio.to_thread(columns_of, records)
        held = columns, pa.array(np.arange(len(records)) if ids is None else ids, pa.int64())
        kinds = {name: column.kind for name, column in columns.items()}
        return Table(payloads, reference.owner, kinds, len(records), None, held)
    manifest = Manifest.decode(text)
    found: dict[str, set[Kind]] = {name: set() for name in manifest.names}
    for chunk in manifest.chunks:
        for name, ref in zip(manifest.names, chunk.columns, strict=True):
            if ref is not None:
                found[name].add(ref.kind)
    kinds = {name: common_kind(of_name) for name, of_name in found.items()}
    return Table(payloads, reference.owner, kinds, manifest.rows, manifest, None)


def no_rejects(payloads: Payloads) -> Table:
    """What a step rejects that rejects no row: a file of it has the fields that any other has."""
    kinds: dict[str, Kind] = {"row": "integer", "field": "string", "code": "string", "value": "string"}
    return Table(payloads, Owner("", ""), kinds, 0, None, None)


async def page(payloads: Payloads, reference: Reference, start: int, limit: int) -> tuple[int, list[Any]]:
    """How many rows there are, and those from `start`, at most `limit`, and fewer when they are large: the first that
    brings the page to PAGE_BYTES is its last. Raises as `open_table` does.
    """
    refuse_file(reference)
    text = await payloads.text(reference)
    if reference.format == "json":
        records = decode_batch(text)[0]
        return len(records), records[start : start + limit]
    manifest = Manifest.decode(text)
    found: list[Any] = []
    before, left_bytes, store = 0, PAGE_BYTES, BatchStore(payloads.blobs)
    for number, chunk in enumerate(manifest.chunks):
        first, last = max(start - before, 0), min(start + limit - before, chunk.rows)
        if first < last:
            one = Manifest(manifest.names, (chunk,))
            async for columns, _ in store.chunks(reference.owner, one):
                some, size_bytes = await asyncio.to_thread(_rows_within, columns, first, last - first, left_bytes)
                found += some
                left_bytes -= size_bytes
                if left_bytes <= 0:
                    return manifest.rows, found
        before += manifest.chunks[number].rows
        if before >= start + limit:
            break
    return manifest.rows, found


async def picked(
    payloads: Payloads, reference: Reference, filters: dict[str, str], start: int, limit: int
) -> tuple[list[Any], int | None]:
    """The first `limit` rows from row `start` on that have these texts in these fields, and the row to go on from.

    Holds one chunk at a time. Raises as `open_table` does.
    """
    table = await open_table(payloads, reference)
    found: list[Any] = []
    first = 0
    async for columns, ids in table.chunks():
        rows = [row for row in await asyncio.to_thread(_matching, columns, filters) if first + row >= start]
        wanted = rows[: limit - len(found)]
        found += await asyncio.to_thread(_taken, columns, wanted)
        if len(wanted) < len(rows):
            return found, first + rows[len(wanted)]
        first += len(ids)
    return found, None


def _matching(columns: dict[str, Column], filters: dict[str, str]) -> list[int]:
    """The rows that have all of these texts."""
    mask: Any = None
    for name, value in filters.items():
        column = columns.get(name)
        if column is None or column.kind != "string":
            return []
        equal = pc.equal(column.array, value)
        mask = equal if mask is None else pc.and_(mask, equal)
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False)).tolist()


async def first_rows(payloads: Payloads, reference: Reference, limit: int) -> tuple[list[dict[str, Any]], list[int]]:
    """The first rows, at most `limit`, and their ids. Raises as `open_table` does."""
    table = await open_table(payloads, reference)
    records: list[dict[str, Any]] = []
    ids: list[int] = []
    async for columns, row_ids in table.chunks():
        wanted = min(limit - len(records), len(row_ids))
        records += await asyncio.to_thread(_rows, columns, 0, wanted)
        ids += row_ids.slice(0, wanted).to_pylist()
        if len(records) >= limit:
            break
    return records, ids


def _rows_within(columns: dict[str, Column], first: int, rows: int, max_bytes: int) -> tuple[list[dict[str, Any]], int]:
    """The rows up to the one that reaches `max_bytes`, and about how many bytes they are."""
    sizes = np.full(rows, CELL_BYTES * (len(columns) + 1))
    for column in columns.values():
        array = column.slice(first, rows).array
        if pa.types.is_string(array.type):
            sizes += pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
    total = np.cumsum(sizes)
    taken = min(int(np.searchsorted(total, max_bytes)) + 1, rows)
    return _rows(columns, first, taken), int(total[taken - 1])


def _taken(columns: dict[str, Column], rows: list[int]) -> list[dict[str, Any]]:
    wanted = pa.array(rows, pa.int64())
    return records_of({name: column.take(wanted) for name, column in columns.items()}, len(rows))


def _rows(columns: dict[str, Column], first: int, rows: int) -> list[dict[str, Any]]:
    return records_of({name: column.slice(first, rows) for name, column in columns.items()}, rows)


def refuse_file(reference: Reference) -> None:
    """Raises StateConflictError for what is no batch of rows."""
    if reference.format == "file":
        raise StateConflictError(
            "The input of the step read_file is the file that was uploaded; its records are the step's output.",
            code="input_is_file",
        )
