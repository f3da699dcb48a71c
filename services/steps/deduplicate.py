"""deduplicate: one row for each group of rows that agree on a key."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ConfigDict, Field

from services.steps._keys import row_keys
from services.steps._rowwise import require_fields
from services.steps._values import fullness, is_blank, json_text, ranks
from services.steps.base import Context, Example, Exchange, Result, Step, StepConfig
from services.steps.frame import Frame, mapped

SHARES = 16
"""Parts that the keys are sorted in, one after the other."""


class KeepOrder(StepConfig):
    """What comes first within a group of rows that are the same."""

    field: str
    """The field to order by: numbers by value, before texts by code point (ISO dates are in the order of time). Rows
    that have no value there come last, whichever the direction."""

    descending: bool = False
    """The largest value first."""


class DeduplicateConfig(StepConfig):
    """When two rows are the same, and which of them stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"keys": [["email"], ["name", "phone"]], "keep": "most_complete", "count_field": "copies"},
                {"keys": [["email"]], "order_by": {"field": "updated_at", "descending": True}},
            ],
        }
    )

    keys: list[Annotated[list[str], Field(min_length=1, max_length=16)]] = Field(min_length=1, max_length=16)
    """Key sets. Two rows are the same when all the fields of any one set are equal and not blank; being the same
    carries over: if A is B and B is C, then A is C. Text is compared as it stands, so normalise it first."""

    keep: Literal["first", "last", "most_complete"] = "first"
    """Which row of a group stays: the first, the last, or the one with the most fields that are not blank (among
    equals, the first)."""

    order_by: KeepOrder | None = None
    """What first and last mean: the order of a field's values, and of row numbers among equals; for `most_complete`, of
    rows that are equally full. A row without a value is kept only when no row of its group has one. Null is the
    order of the batch."""

    count_field: str | None = None
    """A field to write the number of rows of the group into, 1 for a row that has no copy; null writes none. A field
    of that name is replaced."""


def _extracts(config: DeduplicateConfig) -> list[str] | None:
    """The fields of the keys and of the order; all, where the fullest row stays."""
    if config.keep == "most_complete":
        return None
    ordered = () if config.order_by is None else (config.order_by.field,)
    return list(dict.fromkeys([*(name for names in config.keys for name in names), *ordered]))


def _extract(frame: Frame, config: DeduplicateConfig, _: Context) -> pa.Table:
    """A key of 128 bits for each key set, null where a field is blank; and what the keep rule wants to know."""
    ordered = () if config.order_by is None else (config.order_by.field,)
    require_fields(frame, (*(name for names in config.keys for name in names), *ordered))
    columns = {str(number): row_keys(frame, names) for number, names in enumerate(config.keys)}
    if config.keep == "most_complete":
        columns["filled"] = pa.array(fullness(frame))
    if config.order_by is not None:
        columns["row"] = pa.array(frame.row_ids(), pa.int64())
        coded = mapped(frame.coded(config.order_by.field), lambda value: None if is_blank(value) else json_text(value))
        columns["order"] = pa.array(coded.values, pa.string()).take(pa.array(coded.codes, pa.int64()))
    return pa.table(columns)


def _combine(
    parts: Sequence[pa.Table], config: DeduplicateConfig, _: Context
) -> tuple[list[pa.Table], Mapping[str, Any]]:
    """For each chunk's rows: whether it stays, and how many rows its group has."""
    whole = pa.concat_tables(parts)
    roots = _roots(whole, len(config.keys))
    sizes = np.bincount(roots, minlength=len(roots))
    stays = np.zeros(len(roots), bool)
    stays[_kept(roots, _preferences(whole, config))] = True
    verdict = pa.table({"stays": stays, "copies": sizes[roots]})
    starts = np.cumsum([0, *(len(part) for part in parts)])
    chunks = [verdict.slice(start, len(part)) for start, part in zip(starts[:-1].tolist(), parts, strict=True)]
    return chunks, {"groups": int(stays.sum()), "removed": int(len(roots) - stays.sum())}


def _apply(frame: Frame, verdict: pa.Table, config: DeduplicateConfig, _: Context) -> Result:
    rows = np.flatnonzero(verdict["stays"].to_numpy())
    kept = frame.take(rows.tolist())
    if config.count_field is not None:
        kept = kept.replace({config.count_field: verdict["copies"].to_numpy()[rows].tolist()})
    return Result(kept)


