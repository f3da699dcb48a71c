"""CSV: what comes out of files as people have them."""

import gzip
import random

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.config import ReadFileConfig
from services.ingest.csv_file import CsvReader
from services.steps.base import StepError
from tests.ingest.support import parts_of, read, refused, results, rows


def test_values_stay_text_and_the_report_says_what_they_look_like() -> None:
    found = read(
        b'\xef\xbb\xbfid,name,born,ok,score,when\n007,"Ann, B.",2020-01-31,true,1.50,2020-01-31T10:00:00Z\n8,,,,2,\n'
    )
    assert found.frame.records() == [
        {
            "id": "007",
            "name": "Ann, B.",
            "born": "2020-01-31",
            "ok": "true",
            "score": "1.50",
            "when": "2020-01-31T10:00:00Z",
        },
        {"id": "8", "name": None, "born": None, "ok": None, "score": "2", "when": None},
    ]
    report = found.report
    assert report is not None
    assert {name: field["kind"] for name, field in report["fields"].items()} == {
        "id": "text", "name": "text", "born": "date", "ok": "boolean", "score": "decimal", "when": "datetime",
    }  # fmt: skip
    assert report["fields"]["name"] == {"kind": "text", "null_share": 0.5, "longest_chars": 7}
    assert (report["rows"], report["rejects"], report["encoding"], report["byte_order_mark"]) == (2, 0, "utf-8", True)
    assert report["dialect"] == {"delimiter": ",", "quote": '"', "newline": "lf"}
    assert (report["size_bytes"], report["decompressed_bytes"], report["compression"]) == (94, 94, "none")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_are_found(delimiter: str, newline: str) -> None:
    lines = [delimiter.join(cells) for cells in (["a", "b", "c"], ["1,5", "x\ty", '"q""q"'], ["", '"l1\nl2"', "é"])]
    if delimiter in ",\t":
        lines[1] = delimiter.join(["1.5", "x y", '"q""q"'])
    found = read(newline.join(lines).encode())
    assert found.rejects == []
    assert found.report is not None
    assert found.report["dialect"]["delimiter"] == delimiter
    assert found.frame.records()[1] == {"a": None, "b": "l1\nl2", "c": "é"}
    assert found.frame.records()[0]["c"] == 'q"q'


def test_the_hint_that_excel_writes_is_understood() -> None:
    for hint in (b"sep=;\r\n", b"SEP=;\r\n", b'"sep=;"\r\n', b"\xef\xbb\xbfsep=;\n"):
        assert rows(hint + b"a;b\r\n1,2;3,4\r\n") == [{"a": "1,2", "b": "3,4"}]
        assert rows(hint + b"a;b\r\n1,2;3,4\r\n", delimiter=";") == [{"a": "1,2", "b": "3,4"}]


def test_a_hint_that_the_config_contradicts_is_no_hint() -> None:
    assert read(b"sep=;,b\n1,2\n", delimiter=",").frame.names == ("sep=;", "b")
    assert read(b"sep=;\n1\n", delimiter=",").frame.names == ("sep=;",)


def test_names_are_made_different_letter_case_aside() -> None:
    found = read(b" Email ,email,EMAIL,,email_2,\xef\xbb\xbfId\n1,2,3,4,5,6\n")
    assert found.frame.names == ("Email", "email_3", "EMAIL_4", "column_4", "email_2", "Id")
    assert found.report is not None
    assert found.report["header"] == [" Email ", "email", "EMAIL", "", "email_2", "\ufeffId"]
    assert found.report["names"] == list(found.frame.names)


def test_a_file_without_a_header() -> None:
    assert rows(b"1,2\n3,4\n", header="absent") == [
        {"column_1": "1", "column_2": "2"},
        {"column_1": "3", "column_2": "4"},
    ]
    assert rows(b"1,2\n", header=["x", "y"]) == [{"x": "1", "y": "2"}]


@pytest.mark.parametrize("copies", [1, 40])
def test_delimiters_at_the_ends_of_lines_make_no_column(copies: int) -> None:
    assert rows(b"a,b,\n" + b"1,2,\n" * copies) == [{"a": "1", "b": "2"}] * copies
    assert rows(b"a,b\n" + b"1,2,,\n" * copies) == [{"a": "1", "b": "2"}] * copies
    assert rows(b"a,b,\n" + b"1,2,x\n" * copies) == [{"a": "1", "b": "2", "column_3": "x"}] * copies


@pytest.mark.parametrize("copies", [1, 40])
def test_ragged_lines_are_rejects_with_line_number_and_raw_text(copies: int) -> None:
    data = b"a,b\n\n" + b'1,"x\ny"\n' * copies + b"2\n3,4,5\n" + b"6,7\n" * copies
    found = read(data)
    line = 3 + 2 * copies
    assert [(r.row, r.field, r.code, r.value) for r in found.rejects] == [
        (line, None, "too_few_fields", "2"),
        (line + 1, None, "too_many_fields", "3,4,5"),
    ]
    assert found.frame.row_ids() == [*range(copies), *range(copies + 2, 2 * copies + 2)]
    assert found.report is not None
    assert (found.report["rows"], found.report["rejects"]) == (2 * copies, 2)


