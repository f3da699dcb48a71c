"""read_file: the first step of a run over an uploaded file."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import chain
from typing import Any

from services.ingest.bytestream import ByteStream
from services.ingest.chunks import Account, Chunk, reported
from services.ingest.config import ReadFileConfig
from services.ingest.csv_file import CsvReader
from services.ingest.formats import binary_format
from services.ingest.jsonl import JsonLines
from services.ingest.parquet import ParquetReader
from services.ingest.text import TextBlocks, require_text, text_format
from services.ingest.xlsx import XlsxReader
from services.steps.base import Context, Result, Source, Step, StepError


def read_file(parts: Iterator[bytes], config: ReadFileConfig) -> Iterator[Result]:
    """Read an uploaded file: chunks of CHUNK_ROWS records, in order, with what is no record as rejects.

    A row's id is the ordinal of its record in the file, from 0; rejected records count. A reject's `row` is not the id
    but the place where a person finds it: the line of a text file, the row of a sheet, the record of a Parquet file,
    each from 1; its value is the raw line (at most 1,000 characters, bytes that are no UTF-8 as `\\xNN`), or, where it
    names a field, the raw value. The last result has the report. Nothing depends on where the parts are cut.

    Raises StepError: `empty_file`, `damaged_file`, `format_mismatch`, `compression_mismatch`, `encoding_mismatch`,
    `unsupported_format`, `not_text`, `json_array`, `json_object`,
    `file_too_large`, `unpacks_too_large`, `too_many_columns`,
    `unknown_field` and others of the formats; and what `parts` raises.
    """
    account = Account(config)
    stream = ByteStream(parts, config)
    head = stream.peek(4096)
    if not head:
        raise StepError("The file is empty.", code="empty_file")
    found = binary_format(head, config.format)
    told: dict[str, Any] = {}
    chunks: Iterator[Chunk]
    if found == "parquet":
        chunks = ParquetReader(stream, config, told).chunks()
    elif found == "xlsx":
        chunks = XlsxReader(stream, config, told).chunks()
    else:
        chunks, found = _text(stream, config, told)

    def report() -> Mapping[str, Any]:
        return {"format": found, **told, **_counts(stream, account)}

    return _results(chunks, account, report)


def _results(chunks: Iterator[Chunk], account: Account, report: Any) -> Iterator[Result]:
    yield from reported((account.finish(chunk) for chunk in chunks), report)


def _text(stream: ByteStream, config: ReadFileConfig, told: dict[str, Any]) -> tuple[Iterator[Chunk], str]:
    """The chunks of a text file, and its format."""
    text = TextBlocks(stream, config.encoding)
    blocks = iter(text)
    first = next(blocks, b"")
    require_text(first)
    if not first.strip():
        raise StepError("The file has nothing but blank space.", code="empty_file")
    found = text_format(first, config.format)
    together = chain([first], blocks)
    if found == "jsonl":
        chunks = JsonLines(together, config).chunks()
    else:
        reader = CsvReader(together, config)
        config.require(reader.names)
        quote = reader.dialect.quote
        told["dialect"] = {
            "delimiter": reader.dialect.delimiter.decode(),
            "quote": quote and quote.decode(),
            "newline": reader.newline,
        }
        told["header"], told["names"] = reader.header, reader.names
        chunks = reader.chunks()

    def watched() -> Iterator[Chunk]:
        yield from chunks
        told["encoding"], told["byte_order_mark"] = text.decided, text.byte_order_mark

    return watched(), found


def _counts(stream: ByteStream, account: Account) -> dict[str, Any]:
    return {
        "compression": stream.compression,
        "fields": {name: schema.plain() for name, schema in account.schema.items()},
        "rows": account.rows,
        "rejects": account.rejects,
        "size_bytes": stream.compressed_bytes,
        "decompressed_bytes": stream.size_bytes,
    }


def _source(parts: Iterator[bytes], config: ReadFileConfig, _: Context) -> Iterator[Result]:
    return read_file(parts, config)


READ_FILE = Step(
    "read_file",
    version=f"2+pyarrow{version('pyarrow')}+calamine{version('python-calamine')}+jiter{version('jiter')}",
    summary="Read an uploaded file (CSV, JSON lines, Parquet, XLSX; gzip and zstd) into rows.",
    config_model=ReadFileConfig,
    body=Source(_source),
    holds="One chunk; for XLSX the sheet, for Parquet the file on disk.",
)
"""The first step of a run over an upload; see `read_file`."""
