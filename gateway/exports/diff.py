"""What differs between the outputs of two runs, row by row and field by field.

Rows are the same when they have the same id: the one that their record got when it was handed in. One field at a time
is compared, and one that both runs kept as it was is not even read.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from events.batch import BatchStore, ColumnRef, Manifest
from events.columns import ABSENT, Column, absent_column, columns_of
from events.errors import StateConflictError
from events.payload import decode_batch
from gateway.exports.reading import refuse_file
from gateway.exports.writers import as_kind, common_kind
from gateway.payloads import Payloads, Reference

ROWS_MAX = 5_000_000
"""Of each run: their ids and one field are held at a time."""

Change = Literal["added", "removed", "changed"]
CHANGES: tuple[Change, ...] = ("added", "changed", "removed")
Rows = npt.NDArray[np.int64]


class Side(NamedTuple):
    """The output of one run: a batch, or records that are at hand already."""

    manifest: Manifest | None
    held: dict[str, Column]
    ids: Rows

    @property
    def names(self) -> tuple[str, ...]:
        """Its fields."""
        return tuple(self.held) if self.manifest is None else self.manifest.names

    def refs(self, name: str) -> list[ColumnRef | None] | None:
        """Where a field's columns are, chunk by chunk; None for records at hand."""
        if self.manifest is None:
            return None
        at = self.manifest.names.index(name) if name in self.manifest.names else None
        return [None if at is None else chunk.columns[at] for chunk in self.manifest.chunks]


@dataclass(frozen=True, slots=True)
class Difference:
    """How many rows are of which change, how many changed in which field, and a page of them in the order of ids."""

    counts: dict[Change, int]
    changed_by_field: dict[str, int]
    items: list[dict[str, Any]]
    more: bool


async def compare(payloads: Payloads, before: Reference, after: Reference, start: int, limit: int) -> Difference:
    """The difference; of its rows those from `start`, at most `limit`. Raises UnavailableError, StateConflictError."""
    old, new = await _side(payloads, before), await _side(payloads, after)
    common, old_rows, new_rows = await asyncio.to_thread(
        np.intersect1d, old.ids, new.ids, assume_unique=True, return_indices=True
    )
    names = tuple(dict.fromkeys((*old.names, *new.names)))
    aligned = len(old.ids) == len(new.ids) and bool((old.ids == new.ids).all())
    differs: dict[str, npt.NDArray[np.bool_]] = {}
    for name in names:
        if aligned and old.refs(name) is not None and old.refs(name) == new.refs(name):
            continue
        was, now = await _column(payloads, old, name, before), await _column(payloads, new, name, after)
        unequal = await asyncio.to_thread(_unequal, was, now, old_rows, new_rows)
        if unequal.any():
            differs[name] = unequal
    counts, wanted = await asyncio.to_thread(_in_order, old.ids, new.ids, common, differs, slice(start, start + limit))
    items = await _items(payloads, wanted, (old, before), (new, after), names, common, differs)
    by_field = {name: int(mask.sum()) for name, mask in differs.items()}
    return Difference(counts, by_field, items, start + limit < sum(counts.values()))


async def _side(payloads: Payloads, reference: Reference) -> Side:
    refuse_file(reference)
    text = await payloads.text(reference)
    if reference.format == "json":
        records, ids = decode_batch(text)
        side = Side(None, columns_of(records), np.array(range(len(records)) if ids is None else ids, np.int64))
    else:
        manifest = Manifest.decode(text)
        if manifest.rows > ROWS_MAX:
            raise StateConflictError(f"Runs of more than {ROWS_MAX} rows cannot be compared.", code="too_many_rows")
        store = BatchStore(payloads.blobs)
        chunks = [ids.to_numpy() async for _, ids in store.chunks(reference.owner, manifest, ())]
        side = Side(manifest, {}, np.concatenate(chunks) if chunks else np.zeros(0, np.int64))
    if len(await asyncio.to_thread(np.unique, side.ids)) < len(side.ids):
        raise StateConflictError(
            "A run made several rows of one record; they cannot be told apart.", code="rows_differ"
        )
    return side