deduplicate = Step(
    "deduplicate",
    version="2",
    summary="Keep one row of each group of rows that agree on a key.",
    config_model=DeduplicateConfig,
    body=Exchange(_extract, _combine, _apply, extracts=_extracts),
    holds="16 bytes a row and key set, and 4 for most_complete; the values of order_by.",
    examples=[
        Example(
            "The fullest row of those with the same address, or name and phone",
            {"keys": [["email"], ["name", "phone"]], "keep": "most_complete", "count_field": "copies"},
            [
                {"name": "Ann Lee", "email": "ann@acme.com", "phone": None},
                {"name": "Ann Lee", "email": "ann@acme.com", "phone": "+14155550100"},
                {"name": "Ann Lee", "email": None, "phone": "+14155550100"},
                {"name": "Bo Ek", "email": "", "phone": None},
                {"name": "Bo Ek", "email": "", "phone": None},
            ],
            [
                {"name": "Ann Lee", "email": "ann@acme.com", "phone": "+14155550100", "copies": 3},
                {"name": "Bo Ek", "email": "", "phone": None, "copies": 1},
                {"name": "Bo Ek", "email": "", "phone": None, "copies": 1},
            ],
        )
    ],
)
"""Keep one row a group, in input order. Removed rows are not rejects.

Null, the empty text and text of whitespace only are blank: they never make two rows the same. Numbers compare by
value (1 is 1.0, but not true), lists and objects by their JSON text with sorted names. Keys are compared by 128 bits of
BLAKE2b (RFC 7693). Raises StepError `unknown_field`, and `unusable_key` when a key's value nests too deeply to compare.
"""


def _roots(keys: pa.Table, sets: int) -> npt.NDArray[np.int64]:
    """For each row the first row of its group: rows that share a key are of one group."""
    roots = np.arange(len(keys))
    for number in range(sets):
        for pairs in _equal_pairs(keys[str(number)]):
            _unite(roots, pairs)
    return roots


def _unite(roots: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64]) -> None:
    """Make one group of the groups of each pair. Each row points at its group's first row, before and after."""
    while True:
        ends = roots[pairs]
        apart = ends[:, 0] != ends[:, 1]
        if not apart.any():
            return
        pairs, ends = pairs[apart], ends[apart]
        np.minimum.at(roots, ends.max(axis=1), ends.min(axis=1))  # a group's first row now points at an earlier one
        while not np.array_equal(further := roots[roots], roots):
            roots[:] = further


def _equal_pairs(column: pa.ChunkedArray) -> Iterator[npt.NDArray[np.int64]]:
    """Pairs of rows that have the same key, a line each, enough of them to connect all that have.

    The keys are taken by their first bits, some at a time, so that what sorting needs is small beside the keys.
    """
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    for share in range(SHARES):
        rows, halves = [np.empty(0, np.int64)], [np.empty((0, 2), np.uint64)]
        for start, chunk in zip(starts[:-1].tolist(), column.chunks, strict=True):
            found = np.frombuffer(chunk.buffers()[1] or b"", np.uint64)[2 * chunk.offset :][: 2 * len(chunk)]
            pieces = found.reshape(-1, 2)
            wanted = chunk.is_valid().to_numpy(zero_copy_only=False) & (pieces[:, 0] % SHARES == share)
            rows.append(np.flatnonzero(wanted) + start)
            halves.append(pieces[wanted])
        yield _adjacent(np.concatenate(rows), np.concatenate(halves))


def _adjacent(rows: npt.NDArray[np.int64], halves: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Rows next to each other in the order of their keys, where these are equal."""
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    return np.column_stack([rows[order[same]], rows[order[same + 1]]])


def _kept(roots: npt.NDArray[np.int64], preferences: Sequence[npt.NDArray[Any]] | None) -> npt.NDArray[np.int64]:
    """The row of each group that stays: the first by these sort keys, of which the last counts most; or in order."""
    if preferences is None:
        return np.flatnonzero(roots == np.arange(len(roots)))
    order = np.lexsort((*preferences, roots))
    first = np.ones(len(order), bool)
    first[1:] = roots[order][1:] != roots[order][:-1]
    return order[first]


def _preferences(whole: pa.Table, config: DeduplicateConfig) -> tuple[npt.NDArray[Any], ...] | None:
    """Sort keys by which the row that stays comes first, the least important one first; the last resort is the row.

    None where the rows' own order decides.
    """
    if config.keep == "first" and config.order_by is None:
        return None
    sign = -1 if config.keep == "last" else 1
    filled = (-whole["filled"].to_numpy(),) if config.keep == "most_complete" else ()
    if config.order_by is None:
        return (sign * np.arange(len(whole)), *filled)
    places = _places(whole["order"])
    direction = -sign if config.order_by.descending else sign
    return (sign * whole["row"].to_numpy(), direction * places, places < 0, *filled)


def _places(texts: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Each row's place in the order of all values, from 0; -1 where there is none."""
    encoded = texts.combine_chunks().dictionary_encode(null_encoding="encode")
    values = [None if text is None else json.loads(text) for text in encoded.dictionary.to_pylist()]
    return ranks(values)[np.asarray(encoded.indices.to_numpy(), np.int64)]
