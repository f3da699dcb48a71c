"""A batch as steps see it: rows with ids, and named fields; the same face for a few JSON records and for a chunk.

`RecordFrame` holds a small batch as a list of JSON objects; `ColumnFrame` holds a chunk of a large one as typed
columns, and leaves alone the columns that a step does not touch. A step is written once, against `Frame`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from events.columns import ABSENT, TYPES, Column, absent_column, column_of, columns_of, records_of

CHUNK_ROWS = 25_000
"""Rows in a chunk of a large batch, where a step makes chunks of its own."""

Record = dict[str, Any]
"""One row: a JSON object. Values are what `json` gives: str, int, float, bool, None, list, dict."""


class Coded(NamedTuple):
    """A field's values, each text once: row i has `values[codes[i]]`. Work on `values`; there are few of them."""

    values: list[Any]
    codes: Sequence[int] | npt.NDArray[np.integer[Any]]

    def code_list(self) -> list[int]:
        """The codes as Python's own numbers, which it walks faster."""
        return self.codes.tolist() if isinstance(self.codes, np.ndarray) else list(self.codes)


class Frame(ABC):
    """Rows in order, each with its id: the number that its record got when it was handed in, from 0.

    Frames are immutable; each method gives a new one.
    """

    names: tuple[str, ...]
    """The fields, in the order of their first appearance in the batch."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def row_ids(self) -> list[int]:
        """Each row's id."""

    @abstractmethod
    def values(self, name: str) -> list[Any]:
        """A field's values, None where a row has no such field. A name that there is not gives None throughout."""

    @abstractmethod
    def fields(self, name: str) -> list[Any]:
        """A field's values, ABSENT where a row has no such field."""

    @abstractmethod
    def coded(self, name: str) -> Coded:
        """A field's values, each distinct text once."""

    @abstractmethod
    def replace(self, columns: Mapping[str, Sequence[Any] | Coded]) -> "Frame":
        """With these values (ABSENT: no such field) in place of the fields' own; new fields come last."""

    @abstractmethod
    def select(self, sources: Mapping[str, str], filled: Collection[str] = ()) -> "Frame":
        """Just these fields, in this order: new name → name. One that a row lacks is null if `filled` has its new name,
        and lacking afterwards too if not."""

    @abstractmethod
    def take(self, rows: Sequence[int]) -> "Frame":
        """The rows at these indices, in this order, with their ids."""

    @abstractmethod
    def records(self) -> list[Record]:
        """The rows as JSON objects."""

    @abstractmethod
    def of(self, records: Sequence[Record], ids: Sequence[int]) -> "Frame":
        """A frame of the same sort with these records. Raises TypeError, UnicodeEncodeError for what JSON has not."""


class RecordFrame(Frame):
    """A small batch, as it came in JSON."""

    def __init__(self, records: Sequence[Record], ids: Sequence[int] | None = None) -> None:
        self._records = records
        self._ids = ids if ids is not None else range(len(records))
        self._names: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The fields, in the order of their first appearance."""
        if self._names is None:
            self._names = tuple(dict.fromkeys(name for record in self._records for name in record))
        return self._names

    def __len__(self) -> int:
        return len(self._records)

    def row_ids(self) -> list[int]:
        """Each row's id."""
        return list(self._ids)

    def values(self, name: str) -> list[Any]:
        """A field's values."""
        return [record.get(name) for record in self._records]

    def fields(self, name: str) -> list[Any]:
        """A field's values, ABSENT where a row has no such field."""
        return [record.get(name, ABSENT) for record in self._records]

    def coded(self, name: str) -> Coded:
        """A field's values; texts are shared, other values stand for themselves."""
        values: list[Any] = []
        codes: list[int] = []
        known: dict[Hashable, int] = {}
        for value in self.values(name):
            code = known.get(value) if isinstance(value, str) else None
            if code is None:
                code = len(values)
                values.append(value)
                if isinstance(value, str):
                    known[value] = code
            codes.append(code)
        return Coded(values, codes)

    def replace(self, columns: Mapping[str, Sequence[Any] | Coded]) -> "RecordFrame":
        """With these values in place of the fields' own."""
        changed = [dict(record) for record in self._records]
        for name, column in columns.items():
            cells = [column.values[code] for code in column.codes] if isinstance(column, Coded) else column
            for record, value in zip(changed, cells, strict=True):
                if value is not ABSENT:
                    record[name] = value
                else:
                    record.pop(name, None)
        return RecordFrame(changed, self._ids)

    def select(self, sources: Mapping[str, str], filled: Collection[str] = ()) -> "RecordFrame":
        """Just these fields."""
        picks = [(new, old, new in filled) for new, old in sources.items()]
        selected = [
            {new: record.get(old) for new, old, fill in picks if fill or old in record} for record in self._records
        ]
        return RecordFrame(selected, self._ids)

    def take(self, rows: Sequence[int]) -> "RecordFrame":
        """The rows at these indices."""
        return RecordFrame([self._records[row] for row in rows], [self._ids[row] for row in rows])

    def records(self) -> list[Record]:
        """The rows as JSON objects; the frame's own, not to be changed."""
        return list(self._records)

    def of(self, records: Sequence[Record], ids: Sequence[int]) -> "RecordFrame":
        """A frame with these records."""
        return RecordFrame(records, ids)


