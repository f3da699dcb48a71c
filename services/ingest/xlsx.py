"""XLSX: one sheet as rows; the first row with anything in it is the header."""

import tempfile
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import islice
from typing import Any

import numpy as np
from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, SheetTypeEnum

from events.columns import INTEGER_MAX, INTEGER_MIN, column_of
from services.ingest.bytestream import ByteStream
from services.ingest.chunks import Chunk
from services.ingest.config import CHUNK_ROWS, ReadFileConfig
from services.ingest.header import HEADER_SHOWN_CHARS, field_names
from services.ingest.workbook import damaged, inspect, sheet_paths
from services.steps.base import StepError

SHEETS_SHOWN = 20


class XlsxReader:
    """Reads one sheet. Dates are ISO text, whole numbers integers, error cells null (the report names them); rows
    without any value are no records."""

    def __init__(self, stream: ByteStream, config: ReadFileConfig, told: dict[str, Any]) -> None:
        """Unpack the file, check it, and read the header. Raises StepError."""
        self._config = config
        self._told = told
        self._null_tokens = frozenset(config.null_tokens)
        with tempfile.TemporaryFile() as file:
            stream.spool(file, config.max_spool_bytes)
            extents = inspect(file, config)
            paths = sheet_paths(file)
            file.seek(0)
            try:
                with CalamineWorkbook.from_filelike(file) as book:
                    number = self._chosen(book)
                    sheet = book.get_sheet_by_index(number)
            except (CalamineError, OSError, ValueError) as error:
                raise damaged(error) from error
        extent = extents.get(paths[number]) if number < len(paths) else None
        if extent is not None and extent.errors:
            told["error_cells"] = {"count": extent.errors, "first": extent.first_errors}
        self._rows = self._with_values(sheet)
        self.names = self._names(sheet)
        config.require(self.names)
        told["names"] = self.names

    def chunks(self) -> Iterator[Chunk]:
        """All records, in chunks; at least one."""
        first, made = 0, False
        while rows := list(islice(self._rows, CHUNK_ROWS)):
            columns = {name: column_of([cells[at] for _, cells in rows]) for at, name in enumerate(self.names)}
            places = np.array([place for place, _ in rows], np.int64)
            yield Chunk(columns, np.arange(first, first + len(rows)), places)
            first, made = first + len(rows), True
        if not made:
            none = np.zeros(0, np.int64)
            yield Chunk({name: column_of([]) for name in self.names}, none, none)

    def _chosen(self, book: CalamineWorkbook) -> int:
        """The number of the sheet to read."""
        names, wanted = book.sheet_names, self._config.sheet
        self._told["sheets"] = names[:SHEETS_SHOWN]
        found: int | None = None
        if wanted is None:
            kinds = (about.typ for about in book.sheets_metadata)
            found = next((at for at, kind in enumerate(kinds) if kind == SheetTypeEnum.WorkSheet), None)
        elif isinstance(wanted, int):
            found = wanted if wanted < len(names) else None
        elif wanted in names:
            found = names.index(wanted)
        if found is None:
            raise StepError(
                f"The workbook has no sheet {wanted!r}; it has {', '.join(map(repr, names[:SHEETS_SHOWN])) or 'none'}.",
                code="unknown_sheet",
            )
        self._told["sheet"] = names[found]
        return found

    def _names(self, sheet: CalamineSheet) -> list[str]:
        wanted = self._config.header
        if isinstance(wanted, list):
            width = 0 if sheet.start is None or sheet.end is None else sheet.end[1] - sheet.start[1] + 1
            if width > len(wanted):
                raise StepError(
                    f"The sheet has {width} columns, and the config's header {len(wanted)} names.", code="bad_header"
                )
            self._width = len(wanted)
            return field_names(wanted, self._config.max_columns)
        if sheet.start is None or sheet.end is None:
            raise StepError("The sheet is empty.", code="empty_file")
        self._width = sheet.end[1] - sheet.start[1] + 1
        if wanted == "absent":
            return field_names([None] * self._width, self._config.max_columns)
        _, first = next(self._rows)
        header = [None if cell is None else str(cell) for cell in first]
        self._told["header"] = [(name or "")[:HEADER_SHOWN_CHARS] for name in header]
        return field_names(header, self._config.max_columns)

    def _with_values(self, sheet: CalamineSheet) -> Iterator[tuple[int, list[Any]]]:
        """Each row that has a value, with its number in the sheet; calamine begins at the first column that has any."""
        blank = 0
        for place, cells in enumerate(sheet.iter_rows(), 1):
            values = [self._value(cell) for cell in cells]
            if any(value is not None for value in values):
                yield place, values + [None] * (self._width - len(values))
            else:
                blank += 1
        self._told["blank_rows"] = blank

    def _value(self, cell: Any) -> Any:
        if isinstance(cell, str):
            return None if not cell or cell in self._null_tokens else cell
        if isinstance(cell, float):
            return int(cell) if cell.is_integer() and INTEGER_MIN <= cell <= INTEGER_MAX - 1024 else _finite(cell)
        if isinstance(cell, datetime | date | time):
            return cell.isoformat()
        if isinstance(cell, timedelta):
            return _clock(cell)
        return cell


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _clock(value: timedelta) -> str:
    """A duration as a sheet shows it: 30:05:00."""
    seconds = round(value.total_seconds())
    sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
    return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