async def _column(payloads: Payloads, side: Side, name: str, reference: Reference) -> list[Column]:
    """A field, as the columns of its chunks."""
    if side.manifest is None:
        return [side.held.get(name) or absent_column(len(side.ids))]
    if name not in side.manifest.names:
        return [absent_column(len(side.ids))]
    store = BatchStore(payloads.blobs)
    return [columns[name] async for columns, _ in store.chunks(reference.owner, side.manifest, (name,))]


def _unequal(old: list[Column], new: list[Column], old_rows: Rows, new_rows: Rows) -> npt.NDArray[np.bool_]:
    """For each pair of rows, whether the field differs."""
    if not len(old_rows):
        return np.zeros(0, bool)
    kinds = {column.kind for column in (*old, *new) if column.array.null_count < len(column)}
    sparse = any(column.sparse != old[0].sparse for column in (*old, *new))
    kind = "json" if sparse else common_kind(kinds)
    sides = []
    for columns, rows in ((old, old_rows), (new, new_rows)):
        whole = pa.chunked_array([as_kind(column, kind) for column in columns])
        sides.append(whole.take(pa.array(rows)))
    both_null = pc.and_(sides[0].is_null(), sides[1].is_null())
    same = pc.if_else(both_null, True, pc.fill_null(pc.equal(*sides), False))
    unequal: npt.NDArray[np.bool_] = np.logical_not(same.to_numpy())
    return unequal


def _in_order(
    old: Rows, new: Rows, common: Rows, differs: dict[str, npt.NDArray[np.bool_]], page: slice
) -> tuple[dict[Change, int], list[tuple[int, Change]]]:
    """How many rows are of which change, and a page of all of them in the order of ids.

    Python objects are made of the page alone: runs may differ in every row.
    """
    changed = np.logical_or.reduce(list(differs.values())) if differs else np.zeros(len(common), bool)
    found = {
        "added": np.setdiff1d(new, common, assume_unique=True),
        "changed": common[changed],
        "removed": np.setdiff1d(old, common, assume_unique=True),
    }
    ids = np.concatenate([found[change] for change in CHANGES])
    kinds = np.repeat(np.arange(len(CHANGES), dtype=np.int8), [len(found[change]) for change in CHANGES])
    order = np.argsort(ids, kind="stable")[page]  # no id is in two of them
    rows = zip(ids[order].tolist(), kinds[order].tolist(), strict=True)
    return {change: len(found[change]) for change in CHANGES}, [(row, CHANGES[kind]) for row, kind in rows]


async def _items(
    payloads: Payloads,
    wanted: list[tuple[int, Change]],
    old: tuple[Side, Reference],
    new: tuple[Side, Reference],
    names: tuple[str, ...],
    common: Rows,
    differs: dict[str, npt.NDArray[np.bool_]],
) -> list[dict[str, Any]]:
    """The rows of a page with their values: of a changed row the fields that changed, of another all it has."""
    items: list[dict[str, Any]] = [{"row_id": row, "change": change, "fields": {}} for row, change in wanted]
    if not items:
        return items
    for name in names:
        if name not in differs and all(change == "changed" for _, change in wanted):
            continue
        values = [await _values(payloads, side, name, reference, wanted) for side, reference in (old, new)]
        for item, was, now in zip(items, *values, strict=True):
            at = np.searchsorted(common, item["row_id"])
            if item["change"] == "changed" and not (name in differs and differs[name][at]):
                continue
            sides = {"before": was, "after": now}
            present = {side: value for side, value in sides.items() if value is not ABSENT}
            if present:
                item["fields"][name] = present
    return items


async def _values(
    payloads: Payloads, side: Side, name: str, reference: Reference, wanted: list[tuple[int, Change]]
) -> list[Any]:
    """A field's values in some rows, ABSENT where there is no such row or field."""
    rows = np.array([row for row, _ in wanted], np.int64)
    places = np.flatnonzero(np.isin(side.ids, rows))
    positions = dict(zip(side.ids[places].tolist(), places.tolist(), strict=True))
    columns = await _column(payloads, side, name, reference)
    found: dict[int, Any] = {}
    before = 0
    for column in columns:
        for row, at in positions.items():
            if before <= at < before + len(column):
                found[row] = column.slice(at - before, 1).fields()[0]
        before += len(column)
    return [found.get(row, ABSENT) for row, _ in wanted]