class ColumnFrame(Frame):
    """A chunk of a large batch."""

    def __init__(self, columns: Mapping[str, Column], ids: pa.Array) -> None:
        self.columns = dict(columns)
        self.ids = ids
        self.names = tuple(self.columns)

    @classmethod
    def of_records(cls, records: Sequence[Record], ids: Sequence[int] | None = None) -> "ColumnFrame":
        """The chunk that holds these records."""
        columns = columns_of(records)
        return cls(columns, pa.array(ids if ids is not None else np.arange(len(records)), pa.int64()))

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> Column:
        """A field's column; absent throughout when there is none."""
        return self.columns.get(name) or absent_column(len(self))

    def row_ids(self) -> list[int]:
        """Each row's id."""
        return self.ids.to_pylist()  # type: ignore[no-any-return]

    def values(self, name: str) -> list[Any]:
        """A field's values."""
        return self.column(name).values()

    def fields(self, name: str) -> list[Any]:
        """A field's values, ABSENT where a row has no such field."""
        return self.column(name).fields()

    def coded(self, name: str) -> Coded:
        """A field's values, each once."""
        column = self.column(name)
        if column.kind not in ("string", "json"):
            return Coded(column.values(), range(len(column)))
        encoded = column.array.dictionary_encode(null_encoding="encode")
        return Coded(Column(column.kind, encoded.dictionary).values(), encoded.indices.to_numpy())

    def replace(self, columns: Mapping[str, Sequence[Any] | Coded]) -> "ColumnFrame":
        """With these values in place of the fields' own."""
        made = {
            name: column_of(column.values).take(pa.array(column.codes, pa.int64()))
            if isinstance(column, Coded)
            else column_of(column)
            for name, column in columns.items()
        }
        # a column that has not changed stays the same object: nobody need encode, send and store it again
        for name, column in made.items():
            if name in self.columns and self.columns[name].same(column):
                made[name] = self.columns[name]
        return ColumnFrame({**self.columns, **made}, self.ids)

    def select(self, sources: Mapping[str, str], filled: Collection[str] = ()) -> "ColumnFrame":
        """Just these fields."""
        columns = {new: self.column(old) for new, old in sources.items()}
        return ColumnFrame({new: c.filled() if new in filled else c for new, c in columns.items()}, self.ids)

    def take(self, rows: Sequence[int]) -> "ColumnFrame":
        """The rows at these indices."""
        indices = pa.array(rows, pa.int64())
        columns = {name: column.take(indices) for name, column in self.columns.items()}
        return ColumnFrame(columns, self.ids.take(indices))

    def slice(self, start: int, length: int) -> "ColumnFrame":
        """The rows from `start`, at most `length` of them; a view."""
        columns = {name: column.slice(start, length) for name, column in self.columns.items()}
        return ColumnFrame(columns, self.ids.slice(start, length))

    def records(self) -> list[Record]:
        """The rows as JSON objects."""
        return records_of(self.columns, len(self))

    def of(self, records: Sequence[Record], ids: Sequence[int]) -> "ColumnFrame":
        """A chunk with these records."""
        return ColumnFrame.of_records(records, ids)


