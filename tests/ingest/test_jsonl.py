"""JSON lines."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.steps.base import StepError
from tests.ingest.support import parts_of, read, refused, results, rows


def test_nested_values_come_back_as_they_went_in() -> None:
    records = [
        {"id": 1, "tags": ["a", {"k": None}], "address": {"city": "Köln", "geo": [1.5, 2]}, "Id": True},
        {"id": 2**63 - 1, "tags": None, "extra": "x\u0000"},
        {},
    ]
    data = "\n".join(json.dumps(record) for record in records).encode()
    found = read(data)
    assert found.frame.records() == records
    assert found.frame.names == ("id", "tags", "address", "Id", "extra")
    assert found.report is not None
    assert found.report["format"] == "jsonl"
    assert found.report["fields"]["tags"] == {"kind": "json", "null_share": 0.666667, "longest_chars": 0}


def test_lines_that_are_no_records_are_rejects() -> None:
    bad = [
        b"[1]", b"7", b"{", b'{"a":NaN}', b'{"a":1e999}', b'{"a":123456789012345678901234567890}', b'{"a":"\\ud800"}',
        b'{"a":1,"a":2}', b'{"a":"\xff"}', b'{"a":' * 300 + b"1" + b"}" * 300,
    ]  # fmt: skip
    found = read(b'{"a":0}\n\n' + b"\r\n".join(bad) + b'\n{"a":1}')
    assert refused(found.rejects) == [
        (3, "not_object"), (4, "not_object"), (5, "invalid_json"), (6, "invalid_json"), (7, "invalid_json"),
        (8, "invalid_json"), (9, "invalid_json"), (10, "invalid_json"), (11, "undecodable"), (12, "invalid_json"),
    ]  # fmt: skip
    assert found.rejects[0].value == "[1]"
    assert found.frame.records() == [{"a": 0}, {"a": 1}]
    assert found.frame.row_ids() == [0, 11]


def test_one_json_object_over_several_lines_is_explained() -> None:
    for config in ({}, {"format": "jsonl"}):
        with pytest.raises(StepError) as caught:
            results(b'{\n  "a": 1\n}\n', **config)
        assert caught.value.code == "json_object"


def test_a_json_array_is_explained() -> None:
    for data in (b'[{"a":1},{"a":2}]', b'[\n{"a":1}\n]'):
        with pytest.raises(StepError, match="jq") as caught:
            read(data)
        assert caught.value.code == "json_array"


def test_columns_are_converted_and_missing_fields_stay_missing() -> None:
    found = read(b'{"a":"7","b":1}\n{"b":2}\n{"a":null}\n{"a":"x"}\n', columns={"a": "integer", "b": "text"})
    assert found.frame.records() == [{"a": 7, "b": "1"}, {"b": "2"}, {"a": None}]
    assert [(r.row, r.field, r.code, r.value) for r in found.rejects] == [(4, "a", "not_integer", "x")]


def test_a_line_beyond_the_limit_is_a_reject_that_is_not_held() -> None:
    found = read(b'{"a":1}\n{"a":"' + b"x" * 40_000_000 + b'"}\n{"a":2}\n')
    assert refused(found.rejects) == [(2, "record_too_long")]
    assert found.frame.values("a") == [1, 2]


def test_too_many_different_fields_are_refused() -> None:
    data = b"".join(b'{"k%d":1}\n' % n for n in range(3000))
    with pytest.raises(StepError, match="line 2001") as caught:
        read(data)
    assert caught.value.code == "too_many_columns"


def test_chunks_do_not_depend_on_the_parts() -> None:
    data = b"".join(b'{"n":%d}\n' % n for n in range(60_000))
    whole = results([data])
    assert [len(result.frame) for result in whole] == [25_000, 25_000, 10_000]
    assert [r.frame.records() for r in results(parts_of(data, 777))] == [r.frame.records() for r in whole]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), min_size=1, max_size=6), st.booleans())
def test_any_records_come_back(records, ascii_only) -> None:
    data = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records)
    assert rows(data.encode(), format="jsonl") == records