@pytest.mark.parametrize("before,after", [(1, 1), (100, 100), (1, 60_000)])
def test_a_missing_quote_costs_its_own_line_only(before: int, after: int) -> None:
    good = b'1,"x, y",z\n'
    found = read(b"a,b,c\n" + good * before + b'2,"x, y,z\n' + good * after)
    assert [(r.row, r.code) for r in found.rejects] == [(before + 2, "bad_quote")]
    assert len(found.frame) == before + after
    assert set(found.frame.values("b")) == {"x, y"}


def test_a_missing_quote_before_a_long_unquoted_rest() -> None:
    found = read(b'a,b\n1,"x\n' + b"2,yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\n" * 150_000)
    assert refused(found.rejects) == [(2, "unclosed_quote")]
    assert len(found.frame) == 150_000


def test_a_missing_quote_whose_record_ends_by_chance_does_not_swallow_lines() -> None:
    found = read(b'a,b,c\n1,"x,y\n2,x,y\n3,5",y,z\n4,x,y\n')
    assert found.frame.values("a") == ["2", "4"]
    assert refused(found.rejects) == [(2, "unclosed_quote"), (4, "too_many_fields")]


def test_quotes_inside_unquoted_fields_are_characters() -> None:
    assert rows(b'a,b\n5" pipe,x"y"\n')[0] == {"a": '5" pipe', "b": 'x"y"'}


def test_quotes_can_be_turned_off() -> None:
    assert rows(b'a,b\n"x,y\n', quote=None) == [{"a": '"x', "b": "y"}]
    assert rows(b"a,b\n'x,1','it''s'\n", quote="'") == [{"a": "x,1", "b": "it's"}]


def test_null_tokens() -> None:
    assert rows(b'a,b,c\n,"",NULL\n') == [{"a": None, "b": None, "c": "NULL"}]
    assert rows(b'a,b,c\n,"",NULL\n', null_tokens=["NULL"]) == [{"a": "", "b": "", "c": None}]
    assert rows(b"a,b\n,x\n" * 1 + b",x\n" * 40, null_tokens=[])[-1] == {"a": "", "b": "x"}


def test_columns_are_converted_strictly_and_keep_their_line() -> None:
    data = b'i,n,d,b,t,j\n007,1.5,10.50,yes,2024-02-29,"{""k"":[1]}"\nx,1,1,no,2024-01-01,[]\n1,1,1,no,2023-02-29,[]\n'
    kinds = {"i": "integer", "n": "number", "d": "decimal", "b": "boolean", "t": "date", "j": "json"}
    found = read(data, columns=kinds)
    assert found.frame.records() == [{"i": 7, "n": 1.5, "d": "10.50", "b": True, "t": "2024-02-29", "j": {"k": [1]}}]
    assert [(r.row, r.field, r.code, r.value) for r in found.rejects] == [
        (3, "i", "not_integer", "x"),
        (4, "t", "not_date", "2023-02-29"),
    ]
    assert found.frame.row_ids() == [0]
    with pytest.raises(StepError, match="'elsewhere'; there are: 'a', 'b'") as caught:
        read(b"a,b\n1,2\n", columns={"elsewhere": "text"})
    assert caught.value.code == "unknown_field"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_encodings_are_found_and_recorded(encoding: str) -> None:
    data = ("name,city\n" + "Zoë,Köln\n" * 300_000).encode(encoding)
    found = read(data)
    assert found.report is not None
    assert found.report["encoding"] == encoding.replace("utf-16", "utf-16-le", 1).replace("-le-", "-")[:9]
    assert found.frame.records()[299_999] == {"name": "Zoë", "city": "Köln"}


def test_a_late_character_of_windows_1252_is_understood_too() -> None:
    found = read(b"a,b\n" + b"1,2\n" * 1_000_000 + "é,€\n".encode("cp1252") * 20)
    assert found.report is not None
    assert found.report["encoding"] == "cp1252"
    assert found.frame.records()[-1] == {"a": "é", "b": "€"}


def test_bytes_that_are_no_text_make_rejects() -> None:
    good = "ä,ö\n".encode() * 50
    found = read(b"a,b\n" + good + b"x\xff,y\n" + good)
    assert [(r.row, r.code, r.value) for r in found.rejects] == [(52, "undecodable", "x\\xff,y")]
    assert len(found.frame) == 100
    undefined = read(b"a,b\nx\x81,y\n\xe9,y\n", encoding="cp1252")
    assert refused(undefined.rejects) == [(2, "undecodable")]
    assert undefined.frame.records() == [{"a": "é", "b": "y"}]
    lone = read("a,b\n\ud800,y\nx,y\n".encode("utf-16-le", "surrogatepass"), encoding="utf-16-le")
    assert refused(lone.rejects) == [(2, "undecodable")]


