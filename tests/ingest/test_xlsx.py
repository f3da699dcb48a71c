"""XLSX."""

import pytest

from services.steps.base import StepError
from tests.ingest.support import failing, number, read, row, rows, text, xlsx


def test_cells_become_json_values() -> None:
    found = read(
        xlsx(
            row(1)
            + row(
                3,
                text("B3", "name"),
                text("C3", "Name"),
                text("D3", "day"),
                text("E3", "at"),
                text("F3", "share"),
                text("G3", "ok"),
            )
            + row(
                4,
                text("B4", "Zoë"),
                number("C4", "7"),
                number("D4", "45000", 1),
                number("E4", "45000.5", 2),
                number("F4", "0.1"),
                '<c r="G4" t="b"><v>1</v></c>',
            )
            + row(6, failing("B6"), text("C6", "007"), number("H6", "1"))
        )
    )
    assert found.frame.records() == [
        {
            "name": "Zoë",
            "Name_2": 7,
            "day": "2023-03-15",
            "at": "2023-03-15T12:00:00",
            "share": 0.1,
            "ok": True,
            "column_7": None,
        },
        {"name": None, "Name_2": "007", "day": None, "at": None, "share": None, "ok": None, "column_7": 1},
    ]
    assert found.report is not None
    assert found.report["error_cells"] == {"count": 1, "first": ["B6: #N/A"]}
    assert found.report["sheet"] == "People"
    assert found.report["fields"]["Name_2"]["kind"] == "mixed"


def test_sheets_are_chosen_by_name_or_number() -> None:
    data = xlsx(row(1, text("A1", "a")) + row(2, text("A2", "x")))
    assert rows(data, sheet="People") == rows(data, sheet=0) == [{"a": "x"}]
    for sheet in ("Other", 1):
        with pytest.raises(StepError, match="it has 'People'") as caught:
            read(data, sheet=sheet)
        assert caught.value.code == "unknown_sheet"


def test_rejects_name_the_row_of_the_sheet() -> None:
    data = xlsx(row(2, text("A2", "a")) + row(5, text("A5", "x")) + row(6, number("A6", "3")))
    found = read(data, columns={"a": "integer"})
    assert [(r.row, r.field, r.code, r.value) for r in found.rejects] == [(5, "a", "not_integer", "x")]
    assert found.frame.records() == [{"a": 3}]


def test_a_million_empty_rows_are_no_records() -> None:
    empty = "".join(f'<row r="{n}"><c r="A{n}" s="1"/></row>' for n in range(3, 1_000_003))
    found = read(xlsx(row(1, text("A1", "a")) + row(2, number("A2", "1")) + empty), max_ratio=100_000)
    assert found.frame.records() == [{"a": 1}]


@pytest.mark.parametrize(
    "sheet",
    [
        row(1, number("A1", "1")) + row(1_048_576, number("XFD1048576", "1")),
        '<row r="1"><c><v>1</v></c></row><row r="1048576">' + "<c><v>1</v></c>" * 16_384 + "</row>",
        "<row><c r='A1'><v>1</v></c></row><row r = '1048576'><c s='0' r = \"XFD1048576\"><v>1</v></c></row>",
    ],
)
def test_two_cells_far_apart_are_refused_before_they_are_held(sheet: str) -> None:
    with pytest.raises(StepError, match="max_cells") as caught:
        read(xlsx(sheet))
    assert caught.value.code == "too_many_cells"


def test_what_unpacks_too_large_is_refused() -> None:
    with pytest.raises(StepError, match="max_spool_bytes") as caught:
        read(xlsx(row(1, text("A1", "x" * 3_000_000))), max_spool_bytes=1_000_000)
    assert caught.value.code == "unpacks_too_large"


@pytest.mark.parametrize("cut", [200, 1000, -1, -30])
def test_a_file_that_is_cut_off(cut: int) -> None:
    with pytest.raises(StepError) as caught:
        read(xlsx(row(1, text("A1", "a")) + row(2, text("A2", "b")))[:cut])
    assert caught.value.code == "damaged_file"


def test_damaged_xml() -> None:
    with pytest.raises(StepError) as caught:
        read(xlsx(row(1, text("A1", "a")) + "<row r='2'><c r='A2'></row><"))
    assert caught.value.code == "damaged_file"


def test_an_empty_sheet() -> None:
    with pytest.raises(StepError) as caught:
        read(xlsx(""))
    assert caught.value.code == "empty_file"
