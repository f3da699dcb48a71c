"""Files of rows, written chunk by chunk: CSV, JSON lines, Parquet and Arrow. Pure: columns in, bytes out."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from events.columns import ABSENT, TYPES, Column, Kind, records_of

Format = Literal["csv", "jsonl", "parquet", "arrow"]

ROW_ID = "row_id"
COMPRESSION = "zstd"

# What a spreadsheet takes for a formula, also after space it trims, and in the full-width forms it normalises (OWASP).
FORMULA = r"^[\s\x00]*[=+\-@＝＋－＠]|^[\t\r]"


class Writer(ABC):
    """Writes one file. `begin`, then `chunk` for each chunk, then `end`; together they are the file."""

    media_type: ClassVar[str]
    extension: ClassVar[str]

    def __init__(self, kinds: Mapping[str, Kind], *, row_ids: bool, escape_formulas: bool) -> None:
        """`kinds` are the fields of all chunks, in order, each with the kind that its values have throughout."""
        self._kinds = dict(kinds)
        self._id_name = _id_name(kinds) if row_ids else None
        self._escape = escape_formulas

    @abstractmethod
    def begin(self) -> bytes:
        """What comes before the first row."""

    @abstractmethod
    def chunk(self, columns: Mapping[str, Column], ids: pa.Array) -> bytes:
        """The rows of a chunk."""

    @abstractmethod
    def end(self) -> bytes:
        """What comes after the last row."""

    def _named(self) -> list[str]:
        return [*([self._id_name] if self._id_name else []), *self._kinds]


class CsvWriter(Writer):
    """RFC 4180, UTF-8, lines ended by LF. Null is an empty cell, the empty text is `""`."""

    media_type = "text/csv; charset=utf-8"
    extension = "csv"

    def begin(self) -> bytes:
        """The header."""
        line = io.StringIO()
        names = [_safe(name) if self._escape else name for name in self._named()]
        csv.writer(line, quoting=csv.QUOTE_MINIMAL, lineterminator="\n").writerow(names)
        return line.getvalue().encode()

    def chunk(self, columns: Mapping[str, Column], ids: pa.Array) -> bytes:
        """The rows of a chunk."""
        cells = [self._cells(columns[name]) for name in self._kinds]
        arrays = [*([ids] if self._id_name else []), *cells]
        if not arrays:
            return b"\n" * len(ids)
        batch = pa.record_batch(arrays, names=[str(number) for number in range(len(arrays))])
        sink = pa.BufferOutputStream()
        pa.csv.write_csv(batch, sink, pa.csv.WriteOptions(include_header=False, quoting_style="needed"))
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]

    def end(self) -> bytes:
        """Nothing."""
        return b""

    def _cells(self, column: Column) -> pa.Array:
        if column.kind == "json":
            array = pa.array([_cell(value) for value in column.values()], pa.string())
        elif column.kind == "string":
            array = column.array
        else:
            return column.array
        if not self._escape:
            return array
        formula = pc.match_substring_regex(array, FORMULA)
        return pc.if_else(formula, pc.binary_join_element_wise("'", array, ""), array)


class JsonLinesWriter(Writer):
    """One JSON object a line, as it went in: a field that a row lacks is lacking."""

    media_type = "application/x-ndjson"
    extension = "jsonl"

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def chunk(self, columns: Mapping[str, Column], ids: pa.Array) -> bytes:
        """The rows of a chunk."""
        records: Iterable[dict[str, Any]] = records_of(columns, len(ids))
        if self._id_name is not None:
            records = ({self._id_name: row, **record} for row, record in zip(ids.to_pylist(), records, strict=True))
        return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)

    def end(self) -> bytes:
        """Nothing."""
        return b""


class _Drained(io.RawIOBase):
    """A file for pyarrow to write to, and for us to take from what it wrote."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written.append(bytes(data))
        return len(self._written[-1])

    def drain(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._written)
        self._written.clear()
        return taken


class _TableWriter(Writer):
    """A format with a schema, the same for every chunk: a field whose chunks differ in kind is JSON text."""

    def __init__(self, kinds: Mapping[str, Kind], *, row_ids: bool, escape_formulas: bool) -> None:
        super().__init__(kinds, row_ids=row_ids, escape_formulas=escape_formulas)
        fields = [pa.field(self._id_name, pa.int64())] if self._id_name else []
        for name, kind in self._kinds.items():
            fields.append(pa.field(name, TYPES[kind], metadata={"data_engine.kind": kind}))
        self._schema = pa.schema(fields)
        self._file = _Drained()
        self._writer = self._open(pa.PythonFile(self._file, mode="w"))

    @abstractmethod
    def _open(self, file: pa.NativeFile) -> Any:
        """The library's writer onto a file."""

    def begin(self) -> bytes:
        """What the library writes at once."""
        return self._file.drain()

    def chunk(self, columns: Mapping[str, Column], ids: pa.Array) -> bytes:
        """The rows of a chunk."""
        arrays = [as_kind(columns[name], kind) for name, kind in self._kinds.items()]
        table = pa.Table.from_arrays([*([ids] if self._id_name else []), *arrays], schema=self._schema)
        self._writer.write_table(table)
        return self._file.drain()

    def end(self) -> bytes:
        """What the library writes last."""
        self._writer.close()
        return self._file.drain()


class ParquetWriter(_TableWriter):
    """Parquet, a row group a chunk, compressed by Zstandard."""

    media_type = "application/vnd.apache.parquet"
    extension = "parquet"

    def _open(self, file: pa.NativeFile) -> Any:
        return pa.parquet.ParquetWriter(file, self._schema, compression=COMPRESSION)


class ArrowWriter(_TableWriter):
    """An Arrow IPC stream, a record batch a chunk."""

    media_type = "application/vnd.apache.arrow.stream"
    extension = "arrow"

    def _open(self, file: pa.NativeFile) -> Any:
        return pa.ipc.new_stream(file, self._schema)


WRITERS: dict[Format, type[Writer]] = {
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
    "parquet": ParquetWriter,
    "arrow": ArrowWriter,
}


def common_kind(kinds: Iterable[Kind]) -> Kind:
    """The kind that holds the values of all: their own when it is one, JSON text when they differ."""
    found = set(kinds)
    if not found:
        return "string"
    return found.pop() if len(found) == 1 else "json"


def as_kind(column: Column, kind: Kind) -> pa.Array:
    """The column's values in the Arrow type of a kind that holds them; null where a row has no such field."""
    if column.kind == kind:
        return column.array
    if kind != "json":  # a field that no row of the chunk has
        return pa.nulls(len(column), TYPES[kind])
    texts = [None if value is ABSENT else orjson.dumps(value).decode() for value in column.fields()]
    return pa.array(texts, TYPES["json"])


def _cell(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _safe(text: str) -> str:
    return f"'{text}" if pc.match_substring_regex(pa.scalar(text), FORMULA).as_py() else text


def _id_name(names: Iterable[str]) -> str:
    """`row_id`, or what is like it and no field's name."""
    taken: Sequence[str] = list(names)
    name = ROW_ID
    while name in taken:
        name = f"_{name}"
    return name
