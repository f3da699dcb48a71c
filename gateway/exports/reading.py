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


def no_rows(payloads: Payloads) -> Table:
    """A batch of nothing: what a step rejects that rejects no row."""
    return Table(payloads, Owner("", ""), {}, 0, None, None)


async def page(payloads: Payloads, reference: Reference, start: int, limit: int) -> tuple[int, list[Any]]:
    """How many rows there are, and those from `start`, at most `limit`. Raises as `open_table` does."""
    refuse_file(reference)
    text = await payloads.text(reference)
    if reference.format == "json":
        records = decode_batch(text)[0]
        return len(records), records[start : start + limit]
    manifest = Manifest.decode(text)
    found: list[Any] = []
    before, store = 0, BatchStore(payloads.blobs)
    for number, chunk in enumerate(manifest.chunks):
        first, last = max(start - before, 0), min(start + limit - before, chunk.rows)
        if first < last:
            one = Manifest(manifest.names, (chunk,))
            async for columns, _ in store.chunks(reference.owner, one):
                found += await asyncio.to_thread(_rows, columns, first, last - first)
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
        rows = await asyncio.to_thread(_matching, columns, filters)
        for row in rows:
            if first + row >= start:
                if len(found) == limit:
                    return found, first + row
                found += _rows(columns, row, 1)
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


def _rows(columns: dict[str, Column], first: int, rows: int) -> list[dict[str, Any]]:
    return records_of({name: column.slice(first, rows) for name, column in columns.items()}, rows)


def refuse_file(reference: Reference) -> None:
    """Raises StateConflictError for what is no batch of rows."""
    if reference.format == "file":
        raise StateConflictError(
            "The input of the step read_file is the file that was uploaded; its records are the step's output.",
            code="input_is_file",
        )
