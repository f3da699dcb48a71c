"""sort_limit: a total order over JSON's values, nulls, ties, limits, and what is held."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps._values import order_key, ranks
from services.steps.base import NO_CONTEXT, Record, StepError, Whole, one_result
from services.steps.frame import CHUNK_ROWS, ColumnFrame, Frame, RecordFrame
from services.steps.sort_limit import SPARE_ROWS, sort_limit


def order(records: list[Record], *keys: Any, **config: Any) -> list[int] | None:
    """The rows' numbers, sorted; a key is a field's name, or all of a key's config."""
    full = [{"field": key} if isinstance(key, str) else key for key in keys]
    return sort_limit.execute(records, {"keys": full, **config}).rows


def values(*of_a: Any) -> list[Record]:
    return [{"a": value} for value in of_a]


def test_numbers_then_texts_then_booleans_then_lists_then_objects_and_nulls_where_asked() -> None:
    records = values({"k": 1}, [2], True, "b", 10, None, "a", 9.5, False, [10], "10", float("nan"))
    assert order(records, "a") == [7, 4, 10, 6, 3, 8, 2, 9, 1, 0, 5, 11]
    assert order(records, {"field": "a", "nulls": "first"}) == [5, 11, 7, 4, 10, 6, 3, 8, 2, 9, 1, 0]
    assert order(records, {"field": "a", "descending": True}) == [0, 1, 9, 2, 8, 3, 6, 10, 4, 7, 5, 11]
    down = {"field": "a", "descending": True, "nulls": "first"}
    assert order(records, down) == [5, 11, 0, 1, 9, 2, 8, 3, 6, 10, 4, 7]


def test_numbers_are_compared_exactly() -> None:
    assert order(values(2**53 + 1, float(2**53), 2**53 - 1, 1e300, -1), "a") == [4, 2, 1, 0, 3]
    assert order(values("é", "z", "Z", "\U0001f600", ""), "a") == [4, 2, 1, 0, 3]


def test_the_first_key_counts_most_and_equal_rows_go_by_their_numbers() -> None:
    records: list[Record] = [{"a": 1, "b": 2}, {"a": 1.0, "b": 1}, {"b": 0}, {"a": 0, "b": 2}, {"a": 1, "b": 2}]
    assert order(records, "a", "b") == [3, 1, 0, 4, 2]
    assert order(records, {"field": "a", "descending": True}) == [0, 1, 4, 3, 2]
    output = sort_limit.execute(records, {"keys": [{"field": "b"}]}, ids=[9, 8, 7, 6, 5])
    assert output.rows == [7, 8, 5, 6, 9]


def test_limit_and_offset() -> None:
    records = values(3, 1, 2, 0)
    assert order(records, "a", limit=2) == [3, 1]
    assert order(records, "a", limit=2, offset=1) == [1, 2]
    assert order(records, "a", offset=3) == [0]
    assert order(records, "a", offset=9) == []
    assert order(records, "a", limit=0) == []
    for limit in (-1, 1.5):
        with pytest.raises(ValidationError):
            order(records, "a", limit=limit)


def test_a_field_that_only_some_chunks_have_is_known() -> None:
    frames: list[Frame] = [RecordFrame([{"b": 1}], [0]), RecordFrame([{"a": 1}], [1])]
    config = sort_limit.config_model.model_validate({"keys": [{"field": "a"}]})
    assert one_result(sort_limit.run(frames, config), frames[0]).frame.row_ids() == [1, 0]


def test_what_nests_too_deeply_to_compare_is_an_error() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(StepError) as caught:
        order(values(deep, [1]), "a")
    assert caught.value.code == "unusable_value"


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -0.0]) | st.text("ab", max_size=2)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(scalars | st.lists(scalars, max_size=2), max_size=12), st.integers(0, 4), st.integers(0, 12))
def test_it_is_pythons_stable_sort(found: list[Any], offset: int, limit: int) -> None:
    there = sorted((row for row, value in enumerate(found) if value is not None), key=lambda row: order_key(found[row]))
    expected = there + [row for row, value in enumerate(found) if value is None]
    whole = ColumnFrame.of_records(values(*found))
    for config in ({}, {"limit": limit, "offset": offset}):
        model = sort_limit.config_model.model_validate({"keys": [{"field": "a"}], **config})
        for chunk_rows in (1, 5):
            chunks = [whole.slice(start, chunk_rows) for start in range(0, len(whole), chunk_rows)]
            result = one_result(sort_limit.run(chunks, model), whole)
            assert result.frame.row_ids() == (expected[offset:][:limit] if config else expected)
            assert [json.dumps(v) for v in result.frame.values("a")] == [
                json.dumps(found[row]) for row in result.frame.row_ids()
            ]


def test_equal_values_share_a_place() -> None:
    assert ranks([2, None, 1, 1.0, "x", float("nan")]).tolist() == [1, -1, 0, 0, 2, -1]
    assert ranks([]).dtype == np.int64


def test_large_batches_come_in_chunks_and_with_a_limit_only_the_top_is_held() -> None:
    rows = 300_000
    numbers = np.random.default_rng(7).permutation(rows)
    live: list[int] = []

    class Counted(ColumnFrame):
        def __del__(self) -> None:
            live.append(-len(self))

    def chunks() -> Iterator[Frame]:
        for start in range(0, rows, CHUNK_ROWS):
            part = numbers[start : start + CHUNK_ROWS].tolist()
            made = ColumnFrame.of_records(values(*part), range(start, start + len(part)))
            live.append(len(made))
            peaks.append(sum(live))
            yield Counted(made.columns, made.ids)

    body = sort_limit.body
    assert isinstance(body, Whole)
    for limit in (None, 30_000):
        peaks: list[int] = []
        live.clear()
        config = sort_limit.config_model.model_validate({"keys": [{"field": "a"}], "limit": limit})
        results = list(body.function(chunks(), config, NO_CONTEXT))
        found = [value for result in results for value in result.frame.values("a")]
        assert found == list(range(limit or rows))
        assert max(len(result.frame) for result in results) == CHUNK_ROWS
        if limit is not None:
            assert max(peaks) <= 2 * limit + SPARE_ROWS + 2 * CHUNK_ROWS
