"""Files for the tests, and what the reader makes of them."""

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from services.ingest.config import ReadFileConfig
from services.ingest.step import read_file
from services.steps.base import Reject, Result, one_result
from services.steps.frame import ColumnFrame


def parts_of(data: bytes, size: int = 100_000) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def results(data: bytes | Iterable[bytes], **config: Any) -> list[Result]:
    parts = parts_of(data) if isinstance(data, bytes) else iter(data)
    return list(read_file(parts, ReadFileConfig.model_validate(config)))


def read(data: bytes | Iterable[bytes], **config: Any) -> Result:
    found = results(data, **config)
    assert found[-1].report is not None
    assert all(result.report is None for result in found[:-1])
    return one_result(found, ColumnFrame({}, found[0].frame.ids))  # type: ignore[attr-defined]


def rows(data: bytes, **config: Any) -> list[dict[str, Any]]:
    found = read(data, **config)
    assert found.rejects == []
    return found.frame.records()


def refused(rejects: Sequence[Reject]) -> list[tuple[int, str]]:
    return [(reject.row, reject.code) for reject in rejects]


CONTENT_TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Override PartName="/xl/workbook.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>'
)
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELS = "http://schemas.openxmlformats.org/package/2006/relationships"


def xlsx(sheet_data: str | bytes, *, name: str = "People") -> bytes:
    """A workbook of one sheet with this content of <sheetData>; style 1 is a date, style 2 a date and time."""
    data = sheet_data.encode() if isinstance(sheet_data, str) else sheet_data
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", CONTENT_TYPES)
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{RELS}"><Relationship Id="r1" Type="{OFFICE}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets><sheet name="{name}" sheetId="1" r:id="rId1"/>'
            "</sheets></workbook>",
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{RELS}"><Relationship Id="rId1" Type="{OFFICE}/worksheet" '
            f'Target="worksheets/sheet1.xml"/><Relationship Id="rId2" Type="{OFFICE}/styles" Target="styles.xml"/>'
            "</Relationships>",
        )
        archive.writestr(
            "xl/styles.xml",
            f'<styleSheet xmlns="{MAIN}"><cellXfs count="3"><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="22"/>'
            "</cellXfs></styleSheet>",
        )
        head = f'<?xml version="1.0" encoding="UTF-8"?><worksheet xmlns="{MAIN}"><sheetData>'
        archive.writestr("xl/worksheets/sheet1.xml", head.encode() + data + b"</sheetData></worksheet>")
    return out.getvalue()


def row(number: int, *cells: str) -> str:
    """A row of a sheet: each cell is its XML without reference, such as `<c><v>1</v></c>`."""
    return f'<row r="{number}">' + "".join(cells) + "</row>"


def text(reference: str, value: str) -> str:
    return f'<c r="{reference}" t="inlineStr"><is><t>{value}</t></is></c>'


def number(reference: str, value: str, style: int = 0) -> str:
    return f'<c r="{reference}" s="{style}"><v>{value}</v></c>'


def failing(reference: str, error: str = "#N/A") -> str:
    return f'<c r="{reference}" t="e"><v>{error}</v></c>'
