"""Frames: what is worked out in columns is what is worked out row by row."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from events.columns import ABSENT
from services.steps.frame import ColumnFrame, RecordFrame, concatenated, distinct_rows, gathered

texts = st.sampled_from(["", "a", "b", "é", "a b"])
values = st.none() | texts | st.integers(-2, 2) | st.lists(texts, max_size=1)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.fixed_dictionaries({}, optional={"x": texts | st.none(), "y": texts, "z": values}), max_size=12))
def test_combinations_are_the_same_in_columns_and_in_records(records: list[dict[str, Any]]) -> None:
    frames = [RecordFrame(records), ColumnFrame.of_records(records)]
    for names in (["x"], ["x", "y"], ["y", "x", "y"], ["x", "y", "z"]):
        expected = [tuple(record.get(name) for name in names) for record in records]
        for frame in frames:
            combined = distinct_rows(frame, names)
            assert [combined.values[code] for code in combined.code_list()] == expected
        # numbered in the order of their first appearance, where all is text
        if "z" not in names:
            codes = distinct_rows(frames[1], names).code_list()
            assert list(dict.fromkeys(codes)) == list(range(len(set(codes))))


def test_a_column_that_did_not_change_stays_the_same_object() -> None:
    frame = ColumnFrame.of_records([{"a": "x", "b": 1, "c": -0.0, "d": [1]}, {"a": None, "b": 2, "c": 1.5}])
    again = frame.replace({"a": ["x", None], "b": [1, 2], "c": [0.0, 1.5]})
    assert again.columns["a"] is frame.columns["a"]
    assert again.columns["b"] is frame.columns["b"]
    assert str(again.values("c")) == "[0.0, 1.5]"  # equal to what was there, and not the same
    assert frame.replace({"a": ["x", ABSENT]}).records()[1] == {"b": 2, "c": 1.5}
    assert frame.replace({"b": ["1", "2"]}).values("b") == ["1", "2"]
    renamed = frame.select({"A": "a", "D": "d"}, ["A", "D"])
    assert renamed.columns["A"] is frame.columns["a"]
    assert renamed.records() == [{"A": "x", "D": [1]}, {"A": None, "D": None}]


anything = values | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
some_rows = st.lists(
    st.fixed_dictionaries({}, optional={"x": texts, "y": anything, "z": st.integers(-9, 2**62) | st.none()}), max_size=6
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(some_rows, min_size=1, max_size=4), st.data())
def test_joined_and_gathered_frames_have_the_same_rows_and_kinds_as_one(
    parts: list[list[dict[str, Any]]], data: st.DataObject
) -> None:
    whole = [record for part in parts for record in part]
    in_columns = [ColumnFrame.of_records(part, range(at * 10, at * 10 + len(part))) for at, part in enumerate(parts)]
    in_records = [RecordFrame(part, range(at * 10, at * 10 + len(part))) for at, part in enumerate(parts)]
    joined = concatenated(in_columns)
    assert isinstance(joined, ColumnFrame)
    assert joined.records() == whole
    if len(parts) > 1:
        expected = ColumnFrame.of_records(whole)
        assert [(name, c.kind, c.sparse) for name, c in joined.columns.items()] == [
            (name, c.kind, c.sparse) for name, c in expected.columns.items()
        ]
    rows = np.array(data.draw(st.lists(st.integers(0, max(len(whole) - 1, 0)), max_size=8 if whole else 0)), np.int64)
    for frames in (in_columns, in_records):
        found = gathered(frames, rows)
        assert found.records() == [whole[row] for row in rows.tolist()]
        assert found.row_ids() == [concatenated(frames).row_ids()[row] for row in rows.tolist()]