def distinct_rows(frame: Frame, names: Sequence[str]) -> Coded:
    """The combinations of these fields' values, as tuples, each once: the first seen first. Texts are compared."""
    parts = [frame.coded(name) for name in names]
    if len(parts) == 1:
        return Coded([(value,) for value in parts[0].values], parts[0].codes)
    if all(isinstance(part.codes, np.ndarray) for part in parts):
        return _combined(parts)
    known: dict[tuple[int, ...], int] = {}
    codes = [
        known.setdefault(combination, len(known)) for combination in zip(*(p.code_list() for p in parts), strict=True)
    ]
    values = [tuple(part.values[code] for part, code in zip(parts, key, strict=True)) for key in known]
    return Coded(values, codes)


def _combined(parts: Sequence[Coded]) -> Coded:
    """`distinct_rows` of columns: pairs of codes are numbered as one integer, field by field."""
    codes = np.asarray(parts[0].codes, np.int64)
    for part in parts[1:]:
        # neither factor is above the number of rows, so that the product fits
        pairs = pa.array(codes * len(part.values) + np.asarray(part.codes, np.int64)).dictionary_encode()
        codes = pairs.indices.to_numpy().astype(np.int64)  # numbered in the order of their first appearance
    firsts = np.empty(int(codes.max(initial=-1)) + 1, np.int64)
    firsts[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # what is written last stays: the first row of each
    columns = [map(part.values.__getitem__, np.asarray(part.codes, np.int64)[firsts].tolist()) for part in parts]
    return Coded(list(zip(*columns, strict=True)), codes)


def mapped(coded: Coded, function: Callable[[Any], Any]) -> Coded:
    """The function's results, worked out once for each distinct value."""
    return Coded([function(value) for value in coded.values], coded.codes)


def concatenated(frames: Iterable[Frame]) -> Frame:
    """All rows in one frame, its columns the same wherever the parts end. Holds them all."""
    parts = list(frames)
    if len(parts) == 1:
        return parts[0]
    columnar = [part for part in parts if isinstance(part, ColumnFrame)]
    if columnar and len(columnar) == len(parts):
        names = dict.fromkeys(name for part in columnar for name in part.names)
        columns = {name: _joined([part.column(name) for part in columnar]) for name in names}
        return ColumnFrame(columns, pa.concat_arrays([part.ids for part in columnar]))
    records = [record for frame in parts for record in frame.records()]
    ids = [row for frame in parts for row in frame.row_ids()]
    return ColumnFrame.of_records(records, ids) if columnar else RecordFrame(records, ids)


def _joined(columns: Sequence[Column]) -> Column:
    """The columns' values in one, of the kind that `column_of` gives: Arrow joins them where they are of one kind."""
    kinds = {column.kind for column in columns if column.kind == "json" or column.array.null_count < len(column)}
    with_nulls = [column.sparse for column in columns if column.array.null_count]
    if "json" in kinds or len(kinds) > 1 or len(set(with_nulls)) > 1:
        return column_of([value for column in columns for value in column.fields()])
    kind = kinds.pop() if kinds else "string"
    # a column of nulls alone may be of any kind
    arrays = [
        column.array if column.kind == kind else pa.nulls(len(column), TYPES[kind]) for column in columns if len(column)
    ]
    return Column(kind, pa.concat_arrays(arrays) if arrays else pa.array([], TYPES[kind]), any(with_nulls))


def gathered(frames: Sequence[Frame], rows: npt.NDArray[np.int64]) -> Frame:
    """The rows at these places in all frames together, in this order."""
    starts = np.cumsum([0, *(len(frame) for frame in frames)])
    where = np.searchsorted(starts, rows, side="right") - 1
    by_frame = np.argsort(where, kind="stable")
    parts = []
    for number in np.unique(where).tolist():
        mine = rows[where == number] - starts[number]
        parts.append(frames[number].take(mine.tolist()))
    if not parts:
        return frames[0].take([])
    places = np.empty(len(rows), np.int64)
    places[by_frame] = np.arange(len(rows))
    return concatenated(parts).take(places.tolist())
