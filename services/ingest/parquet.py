"""Parquet: values as JSON has them, and exact text for what JSON has not."""

import tempfile
import uuid
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from events.columns import Column, column_of
from services.ingest.bytestream import ByteStream
from services.ingest.chunks import Chunk, bounded
from services.ingest.config import CHUNK_BYTES, CHUNK_ROWS, MIB, ReadFileConfig
from services.ingest.header import HEADER_SHOWN_CHARS, field_names
from services.steps.base import Reject, StepError

BATCH_ROWS: Final = 5_000
BATCH_BYTES: Final = 16 * MIB
CELLS_FREE: Final = 64 * MIB
"""Cells that a file may have whatever its size; beyond, `max_ratio` counts."""


class ParquetReader:
    """Reads one file. Decimals, dates and times become exact text, times with a zone UTC with `Z`; NaN, by which
    writers mean null, is null; structs, lists and maps are JSON, where what is not finite is null."""

    def __init__(self, stream: ByteStream, config: ReadFileConfig, told: dict[str, Any]) -> None:
        """Put the file on disk and read what it says of itself. Raises StepError."""
        self._config = config
        # Unnamed: it is gone with the process, however that ends.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed at the end of `chunks`
        try:
            size_bytes = stream.spool(self._file, config.max_spool_bytes)
            self._open(size_bytes, told)
        except BaseException:
            self._file.close()
            raise

    def _open(self, size_bytes: int, told: dict[str, Any]) -> None:
        config = self._config
        self._file.seek(0)
        try:
            self._parquet = pq.ParquetFile(self._file, pre_buffer=False, buffer_size=MIB)
            schema = self._parquet.schema_arrow
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, MemoryError):
                raise
            raise _damaged(error) from error
        about = self._parquet.metadata
        cells = about.num_rows * len(schema.names)
        unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
        if unpacked > config.max_bytes or cells > max(CELLS_FREE, config.max_ratio * size_bytes):
            raise StepError(
                f"{size_bytes} bytes of Parquet unpack to {about.num_rows} rows and {unpacked} bytes, which is beyond "
                "max_bytes or max_ratio.",
                code="unpacks_too_large",
            )
        self._batch_rows = min(BATCH_ROWS, max(1, BATCH_BYTES * about.num_rows // max(unpacked, 1)))
        self.names = field_names(schema.names, config.max_columns)
        config.require(self.names)
        told["header"] = [name[:HEADER_SHOWN_CHARS] for name in schema.names]
        told["names"] = self.names
        told["types"] = [str(kind)[:HEADER_SHOWN_CHARS] for kind in schema.types]

    def chunks(self) -> Iterator[Chunk]:
        """All records, in chunks; at least one. Raises StepError."""
        first, held, held_bytes, made = 0, list[pa.RecordBatch](), 0, False
        with self._file, self._parquet:
            for batch in self._batches():
                start = 0
                while start < len(batch):
                    part = batch.slice(start, CHUNK_ROWS - sum(map(len, held)))
                    held.append(part)
                    held_bytes += part.nbytes
                    start += len(part)
                    if sum(map(len, held)) == CHUNK_ROWS or held_bytes >= CHUNK_BYTES:
                        yield self._chunk(held, first)
                        first += sum(map(len, held))
                        held, held_bytes, made = [], 0, True
            if held or not made:
                yield self._chunk(held, first)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._parquet.iter_batches(batch_size=self._batch_rows, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, MemoryError):
                raise
            raise _damaged(error) from error

    def _chunk(self, batches: list[pa.RecordBatch], first: int) -> Chunk:
        table = pa.Table.from_batches(batches, self._parquet.schema_arrow)
        faults: dict[int, Reject] = {}
        columns = {
            name: self._column(name, table.column(at).combine_chunks(), first, faults)
            for at, name in enumerate(self.names)
        }
        rows = np.setdiff1d(np.arange(len(table)), np.array(list(faults), np.int64))
        if faults:
            columns = {name: column.take(pa.array(rows, pa.int64())) for name, column in columns.items()}
        return Chunk(columns, rows + first, rows + first + 1, list(faults.values()))

    def _column(self, name: str, array: pa.Array, first: int, faults: dict[int, Reject]) -> Column:
        """The column; rows that cannot be read are put into `faults`."""
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        plain = _plain(array, name)
        if isinstance(plain, list):
            return column_of(plain)
        column, wrong, code = plain, None, ""
        if pa.types.is_floating(plain.type):
            column = pc.if_else(pc.is_finite(plain), plain, None)
            wrong, code = pc.is_inf(plain), "not_finite"
        elif pa.types.is_binary(plain.type):
            column, wrong = _decoded(plain)
            code = "undecodable"
        elif pa.types.is_string(plain.type):
            wrong, code = pc.greater(pc.binary_length(plain), self._config.max_field_bytes), "field_too_long"
            if pa.types.is_temporal(array.type):
                wrong, code = pc.starts_with(plain, OUT_OF_RANGE), "out_of_range"
        if wrong is not None and pc.any(wrong).as_py():
            for row in np.flatnonzero(wrong.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
                value = plain[row].as_py()
                shown = value.hex() if isinstance(value, bytes) else value if isinstance(value, str) else str(value)
                faults.setdefault(row, Reject(first + row + 1, name, code, bounded(shown)))
        return Column(_KINDS[str(column.type)], column)


OUT_OF_RANGE: Final = "<value"
"""What Arrow writes for a date or time that no calendar has begins so."""

_KINDS: Final[Mapping[str, Any]] = {"string": "string", "int64": "integer", "double": "number", "bool": "boolean"}


def _damaged(error: Exception) -> StepError:
    return StepError(
        f"The Parquet file is damaged or cut off ({str(error)[:300]}). Write and upload it again.", code="damaged_file"
    )


def _plain(array: pa.Array, name: str) -> pa.Array | list[Any]:
    """The values as one of Arrow's types that columns have, or as binary, or as a list of JSON values."""
    if isinstance(array.type, pa.UuidType):
        return pa.array([None if value is None else str(uuid.UUID(bytes=value)) for value in array.storage.to_pylist()])
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_null(kind):
        return array.cast(pa.string())
    if pa.types.is_nested(kind) or kind == pa.uint64():
        return [_jsonable(value) for value in _listed(array, name)]
    if pa.types.is_boolean(kind):
        return array
    if pa.types.is_integer(kind) or pa.types.is_duration(kind):
        return array.cast(pa.int64())
    if pa.types.is_floating(kind):
        return array.cast(pa.float64())
    if pa.types.is_timestamp(kind):
        return _timestamps(array.cast(pa.timestamp(kind.unit)).cast(pa.string()), "" if kind.tz is None else "Z")
    if pa.types.is_decimal(kind):
        text = array.cast(pa.string())
        if pc.any(pc.match_substring(text, "E")).as_py():
            return pa.array([None if v is None else format(v, "f") for v in array.to_pylist()], pa.string())
        return text
    if pa.types.is_date(kind) or pa.types.is_time(kind):
        return array.cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        text = array.cast(pa.string())
        return text if _is_utf8(text) else text.cast(pa.binary())
    return array.cast(pa.binary())


def _timestamps(text: pa.Array, zone: str) -> pa.Array:
    """Arrow's text of timestamps as ISO 8601; what is out of range as it is."""
    found = pc.binary_join_element_wise(pc.replace_substring(text, " ", "T"), zone, "")
    beyond = pc.starts_with(text, OUT_OF_RANGE)
    return pc.if_else(beyond, text, found) if pc.any(beyond).as_py() else found


def _is_utf8(text: pa.Array) -> bool:
    """Whether the text is what it says: writers put other bytes there, too, and Arrow takes their word for it."""
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _listed(array: pa.Array, name: str) -> list[Any]:
    try:
        return array.to_pylist(maps_as_pydicts=None)  # type: ignore[no-any-return]
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise StepError(
            f"The field {name[:100]!r} of type {str(array.type)[:200]} cannot be written as JSON: {str(error)[:200]}",
            code="unsupported_type",
        ) from error


def _jsonable(value: Any) -> Any:
    """What is nested in a value, as JSON has it; map entries as pairs."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def _decoded(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Binary values as text (old writers do not say that theirs is), and which of them are none."""
    try:
        return array.cast(pa.string()), pa.array(np.zeros(len(array), bool))
    except pa.ArrowInvalid:
        texts = [_text_of(value) for value in array.to_pylist()]
        wrong = [text is None and valid for text, valid in zip(texts, array.is_valid().to_pylist(), strict=True)]
        return pa.array(texts, pa.string()), pa.array(wrong, pa.bool_())


def _text_of(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
