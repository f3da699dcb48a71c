"""Which character splits a file's fields, and what its first records are."""

import re
from collections.abc import Sequence

from services.ingest.config import ReadFileConfig
from services.ingest.records import Dialect, Limits, Malformed, line_end, next_line, read_record

DELIMITERS = (b",", b";", b"\t", b"|")
SAMPLE_RECORDS = 100
SAMPLE_BYTES = 256 * 1024
_EXCEL_HINT = re.compile(rb'("?)(?i:sep)=([\x09\x20-\x7e])\1(\r\n|\n|\r)')


def excel_hint(block: bytes) -> tuple[bytes | None, int]:
    """The delimiter that a first line such as `sep=;` names, which Excel understands, and that line's length.

    Writers that quote every field quote this line, too.
    """
    match = _EXCEL_HINT.match(block)
    return (match[2], match.end()) if match else (None, 0)


def sample(block: bytes, dialect: Dialect, config: ReadFileConfig, *, last: bool) -> list[list[bytes]]:
    """The fields of the first complete records; a line that begins none is left out, and so are blank ones."""
    whole = last and len(block) <= SAMPLE_BYTES
    block = block[:SAMPLE_BYTES]
    limits = Limits.of(config, config.max_columns)
    records: list[list[bytes]] = []
    start: int | None = 0
    malformed = 0
    while start is not None and start < len(block) and len(records) + malformed < SAMPLE_RECORDS:
        if block[start] in b"\r\n":
            start = line_end(block, start, last=whole)
            continue
        found = read_record(block, start, dialect, limits, last=whole)
        if found is None:
            break
        if isinstance(found, Malformed):
            start = next_line(block, start, last=whole)
            malformed += 1
        else:
            records.append(found.fields)
            start = found.end
    return records


def find_dialect(block: bytes, config: ReadFileConfig, *, last: bool) -> tuple[Dialect, list[list[bytes]]]:
    """The dialect, and the first records by it.

    Of the four delimiters, the one by which most of the first records have as many fields as the very first, at least
    two; among equals the one that gives more fields. A comma, if none splits the first record.
    """
    quote = None if config.quote is None else config.quote.encode()
    if config.delimiter is not None:
        dialect = Dialect(config.delimiter.encode(), quote)
        return dialect, sample(block, dialect, config, last=last)
    best: tuple[float, int] = (-1.0, 0)
    chosen = None
    for delimiter in DELIMITERS:
        if delimiter == quote:
            continue
        dialect = Dialect(delimiter, quote)
        records = sample(block, dialect, config, last=last)
        score = _evenness(records)
        if score > best:
            best, chosen = score, (dialect, records)
    if chosen is None:
        raise AssertionError("three of four delimiters are never the quote")
    return chosen


def _evenness(records: Sequence[Sequence[bytes]]) -> tuple[float, int]:
    width = len(records[0]) if records else 0
    if width < 2:
        return (0.0, 0)
    even = sum(len(record) == width for record in records)
    return (round(even / len(records), 1), width)


def newline_of(block: bytes) -> str:
    """`lf`, `crlf`, `cr`, `mixed` or `none`, by what the block has."""
    pairs = block.count(b"\r\n")
    counts = {"lf": block.count(b"\n") - pairs, "crlf": pairs, "cr": block.count(b"\r") - pairs}
    found = [name for name, count in counts.items() if count]
    return found[0] if len(found) == 1 else "mixed" if found else "none"
