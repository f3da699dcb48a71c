"""Frames: what is worked out in columns is what is worked out row by row."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from events.columns import ABSENT
from services.steps.frame import ColumnFrame, RecordFrame, distinct_rows

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
