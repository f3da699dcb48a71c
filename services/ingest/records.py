"""Where one record of delimited text ends and the next begins, field by field: the careful way, which is the rule.

The grammar is RFC 4180 with any line end (LF, CRLF, CR). A field that begins with a quote ends at the next single one,
which a delimiter or a line end must follow; a quote elsewhere is a character like others. `fast` gives the same for
what is well formed.
"""

import re
from dataclasses import dataclass, field

from services.ingest.config import ReadFileConfig

LF, CR = 10, 13


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the file is delimited, in bytes of UTF-8."""

    delimiter: bytes
    quote: bytes | None
    stops: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stops", re.compile(b"[" + re.escape(self.delimiter) + rb"\r\n]"))


@dataclass(frozen=True, slots=True)
class Limits:
    """See ReadFileConfig. A record of more than `fields` fields is given up."""

    field_bytes: int
    record_bytes: int
    fields: int

    @classmethod
    def of(cls, config: ReadFileConfig, fields: int) -> "Limits":
        """The config's limits."""
        return cls(config.max_field_bytes, config.max_record_bytes, fields)


@dataclass(frozen=True, slots=True)
class Record:
    """A record from `start` to `end` (after its line end). `plain`: no quote stands where none should."""

    fields: list[bytes]
    end: int
    plain: bool


@dataclass(frozen=True, slots=True)
class Malformed:
    """What begins here is no record: `code` says why. `scanned` is where that was found out."""

    code: str
    scanned: int


def read_record(
    buffer: bytes, start: int, dialect: Dialect, limits: Limits, *, last: bool
) -> Record | Malformed | None:
    """The record at `start`; None: the buffer ends before it does, and is not the `last`."""
    found: list[bytes] = []
    plain, position, size = True, start, len(buffer)
    while True:
        if dialect.quote is not None and buffer.startswith(dialect.quote, position):
            quoted = _quoted(buffer, position + 1, dialect.quote, limits, last=last)
            if not isinstance(quoted, int):
                return quoted
            value = buffer[position + 1 : quoted].replace(dialect.quote * 2, dialect.quote)
            position = quoted + 1
            if position < size and buffer[position : position + 1] not in (dialect.delimiter, b"\n", b"\r"):
                return Malformed("bad_quote", position)
        else:
            match = dialect.stops.search(buffer, position)
            if match is None and not last:
                return _unfinished(start, size, limits)
            stop = size if match is None else match.start()
            value = buffer[position:stop]
            plain = plain and (dialect.quote is None or dialect.quote not in value)
            if len(value) > limits.field_bytes:
                return Malformed("field_too_long", start)
            position = stop
        found.append(value)
        if position >= size:
            return Record(found, size, plain) if last else None
        if buffer[position] == dialect.delimiter[0]:
            position += 1
            if len(found) >= limits.fields:
                return Malformed("too_many_fields", position)
            continue
        end = line_end(buffer, position, last=last)
        if end is None:
            return None
        if end - start > limits.record_bytes:
            return Malformed("record_too_long", start)
        return Record(found, end, plain)


def _quoted(buffer: bytes, start: int, quote: bytes, limits: Limits, *, last: bool) -> int | Malformed | None:
    """Where the quote is that closes the field whose content begins at `start`."""
    position, bound = start, start + limits.field_bytes
    while True:
        found = buffer.find(quote, position, bound + 1)
        if found < 0:
            if len(buffer) > bound or last:
                long = not _breaks(buffer, start, bound) and len(buffer) > bound
                return Malformed("field_too_long" if long else "unclosed_quote", min(len(buffer), bound))
            return None
        if found + 1 >= len(buffer):
            return found if last else None
        if buffer[found + 1] != quote[0]:
            return found
        position = found + 2


def _unfinished(start: int, size: int, limits: Limits) -> Malformed | None:
    return Malformed("record_too_long", start) if size - start > limits.record_bytes else None


def _breaks(buffer: bytes, start: int, end: int) -> bool:
    return buffer.find(b"\n", start, end) >= 0 or buffer.find(b"\r", start, end) >= 0


SHORT_BYTES = 4096
_LINE_END = re.compile(rb"[\r\n]")


def next_line(buffer: bytes, start: int, *, last: bool) -> int | None:
    """Where the line after the one at `start` begins; None: the buffer does not have its end, and is not the last."""
    match = _LINE_END.search(buffer, start, start + SHORT_BYTES)
    if match is not None:
        return line_end(buffer, match.start(), last=last)
    feed = buffer.find(b"\n", start)  # several times as fast as the pattern, where it matters
    found = buffer.find(b"\r", start, len(buffer) if feed < 0 else feed)
    found = feed if found < 0 else found
    if found < 0:
        return len(buffer) if last else None
    return line_end(buffer, found, last=last)


def line_end(buffer: bytes, position: int, *, last: bool) -> int | None:
    """Where the next line begins, of the line end at `position`; None when LF may still follow a CR."""
    if buffer[position] == LF:
        return position + 1
    if position + 1 >= len(buffer):
        return position + 1 if last else None
    return position + 2 if buffer[position + 1] == LF else position + 1


def count_lines(data: bytes) -> int:
    """Line ends in `data`, which does not end in the middle of one."""
    lines = data.count(b"\n")
    if b"\r" in data:
        lines += data.count(b"\r") - data.count(b"\r\n")
    return lines
