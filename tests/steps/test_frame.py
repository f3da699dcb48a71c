"""Frames: what is worked out in columns is what is worked out row by row."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

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