def test_zero_bytes_are_characters() -> None:
    assert rows(b"a,b\nx\x00y,z\n" + b"1,2\n" * 100)[0] == {"a": "x\x00y", "b": "z"}


def test_only_a_header() -> None:
    found = read(b"a,b\n")
    assert (len(found.frame), found.frame.names) == (0, ("a", "b"))
    assert found.report is not None
    assert found.report["fields"]["a"] == {"kind": "empty", "null_share": 0.0, "longest_chars": 0}


def test_cells_of_a_megabyte_come_through_and_longer_ones_are_rejects() -> None:
    cell, longer = b"x" * 1_048_576, b"y" * 1_048_577
    data = b"a,b\n1," + cell + b'\n2,"' + cell + b'"\n3,' + longer + b'\n4,"' + longer + b'"\n5,z\n'
    found = read(data)
    assert found.frame.values("a") == ["1", "2", "5"]
    assert found.frame.values("b")[1] == cell.decode()
    assert refused(found.rejects) == [(4, "field_too_long"), (5, "field_too_long")]
    assert all(len(r.value) == 1000 for r in found.rejects)


def test_a_line_beyond_the_limit_is_skipped() -> None:
    found = read(b"a,b\n1,2\n" + b"x" * 50_000_000 + b"\n3,4\n")
    assert found.frame.values("a") == ["1", "3"]
    assert refused(found.rejects) == [(3, "record_too_long")]


def test_chunks_end_at_fixed_numbers_of_records_whatever_the_parts() -> None:
    data = b"a,b\n" + b"".join(b"%d,x\n" % n if n % 7 else b"%d\n" % n for n in range(60_000))
    whole = results([data])
    assert [len(r.frame) + len(r.rejects) for r in whole] == [25_000, 25_000, 10_000]
    for size in (1, 4093, 1_000_000):
        again = results(parts_of(data[:200_000] if size == 1 else data, size))
        expected = results([data[:200_000]]) if size == 1 else whole
        assert [(r.frame.records(), r.frame.row_ids(), r.rejects, r.report) for r in again] == [
            (r.frame.records(), r.frame.row_ids(), r.rejects, r.report) for r in expected
        ]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_files(compress) -> None:
    data = b"a,b\n" + b"1,2\n" * 1000
    found = read(compress(data) + compress(b"3,4\n"))
    assert len(found.frame) == 1001
    assert found.report is not None
    assert found.report["decompressed_bytes"] == len(data) + 4
    for cut in (20, 30):
        with pytest.raises(StepError) as caught:
            read(compress(data)[:-3] if cut == 20 else compress(data) + b"garbage")
        assert caught.value.code == "damaged_file"


PIECES = [
    "a",
    "é",
    ",",
    "\n",
    '"',
    '""',
    "\r\n",
    "\r",
    "x,y\n",
    '"q","r"\n',
    '"l\nm",n\n',
    "\x00",
    "\ufeff",
    " ",
    "1,2,\n",
]


def outcome(data: bytes, *, careful: bool, **config) -> object:
    try:
        # Blocks far smaller than the reader's own, so that records lie across them.
        reader = CsvReader(parts_of(data, 64), ReadFileConfig(**config), careful_only=careful)
        chunks = list(reader.chunks())
    except StepError as error:
        return error.code, str(error)
    return [
        (
            {name: column.values() for name, column in c.columns.items()},
            c.ordinals.tolist(),
            c.places.tolist(),
            c.rejects,
        )
        for c in chunks
    ]


@settings(derandomize=True, deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_fast_way_gives_what_the_careful_way_gives(data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(PIECES), max_size=60)))
    regular = data.draw(st.sampled_from(["x,y\n", '"x","y\nz"\r\n', "1,2,\n", "x\n"])) * data.draw(
        st.sampled_from([0, 20, 40])
    )
    body = ("h,i\n" + regular + text + regular).encode() + data.draw(st.sampled_from([b"", b"\xff,1\n", b"\xc3"]))
    config = data.draw(
        st.sampled_from([{}, {"null_tokens": []}, {"quote": None}, {"max_field_bytes": 8}, {"header": "absent"}])
    )
    assert outcome(body, careful=False, **config) == outcome(body, careful=True, **config)


def test_the_two_ways_agree_on_long_seeded_files() -> None:
    source = random.Random(4)
    for _ in range(60):
        lines = [
            source.choice(
                ["a,b\n", '"a","b"\n', '"a\nb",c\r\n', "a\n", '5" x,y\n', '"bad,x\n', "é,ü\n", "a,b,\n", "\n"]
            )
            for _ in range(400)
        ]
        body = "".join(["h,i\n", *sorted(lines[:200]), *lines[200:]]).encode()
        assert outcome(body, careful=False) == outcome(body, careful=True)
