"""diff_snapshot: added, removed and changed rows, keys that cannot be used, and what counts as a change."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps.base import Context, Record, Reject, StepError, StepOutput, one_result
from services.steps.diff_snapshot import diff_snapshot
from services.steps.frame import ColumnFrame, RecordFrame


def diff(before: list[Record], now: list[Record], **config: Any) -> StepOutput:
    full = {"run_id": "r", "key": ["id"], **config}
    return diff_snapshot.execute(now, full, Context({"r": RecordFrame(before)}))


def changes(before: list[Record], now: list[Record], **config: Any) -> list[tuple[Any, str, list[str]]]:
    return [(r["id"], r["change"], r["changed_fields"]) for r in diff(before, now, **config).records]


BEFORE: list[Record] = [{"id": 1, "a": "x", "b": 1}, {"id": 2, "a": "y", "b": 2}, {"id": 3, "a": "z", "b": 3}]
NOW: list[Record] = [{"id": 4, "a": "new", "b": 4}, {"id": 3, "a": "Z", "b": None}, {"id": 2, "a": "y", "b": 2.0}]


def test_rows_are_added_removed_or_changed_and_get_numbers_of_their_own() -> None:
    output = diff(BEFORE, NOW)
    assert output.records == [
        {"id": 4, "a": "new", "b": 4, "change": "added", "changed_fields": [], "before": None},
        {
            "id": 3,
            "a": "Z",
            "b": None,
            "change": "changed",
            "changed_fields": ["a", "b"],
            "before": {"a": "z", "b": 3},
        },
        {"id": 1, "a": "x", "b": 1, "change": "removed", "changed_fields": [], "before": None},
    ]
    assert output.rows == [0, 1, 2]
    assert output.report == {
        "added": 1,
        "removed": 1,
        "changed": 1,
        "unchanged": 1,
        "changed_fields": {"a": 1, "b": 1},
        "left_out_of_earlier": 0,
    }


def test_fields_and_outputs_can_be_chosen() -> None:
    found = diff(BEFORE, NOW, compare_fields=["b"], include_unchanged=True, before_field=None, change_field="what")
    assert [(r["id"], r["what"], r["changed_fields"], len(r)) for r in found.records] == [
        (4, "added", [], 5),
        (3, "changed", ["b"], 5),
        (2, "unchanged", [], 5),
        (1, "removed", [], 5),
    ]


def test_null_and_missing_are_equal_and_types_are_not() -> None:
    assert changes([{"id": 1, "a": None}], [{"id": 1}]) == []
    assert changes([{"id": 1}], [{"id": 1, "a": None, "b": 0}]) == [(1, "changed", ["b"])]
    assert changes([{"id": 1, "a": 1}], [{"id": 1, "a": True}]) == [(1, "changed", ["a"])]
    assert changes([{"id": 1, "a": 1}], [{"id": 1, "a": "1"}]) == [(1, "changed", ["a"])]
    assert changes([{"id": 1, "a": {"x": 1, "y": [2]}}], [{"id": 1.0, "a": {"y": [2], "x": 1}}]) == []
    assert changes([{"id": 1, "a": float("nan")}], [{"id": 1}]) == []


def test_a_field_that_came_or_went_is_a_change() -> None:
    before: list[Record] = [{"id": 1, "gone": "x"}]
    output = diff(before, [{"id": 1, "new": "y"}])
    assert output.records[0]["changed_fields"] == ["gone", "new"]
    assert output.records[0]["before"] == {"gone": "x", "new": None}


def test_keys_that_are_blank_or_there_twice_are_rejects_or_left_out() -> None:
    now: list[Record] = [{"id": None}, {"id": 5}, {"id": " "}, {"id": 5.0}]
    output = diff([{"id": 5}, {"id": 5, "a": 1}, {"id": None}], now)
    assert output.records == []
    assert output.rejects == [
        Reject(0, "id", "blank_key", None),
        Reject(2, "id", "blank_key", " "),
        Reject(3, "id", "duplicate_key", 5.0),
    ]
    assert output.report is not None
    assert output.report["left_out_of_earlier"] == 2


def test_a_comparison_can_be_compared_again() -> None:
    first = diff([], [{"id": 1, "a": 1}]).records
    assert changes(first, [{"id": 1, "a": 1}]) == []


def test_empty_batches_and_outputs() -> None:
    assert changes([], NOW[:1]) == [(4, "added", [])]
    assert changes(BEFORE[:1], []) == [(1, "removed", [])]
    assert changes([], []) == []


def test_what_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(StepError, match="'r'") as caught:
        diff_snapshot.execute(NOW, {"run_id": "r", "key": ["id"]})
    assert caught.value.code == "no_reference"
    for config in ({"key": ["nr"]}, {"compare_fields": ["nr"]}):
        with pytest.raises(StepError, match="'nr'; there are: 'a', 'b', 'id'") as caught:
            diff(BEFORE, NOW, **config)
        assert caught.value.code == "unknown_field"
    with pytest.raises(StepError) as caught:
        diff([{"nr": 1}], NOW)
    assert caught.value.code == "unknown_field"


@pytest.mark.parametrize(
    "config, message",
    [
        ({"change_field": "changed_fields"}, "same name"),
        ({"change_field": "id"}, "would replace"),
        ({"compare_fields": ["before"]}, "would replace"),
        ({"key": []}, "at least 1"),
    ],
)
def test_configs_that_cannot_work_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        diff([], [], **config)


small = st.sampled_from([None, "x", "y", 1, 1.0, True])
rows = st.fixed_dictionaries({"id": st.integers(0, 6)}, optional={"a": small, "b": small})
batches = st.lists(rows, max_size=7, unique_by=lambda row: row["id"])


@settings(derandomize=True, deadline=None, max_examples=150)
@given(batches, batches)
def test_it_is_the_plain_definition_however_the_batch_is_cut(before: list[Record], now: list[Record]) -> None:
    known = {row["id"]: row for row in before}
    expected = []
    for row in now:
        old = known.pop(row["id"], None)
        fields = [n for n in "ab" if old is not None and (repr_of(row.get(n)) != repr_of(old.get(n)))]
        if old is None or fields:
            expected.append((row["id"], "added" if old is None else "changed", fields))
    expected += [(key, "removed", []) for key in known]
    assert changes(before, now) == expected
    whole, config = (
        ColumnFrame.of_records(now),
        diff_snapshot.config_model.model_validate({"run_id": "r", "key": ["id"]}),
    )
    for size in (1, 3):
        chunks = [whole.slice(start, size) for start in range(0, len(whole), size)]
        earlier = Context({"r": ColumnFrame.of_records(before)})
        result = one_result(diff_snapshot.run(chunks, config, earlier), whole)
        assert result.frame.records() == diff(before, now).records
        assert result.report == diff(before, now).report


def repr_of(value: Any) -> str:
    return repr(int(value) if value == 1.0 and not isinstance(value, bool) else value)
