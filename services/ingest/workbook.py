"""What an XLSX file unpacks to, found out before a library that holds it all is given it.

Such a file is a ZIP archive of XML. Its own word for sizes is not taken: each entry is inflated here, bounded and block
by block. And a sheet is held as a rectangle, which two cells in opposite corners would make 17 billion cells large.
"""

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final
from xml.etree import ElementTree

from services.ingest.config import MIB, ReadFileConfig
from services.steps.base import StepError

ENTRIES_MAX: Final = 10_000
INDEX_MAX_BYTES: Final = 16 * MIB
LOCAL_HEADER_BYTES: Final = 30
OVERLAP_BYTES: Final = 512
"""Looked at again with the next block, so that no tag is missed between the two."""
ERRORS_SHOWN: Final = 20

_CELL: Final = re.compile(rb"""<(?:\w+:)?c\s(?:[^>]*?\s)?r\s*=\s*["']\s*([A-Za-z]{1,7})([0-9]{1,10})""")
_ROW: Final = re.compile(rb"""<(?:\w+:)?row\s(?:[^>]*?\s)?r\s*=\s*["']\s*([0-9]{1,10})""")
_ROW_TAG: Final = re.compile(rb"<(?:\w+:)?row[\s/>]")
_TAG: Final = re.compile(rb"<(?:\w+:)?c[\s/>]")
_ERROR: Final = re.compile(
    rb"""<(?:\w+:)?c\s+r="([A-Z]{1,3}[0-9]{1,7})"[^>]*?\st="e"[^>]*>(?:<f[^>]*?(?:/>|>[^<]*</f>))?<v>([^<]{1,20})</v>"""
)
_OFFICE: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


@dataclass(slots=True)
class Extent:
    """How large the rectangle of a sheet's cells is, and which of its cells are errors, such as `#N/A`."""

    rows: int = 0
    columns: int = 0
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)
    _unnamed_rows: int = 0
    _in_row: int = 0
    _error_seen: str = ""

    @property
    def height(self) -> int:
        """Rows, those without a number of their own among them."""
        return self.rows + self._unnamed_rows

    def see(self, block: bytes) -> None:
        """Take in a block of the sheet's XML, which begins with the last OVERLAP_BYTES of the one before."""
        cells = _CELL.findall(block)
        if cells:
            self.rows = max(self.rows, max(int(row) for _, row in cells))
            self.columns = max(self.columns, max(map(_column_number, {letters for letters, _ in cells})))
        rows = _ROW.findall(block)
        self.rows = max([self.rows, *map(int, rows)])
        self._unnamed_rows += max(0, len(_ROW_TAG.findall(block)) - len(rows))
        tags = len(_TAG.findall(block))
        if tags != len(cells):  # cells without a reference stand next to the one before
            pieces = [len(_TAG.findall(piece)) for piece in _ROW_TAG.split(block)]
            self._in_row = self._in_row + pieces[0] if len(pieces) == 1 else pieces[-1]
            self.columns = max([self.columns, *pieces, self._in_row])
        for reference, error in _ERROR.findall(block):
            shown = f"{reference.decode()}: {error.decode('utf-8', 'replace')}"
            if shown == self._error_seen:
                continue  # in the overlap
            self.errors += 1
            self._error_seen = shown
            if len(self.first_errors) < ERRORS_SHOWN:
                self.first_errors.append(shown)


def inspect(file: IO[bytes], config: ReadFileConfig) -> dict[str, Extent]:
    """Each XML entry's extent, by its path. Raises StepError for what is damaged, no workbook, or too large."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise damaged(error) from error
    if len(entries) > ENTRIES_MAX:
        raise StepError(f"The XLSX file has {len(entries)} entries, at most {ENTRIES_MAX}.", code="unpacks_too_large")
    if not any(entry.filename.lower() == "xl/workbook.xml" for entry in entries):
        raise StepError(
            "The file is a ZIP archive and no XLSX workbook. Upload what is in it.", code="unsupported_format"
        )
    left = config.max_spool_bytes
    extents: dict[str, Extent] = {}
    for entry in entries:
        extent, tail = Extent(), b""
        sheet = "worksheets/" in entry.filename.lower()
        for block in _inflated(file, entry):
            left -= len(block)
            if left < 0:
                raise StepError(
                    f"The XLSX file unpacks to more than {config.max_spool_bytes} bytes (max_spool_bytes).",
                    code="unpacks_too_large",
                )
            if sheet:
                extent.see(tail + block)
                tail = block[-OVERLAP_BYTES:]
        if extent.height * extent.columns > config.max_cells:
            raise StepError(
                f"{entry.filename} reaches to row {extent.height} and column {extent.columns}, which is more than "
                f"{config.max_cells} cells (max_cells). Delete the empty rows and columns, or save it as CSV.",
                code="too_many_cells",
            )
        extents[entry.filename] = extent
    return extents


def _inflated(file: IO[bytes], entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The entry's content, block by block, whatever size it says that it has."""
    file.seek(entry.header_offset)
    head = file.read(LOCAL_HEADER_BYTES)
    if len(head) < LOCAL_HEADER_BYTES or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise damaged(f"its entry {entry.filename[:100]!r}")
    file.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), 1)
    left = entry.compress_size
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    while left > 0:
        data = file.read(min(left, MIB // 4))
        if not data:
            raise damaged(f"its entry {entry.filename[:100]!r} is cut off")
        left -= len(data)
        if entry.compress_type == zipfile.ZIP_STORED:
            yield data
            continue
        try:
            while data:
                yield inflate.decompress(data, MIB)
                data = inflate.unconsumed_tail
        except zlib.error as error:
            raise damaged(error) from error


def sheet_paths(file: IO[bytes]) -> list[str]:
    """The sheets' paths in the archive, in the workbook's order; `` for one that cannot be found."""
    try:
        with zipfile.ZipFile(file) as archive:
            book = _small_xml(archive, "xl/workbook.xml")
            links = _small_xml(archive, "xl/_rels/workbook.xml.rels")
    except (zipfile.BadZipFile, KeyError, OSError, ElementTree.ParseError, zlib.error, ValueError) as error:
        raise damaged(error) from error
    targets = {link.get("Id"): link.get("Target", "") for link in links}
    named = [sheet.get(f"{{{_OFFICE}}}id") for sheet in book.iter() if sheet.tag.endswith("}sheet")]
    return [posixpath.normpath(posixpath.join("/xl", targets.get(link, "")))[1:] for link in named]


def _small_xml(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    with archive.open(name) as entry:
        data = entry.read(INDEX_MAX_BYTES + 1)
    if len(data) > INDEX_MAX_BYTES:
        raise ValueError(f"{name} is too large")
    return ElementTree.fromstring(data)


def damaged(error: object) -> StepError:
    """The error for a workbook that cannot be read."""
    return StepError(
        f"The XLSX file is damaged or cut off ({str(error)[:300]}). Save and upload it again.", code="damaged_file"
    )


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = 26 * number + letter - 64
    return number
