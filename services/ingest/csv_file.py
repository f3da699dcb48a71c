"""Delimited text: well-formed stretches many records at a time, the rest record by record, by one and the same rule."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from services.ingest import fast
from services.ingest.chunks import Chunk
from services.ingest.config import ReadFileConfig
from services.ingest.csv_chunks import ChunkBuilder
from services.ingest.dialect import excel_hint, find_dialect, newline_of
from services.ingest.header import HEADER_SHOWN_CHARS, field_names
from services.ingest.records import (
    Limits,
    Malformed,
    Record,
    count_lines,
    line_end,
    next_line,
    read_record,
)
from services.ingest.text import BLOCK_BYTES
from services.steps.base import StepError

CAREFUL_MIN = 64
"""Records that are read one by one after something odd; twice as many each time that did not help."""
CAREFUL_MAX = 1 << 20
EXTRA_MAX = 64
"""Empty fields that a record may have at its end, beyond the header's."""
RESCAN_MAX_BYTES = 256 * 1024 * 1024
"""What may be read a second time after quotes that are not closed, in all: time stays in proportion to the file."""
RESCAN_LEAST_BYTES = 4096
"""What one time counts for at least: many short fields cost more than their bytes."""


class CsvReader:
    """Reads one file. Its attributes tell of the dialect and the header, once it is made."""

    def __init__(self, blocks: Iterator[bytes], config: ReadFileConfig, *, careful_only: bool = False) -> None:
        """Find the dialect and read the header. `careful_only` never takes the fast way (for tests of the two)."""
        self._blocks = blocks
        self._config = config
        self._careful_only = careful_only
        self._buffer, self._start, self._last = next(blocks, b""), 0, False
        if len(self._buffer) < BLOCK_BYTES:
            self._refill()
        self.newline = newline_of(self._buffer)
        hinted, self._start = excel_hint(self._buffer)
        if hinted is not None and config.delimiter not in (None, hinted.decode()):
            hinted, self._start = None, 0
        self._line = 2 if self._start else 1  # of the record at _start
        given = config.model_copy(update={"delimiter": hinted.decode()}) if hinted else config
        self.dialect, first = find_dialect(self._buffer[self._start :], given, last=self._last)
        self._limits = Limits.of(config, config.max_columns + EXTRA_MAX)
        self.header: list[str] | None = None
        self.names = self._names(first)
        self._limits = Limits.of(config, len(self.names) + EXTRA_MAX)
        self._builder = ChunkBuilder(self.names, config.null_tokens)
        self._careful = CAREFUL_MAX if careful_only else 0
        self._step = CAREFUL_MIN
        self._recovering = False
        self._rescanned_bytes = 0

    def _names(self, first: Sequence[Sequence[bytes]]) -> list[str]:
        """The names to use; reads the header if there is one."""
        wanted = self._config.header
        if isinstance(wanted, list):
            return field_names(wanted, self._config.max_columns)
        if wanted == "absent":
            return field_names([None] * (len(first[0]) if first else 1), self._config.max_columns)
        while (found := self._next()) is None:
            if not self._more():
                raise StepError("The file has nothing but blank lines.", code="empty_file")
        if isinstance(found, Malformed):
            if found.code == "too_many_fields":
                raise StepError(
                    f"The file has more than {self._config.max_columns} columns (max_columns).", code="too_many_columns"
                )
            raise StepError(
                f"Line {self._line}, which should have the fields' names, is unreadable: {found.code}. See the "
                "config's delimiter, quote and header.",
                code="bad_header",
            )
        self._advance(found.end)
        header = [name.decode("utf-8", "replace") for name in found.fields]
        self.header = [name[:HEADER_SHOWN_CHARS] for name in header]
        # Writers that end each line with a delimiter make a last column without name or values: that is none.
        while len(header) > 1 and not header[-1].strip() and not _filled(first[1:], len(header) - 1):
            header.pop()
        return field_names(header, self._config.max_columns)

    def chunks(self) -> Iterator[Chunk]:
        """All records, in chunks; at least one chunk, which may be empty. Raises StepError."""
        made = False
        while self._more():
            for chunk in self._one() if self._careful else self._many():
                made = True
                yield chunk
        chunk = self._builder.take()
        if len(chunk.ordinals) or chunk.rejects or not made:
            yield chunk

    def _more(self) -> bool:
        """Whether there is anything left to read."""
        while self._start >= len(self._buffer) and not self._last:
            self._refill()
        return self._start < len(self._buffer)

    def _refill(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            self._last = True
        else:
            self._buffer = self._buffer[self._start :] + block
            self._start = 0

    def _advance(self, end: int) -> None:
        self._line += count_lines(self._buffer[self._start : end])
        self._start = end

    def _next(self) -> Record | Malformed | None:
        """What begins here; None after a blank line, and when the file is over. Goes past blank lines only."""
        while self._more():
            if self._buffer[self._start] in b"\r\n":
                end = line_end(self._buffer, self._start, last=self._last)
                if end is not None:
                    self._advance(end)
                    return None
            else:
                found = read_record(self._buffer, self._start, self.dialect, self._limits, last=self._last)
                if found is not None:
                    return found
                if len(self._buffer) - self._start > self._limits.record_bytes:
                    return Malformed("record_too_long", len(self._buffer))
            self._refill()
        return None

    def _one(self) -> Iterator[Chunk]:
        """Read one record, or blank line, the careful way."""
        if not self._careful_only:
            self._careful -= 1
        found = self._next()
        if found is not None:
            yield from self._take(found)

    def _take(self, found: Record | Malformed) -> Iterator[Chunk]:
        """Keep or reject what begins here, and go past it."""
        if isinstance(found, Malformed):
            self._reject_line(found.code, found.scanned)
        else:
            self._judge(found)
        if self._builder.full:
            yield self._builder.take()

    def _judge(self, record: Record) -> None:
        start, width = self._start, len(self.names)
        if self._recovering and not record.plain:
            self._reject_line("bad_quote", record.end)  # the rest of a record that began on a rejected line
            return
        raw = self._buffer[start : record.end]
        extra = record.fields[width:]
        tokens = self._config.null_tokens
        code = None
        if len(record.fields) < width:
            code = "too_few_fields"
        elif any(value and value.decode("utf-8", "replace") not in tokens for value in extra):
            code = "too_many_fields"
        elif not _decodable(raw):
            code = "undecodable"
        if code is None:
            self._builder.add(record.fields[:width], self._line, record.end - start)
            self._recovering = False
        elif code != "undecodable" and self._hides_records(record.end):
            self._reject_line("unclosed_quote", record.end)
            return
        else:
            self._builder.reject(self._line, code, raw)
        self._advance(record.end)

    def _hides_records(self, end: int) -> bool:
        """Whether a record that does not fit, up to `end`, runs over lines that would be records by themselves: then
        a quote is missing, and they must not go with it."""
        line = next_line(self._buffer, self._start, last=self._last)
        self._rescanned(end - (line or end))
        while line is not None and line < end:
            found = read_record(self._buffer, line, self.dialect, self._limits, last=self._last)
            after = next_line(self._buffer, line, last=self._last)
            if (
                isinstance(found, Record)
                and found.plain
                and found.end == after
                and len(found.fields) == len(self.names)
            ):
                return True
            line = after
        return False

    def _reject_line(self, code: str, scanned: int) -> None:
        """Reject the line that begins here, whatever its length, and go to the next one."""
        raw, end = b"", None
        while (end := next_line(self._buffer, self._start, last=self._last)) is None:
            if raw or len(self._buffer) - self._start > self._limits.record_bytes:
                raw = raw or self._buffer[self._start : self._start + 4096]
                self._buffer, self._start = (b"\r" if self._buffer.endswith(b"\r") else b""), 0
            self._refill()
        raw = raw or self._buffer[self._start : end]
        self._rescanned(scanned - end)
        self._builder.reject(self._line, code, raw)
        self._line += 1
        self._start = end
        self._recovering = True

    def _rescanned(self, size_bytes: int) -> None:
        if size_bytes <= 0:
            return
        self._rescanned_bytes += size_bytes + RESCAN_LEAST_BYTES
        if self._rescanned_bytes > RESCAN_MAX_BYTES:
            raise StepError(
                f"The file's quotes do not match up, over and over, up to line {self._line}. If its fields are not "
                "quoted, say quote null.",
                code="too_many_bad_quotes",
            )

    def _many(self) -> Iterator[Chunk]:
        """Read the well-formed records of the buffer at once."""
        window, base, line = self._buffer[self._start :], self._start, self._line
        found = fast.index(window, self.dialect)
        for first, after in fast.runs(found, self._limits.field_bytes):
            fields = self._cut(window, found, first, after)
            if fields is not None:
                yield from self._add_run(fields, found, slice(first, after), line)
                continue
            for at in range(first, after):
                self._start, self._line = base + int(found.starts[at]), line + int(found.lines[at])
                record = read_record(self._buffer, self._start, self.dialect, self._limits, last=True)
                if record is not None:
                    yield from self._take(record)
                if self._start < base + int(found.ends[at]):  # not all of it was taken: the rest begins elsewhere now
                    self._go_carefully()
                    return
        self._start, self._line = base + found.done, line + found.all_lines
        tail_bytes = len(window) - found.done
        if found.odd or tail_bytes > BLOCK_BYTES:
            self._go_carefully()
        elif self._last:
            self._careful = CAREFUL_MAX
        else:
            self._step = CAREFUL_MIN
            self._refill()

    def _go_carefully(self) -> None:
        self._careful, self._step = self._step, min(2 * self._step, CAREFUL_MAX)

    def _cut(self, window: bytes, found: fast.Index, first: int, after: int) -> list[pa.Array] | None:
        """The columns of a run of records; None when they must be read one by one."""
        width, wanted = int(found.widths[first]), len(self.names)
        longest = int(found.ends[first] - found.starts[first])
        if after - first < fast.RUN_MIN or longest > self._limits.field_bytes or not 0 <= width - wanted <= EXTRA_MAX:
            return None
        data = window[int(found.starts[first]) : int(found.ends[after - 1])]
        fields = fast.cut_up(data, width, self.dialect, self._config.null_tokens)
        if len(fields[0]) != after - first:
            raise RuntimeError(f"Arrow reads {len(fields[0])} records where {after - first} were found")
        if any(pc.any(pc.not_equal(extra, "")).as_py() for extra in fields[wanted:]):
            return None
        return fields[:wanted]

    def _add_run(self, fields: list[pa.Array], found: fast.Index, run: slice, line: int) -> Iterator[Chunk]:
        sizes = found.ends[run] - found.starts[run] + 1
        lines = found.lines[run] + line
        done = 0
        while done < len(sizes):
            room = self._builder.room(sizes[done:])
            part = slice(done, done + room)
            self._builder.add_run([column.slice(done, room) for column in fields], lines[part], sizes[part])
            done += room
            if self._builder.full:
                yield self._builder.take()
        self._recovering = False


def _filled(records: Sequence[Sequence[bytes]], place: int) -> bool:
    return any(len(record) > place and record[place] for record in records)


def _decodable(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
