"""The config of `read_file`: what is known of the file, and the limits it is read under."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from services.steps._rowwise import check_fields
from services.steps.base import StepConfig

MIB = 1024 * 1024
CHUNK_ROWS = 25_000
"""Records of a chunk, rejected ones among them."""
CHUNK_BYTES = 32 * MIB
"""A chunk also ends with the record that brings it to this size, so that long cells do not add up."""

Format = Literal["csv", "jsonl", "parquet", "xlsx"]
Kind = Literal["text", "integer", "number", "decimal", "boolean", "date", "datetime", "json"]
Encoding = Literal["utf-8", "cp1252", "latin-1", "utf-16", "utf-16-le", "utf-16-be"]


class ReadFileConfig(StepConfig):
    """What is known of the file, and the limits it is read under. Without any, the content decides."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"format": "csv", "delimiter": ";", "encoding": "cp1252", "columns": {"employees": "integer"}},
                {"format": "xlsx", "sheet": "Contacts", "null_tokens": ["", "N/A"]},
            ]
        }
    )

    format: Literal["auto"] | Format = "auto"
    """The file's format; `auto` tells it by the content. A format that the content contradicts is an error. `csv` is
    any delimited text, tab-separated too."""

    compression: Literal["auto", "none", "gzip", "zstd"] = "auto"
    """How the file is compressed; `auto` tells it by the first bytes."""

    delimiter: str | None = Field(default=None, pattern=r"^[\x09\x20-\x7e]$")
    """CSV: the character between two fields. Null: the one of comma, semicolon, tab and bar that splits the first
    records most evenly."""

    quote: str | None = Field(default='"', pattern=r"^[\x21-\x7e]$")
    """CSV: the character round a field that holds delimiters or line breaks, doubled inside of it. Null: none is."""

    encoding: Literal["auto"] | Encoding = "auto"
    """The encoding of CSV and JSON lines. `auto`: what a byte order mark says, else UTF-8, else Windows-1252 when the
    first part that is not ASCII holds more broken than good UTF-8."""

    header: Literal["present", "absent"] | Annotated[list[str], Field(min_length=1, max_length=10_000)] = "present"
    """CSV and XLSX: whether the first record has the fields' names. `absent` names them `column_1` and so on; a list of
    names is for a file that has no header."""

    columns: dict[str, Kind] = Field(default={}, max_length=10_000)
    """Fields to convert, strictly; a value that does not fit makes the row a reject. Other fields stay as they are: in
    CSV that is text, so that `007` stays `007`. `decimal`, `date` and `datetime` (ISO 8601) are checked, and stay
    text."""

    sheet: str | Annotated[int, Field(ge=0)] | None = None
    """XLSX: the sheet's name, or its number from 0. Null: the first one."""

    null_tokens: list[str] = Field(default=[""], max_length=1000)
    """CSV and XLSX: cells that mean null when they are equal to one of these. CRM exports write nothing, or two quotes,
    for null, so the empty cell is one unless you say otherwise."""

    max_bytes: int = Field(default=16 * 1024 * MIB, ge=1)
    """The file's size without compression, at most."""

    max_ratio: int = Field(default=250, ge=1)
    """How many times its compressed size a file may grow to, once it is beyond 64 MiB."""

    max_spool_bytes: int = Field(default=2 * 1024 * MIB, ge=1)
    """Parquet and XLSX, which are read from disk: the file's size, at most; and that of what an XLSX unpacks to."""

    max_columns: int = Field(default=2_000, ge=1, le=10_000)
    """Fields of the file, at most."""

    max_cells: int = Field(default=20_000_000, ge=1, le=100_000_000)
    """XLSX: rows times columns of the sheet, at most; the reader holds them all."""

    max_field_bytes: int = Field(default=MIB, ge=1, le=64 * MIB)
    """A cell, at most; a row with a longer one is a reject. It bounds what a quote that is never closed can take in."""

    max_record_bytes: int = Field(default=16 * MIB, ge=1, le=128 * MIB)
    """A record of text, at most; a longer one is a reject, and skipped without being held."""

    @model_validator(mode="after")
    def _characters_differ(self) -> "ReadFileConfig":
        if self.delimiter is not None and self.delimiter == self.quote:
            raise ValueError("delimiter and quote are the same character")
        return self

    def require(self, names: Sequence[str]) -> None:
        """Raise StepError `unknown_field` when `columns` names a field that the file has not."""
        check_fields(names, self.columns)
