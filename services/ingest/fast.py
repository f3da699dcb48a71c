"""Many records of well-formed delimited text at once: numpy finds where they are, Arrow cuts them up.

What is found here is what `records.read_record` finds; whatever looks odd is left to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from services.ingest.chunks import Numbers
from services.ingest.records import CR, LF, Dialect

RUN_MIN = 16
"""Runs of fewer records than this are read one by one: Arrow costs more to call."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Index:
    """Records in a window of bytes, blank lines left out.

    `starts` and `ends` bound them (without line ends), `widths` are their fields, `lines` the line ends before them.
    `done` is the end of the last record, line end included; `odd`: what follows needs a careful look, rather than
    more bytes. `all_lines` are the line ends up to `done`.
    """

    starts: Numbers
    ends: Numbers
    widths: Numbers
    lines: Numbers
    done: int
    all_lines: int
    odd: bool


def index(window: bytes, dialect: Dialect) -> Index:
    """The well-formed records that the window begins with. It begins with a record."""
    view = np.frombuffer(window, np.uint8)
    breaks, crlf = _line_ends(view, b"\r" in window)
    quotes = _where(view, dialect.quote) if dialect.quote is not None and dialect.quote in window else None
    bad = len(window) if window.isascii() else _undecodable(window)
    outer, number = breaks, np.arange(len(breaks), dtype=np.int64)
    if quotes is not None:
        bad = min(bad, _misplaced(view, quotes, dialect))
        outside = np.searchsorted(quotes, breaks) % 2 == 0
        outer, number = breaks[outside], number[outside]
    kept = int(np.searchsorted(outer, bad))  # records that end before what is odd
    outer, number = outer[:kept], number[:kept]
    if not kept:
        return Index(number, number, number, number, 0, 0, bad < len(window))
    starts = np.concatenate([[0], outer[:-1] + 1])
    ends = outer - np.isin(outer, crlf, assume_unique=True) if len(crlf) else outer
    lines = np.concatenate([[0], number[:-1] + 1])
    delimiters = _where(view[: int(outer[-1]) + 1], dialect.delimiter)
    if quotes is not None:
        delimiters = delimiters[np.searchsorted(quotes, delimiters) % 2 == 0]
    before = np.searchsorted(delimiters, outer)
    widths = np.diff(before, prepend=0) + 1
    written = ends > starts
    if not written.all():
        starts, ends, widths, lines = starts[written], ends[written], widths[written], lines[written]
    return Index(starts, ends, widths, lines, int(outer[-1]) + 1, int(number[-1]) + 1, bad < len(window))


def runs(found: Index, long_bytes: int) -> Iterator[tuple[int, int]]:
    """Records next to each other that have the same width, as [first, after the last); one longer than `long_bytes`
    is a run of its own."""
    if not len(found.starts):
        return
    long = found.ends - found.starts > long_bytes
    change = (np.diff(found.widths) != 0) | long[1:] | long[:-1]
    cuts = [0, *(np.flatnonzero(change) + 1).tolist(), len(found.starts)]
    yield from pairwise(cuts)


def cut_up(data: bytes, width: int, dialect: Dialect, null_tokens: list[str]) -> list[pa.Array]:
    """The fields of well-formed records of `width` fields, as string columns; the null tokens are null."""
    names = [str(number) for number in range(width)]
    if data.startswith(BYTE_ORDER_MARK):
        data = b"\n" + data  # Arrow would take it off, and leaves out blank lines
    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter.decode(),
            quote_char=dialect.quote.decode() if dialect.quote is not None else False,
            double_quote=dialect.quote is not None,
            newlines_in_values=dialect.quote is not None and dialect.quote in data,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(names, pa.string()),
            null_values=null_tokens,
            strings_can_be_null=bool(null_tokens),
        ),
    )
    return [column.combine_chunks() for column in table.itercolumns()]


def _where(view: npt.NDArray[np.uint8], byte: bytes) -> Numbers:
    return np.flatnonzero(view == byte[0])


def _line_ends(view: npt.NDArray[np.uint8], has_cr: bool) -> tuple[Numbers, Numbers]:
    """The last byte of each line end, and those of CRLF among them. A CR that ends the window is none yet."""
    feeds = np.flatnonzero(view == LF)
    if not has_cr:
        return feeds, feeds[:0]
    returns = np.flatnonzero(view == CR)
    returns = returns[returns + 1 < len(view)]
    paired = view[returns + 1] == LF
    lone = returns[~paired]
    ends = np.sort(np.concatenate([feeds, lone])) if len(lone) else feeds
    return ends, returns[paired] + 1


def _undecodable(window: bytes) -> int:
    """The first byte that is no UTF-8, but for a character that the window's end cuts."""
    try:
        window.decode()
    except UnicodeDecodeError as error:
        cut = error.end == len(window) and error.reason == "unexpected end of data"
        return len(window) if cut else error.start
    return len(window)


def _misplaced(view: npt.NDArray[np.uint8], quotes: Numbers, dialect: Dialect) -> int:
    """The first quote that opens no field, closes none and is not one of a pair, if all before it are in place."""
    separators = (dialect.delimiter[0], LF, CR)
    opening, closing = quotes[0::2], quotes[1::2]
    before = view[np.maximum(opening - 1, 0)]
    after = view[np.minimum(closing + 1, len(view) - 1)]
    quote = view[quotes[0]] if len(quotes) else 0
    opens = (opening == 0) | (before == quote)
    closes = (closing == len(view) - 1) | (after == quote)
    for separator in separators:
        opens |= before == separator
        closes |= after == separator
    first_open = opening[~opens][:1].tolist()
    first_close = closing[~closes][:1].tolist()
    return int(min([*first_open, *first_close, len(view)]))
