"""Columns of a batch: typed, immutable, with one encoding in bytes for one content, so that a digest tells content.

A column holds the values of one field for some rows. It knows five kinds, which are JSON's own: a field whose values
differ in kind, or that holds lists and objects, is kept as JSON text, and comes back as it went in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import orjson
import pyarrow as pa

Kind = Literal["string", "integer", "number", "boolean", "json"]

TYPES: Final[dict[Kind, pa.DataType]] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "json": pa.string(),
}
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1

_KIND_OF: Final[dict[type, Kind]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Absent:
    """The type of ABSENT."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()
"""In place of a value: the row has no such field, which is not the same as null."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The values of one field.

    `array` has the Arrow type that TYPES gives for `kind`. Arrow's null means null; or, where `sparse`, that the row
    has no such field. JSON text says `null` for itself, so a json column is always sparse.
    """

    kind: Kind
    array: pa.Array
    sparse: bool = False

    def __len__(self) -> int:
        return len(self.array)

    def values(self) -> list[Any]:
        """Python values, None for null and for absent."""
        if self.kind != "json":
            return self.array.to_pylist()  # type: ignore[no-any-return]
        return [None if text is None else orjson.loads(text) for text in self.array.to_pylist()]

    def fields(self) -> list[Any]:
        """Python values, ABSENT where the row has no such field."""
        if not self.sparse:
            return self.values()
        if self.kind != "json":
            return [ABSENT if value is None else value for value in self.array.to_pylist()]
        return [ABSENT if text is None else orjson.loads(text) for text in self.array.to_pylist()]

    def filled(self) -> "Column":
        """With null where a row has no such field; the column itself, where every row has it."""
        if self.kind == "json":
            return Column("json", self.array.fill_null("null"), sparse=True) if self.array.null_count else self
        return Column(self.kind, self.array) if self.sparse else self

    def same(self, other: "Column") -> bool:
        """Whether both are known to encode to the same bytes; never for fractions: 0.0 equals -0.0."""
        if self.kind != other.kind or self.kind == "number" or self.sparse != other.sparse:
            return False
        return bool(self.array.equals(other.array))

    def take(self, rows: pa.Array) -> "Column":
        """The values at `rows` (integers), in that order."""
        return Column(self.kind, self.array.take(rows), self.sparse)

    def slice(self, start: int, length: int) -> "Column":
        """The values from `start`, at most `length` of them; a view."""
        return Column(self.kind, self.array.slice(start, length), self.sparse)


def column_of(values: Sequence[Any]) -> Column:
    """The column of values as JSON gives them, or ABSENT; its kind is that of its values, whatever their order.

    Raises TypeError for a value that JSON does not have, UnicodeEncodeError for a lone surrogate.
    """
    types = set(map(type, values))
    absent = Absent in types
    null = type(None) in types
    kinds = types - {Absent, type(None)}
    if len(kinds) <= 1 and not (absent and null) and (not kinds or kinds <= _KIND_OF.keys()):
        kind = _KIND_OF[kinds.pop()] if kinds else "string"
        if kind != "integer" or _fits(values):
            plain = [None if value is ABSENT else value for value in values] if absent else values
            return Column(kind, pa.array(plain, TYPES[kind]), absent)
    texts = [None if value is ABSENT else _json(value) for value in values]
    return Column("json", pa.array(texts, TYPES["json"]), sparse=True)


def absent_column(rows: int) -> Column:
    """A field that no row has."""
    return Column("string", pa.nulls(rows, TYPES["string"]), sparse=True)


def records_of(columns: Mapping[str, Column], rows: int) -> list[dict[str, Any]]:
    """The rows as JSON objects, each with the fields that it has."""
    if not columns:
        return [{} for _ in range(rows)]
    cells = [column.fields() for column in columns.values()]
    names = tuple(columns)
    if not any(column.sparse for column in columns.values()):
        return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not ABSENT}
        for row in zip(*cells, strict=True)
    ]


def columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The inverse: a column for each field, in the order of first appearance. Raises as `column_of` does."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: column_of([record.get(name, ABSENT) for record in records]) for name in names}


def encode_column(column: Column) -> bytes:
    """The column as an Arrow IPC stream (one batch, one field `c`): the same bytes for the same values, always."""
    array = canonical(column.array)
    batch = pa.record_batch([array], names=["c"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode_column(kind: Kind, sparse: bool, data: bytes) -> Column:
    """The inverse of `encode_column`. Raises ValueError when the bytes are no such column."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            array = reader.read_next_batch().column(0)
    except (pa.ArrowInvalid, StopIteration, OSError) as error:
        raise ValueError(f"not an encoded column: {error}") from error
    if array.type != TYPES[kind]:
        raise ValueError(f"a column of {array.type} is not of the kind {kind}")
    return Column(kind, array, sparse)


def canonical(array: pa.Array) -> pa.Array:
    """An equal array whose buffers depend on its values alone: no offset, zeros under nulls, no stray bits."""
    size = len(array)
    validity = None
    if array.null_count:
        validity = pa.py_buffer(np.packbits(array.is_valid().to_numpy(zero_copy_only=False), bitorder="little"))
    if pa.types.is_string(array.type):
        buffers = _text_buffers(array)
    elif pa.types.is_boolean(array.type):
        buffers = [np.packbits(array.fill_null(False).to_numpy(zero_copy_only=False), bitorder="little")]
    else:
        buffers = [np.ascontiguousarray(array.fill_null(0).to_numpy(zero_copy_only=False))]
    return pa.Array.from_buffers(
        array.type, size, [validity, *(pa.py_buffer(buffer) for buffer in buffers)], null_count=array.null_count
    )


def _text_buffers(array: pa.Array) -> list[Any]:
    if array.null_count:
        array = array.fill_null("")  # what stands under a null is nobody's business
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    if not len(offsets):
        return [np.zeros(1, np.int32), b""]
    text = b"" if data is None else memoryview(data)[int(offsets[0]) : int(offsets[-1])]
    return [np.ascontiguousarray(offsets - offsets[0]), text]


def _fits(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if type(value) is int]
    return not numbers or (min(numbers) >= INTEGER_MIN and max(numbers) <= INTEGER_MAX)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
