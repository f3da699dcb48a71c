"""flatten: selections, exploded lists and their row numbers, objects to fields, and what bounds all of it."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps._jmespath import evaluate
from services.steps._rowwise import Fault
from services.steps.base import Record, Reject, StepError
from services.steps.flatten import ID_FACTOR, ROW_ID_MAX, flatten
from services.steps.frame import ColumnFrame


def flattened(record: Record, **config: Any) -> list[Record]:
    return flatten.execute([record], config).records


def test_objects_become_fields_down_to_the_depth_asked_for() -> None:
    record = {"id": 1, "a": {"b": {"c": 2}, "l": [{"x": 1}]}, "e": {}}
    assert flattened(record) == [{"id": 1, "a.b.c": 2, "a.l": [{"x": 1}], "e": {}}]
    assert flattened(record, max_depth=1, separator="_") == [{"id": 1, "a_b": {"c": 2}, "a_l": [{"x": 1}], "e": {}}]
    assert flattened(record, max_depth=0) == [record]
    assert flattened({"a": {"b": 1}, "c": {"d": 2}}, fields=["c"]) == [{"a": {"b": 1}, "c.d": 2}]
    assert list(flattened({"a": 1, "b": {"c": 2, "d": 3}, "e": 4})[0]) == ["a", "b.c", "b.d", "e"]


def test_each_element_is_a_row_with_a_number_that_tells_where_it_is_from() -> None:
    records: list[Record] = [
        {"id": "x", "l": [1, 2, {"k": 3}]},
        {"id": "y", "l": None},
        {"id": "z"},
        {"id": "w", "l": []},
    ]
    output = flatten.execute(records, {"explode": "l", "source_row_field": "from"}, ids=[7, 8, 9, 10])
    assert output.records == [
        {"id": "x", "l": 1, "from": 7},
        {"id": "x", "l": 2, "from": 7},
        {"id": "x", "l.k": 3, "from": 7},
        {"id": "y", "l": None, "from": 8},
        {"id": "z", "l": None, "from": 9},
        {"id": "w", "l": None, "from": 10},
    ]
    assert output.rows is not None
    assert [divmod(row, ID_FACTOR) for row in output.rows] == [(7, 0), (7, 1), (7, 2), (8, 0), (9, 0), (10, 0)]
    assert len(flatten.execute(records, {"explode": "l", "keep_empty": False}).records) == 3


def test_lists_may_be_exploded_twice_and_numbers_stay_unique() -> None:
    first = flatten.execute([{"l": [[1, 2], [3]]}], {"explode": "l"}, ids=[5])
    second = flatten.execute(first.records, {"explode": "l"}, ids=first.rows)
    assert second.records == [{"l": 1}, {"l": 2}, {"l": 3}]
    assert second.rows == [5 * ID_FACTOR**2, 5 * ID_FACTOR**2 + 1, 5 * ID_FACTOR**2 + ID_FACTOR]
    with pytest.raises(StepError, match="run out") as caught:
        flatten.execute([{"l": [1]}], {"explode": "l"}, ids=[ROW_ID_MAX + 1])
    assert caught.value.code == "row_numbers_exhausted"
    assert flatten.execute([{"l": [1]}], {"explode": "l"}, ids=[ROW_ID_MAX]).rows == [ROW_ID_MAX * ID_FACTOR]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8))
def test_no_element_is_lost_and_numbers_rise(lists: list[list[int]]) -> None:
    output = flatten.execute([{"l": found} for found in lists], {"explode": "l", "keep_empty": False})
    assert [record["l"] for record in output.records] == [value for found in lists for value in found]
    assert output.rows == sorted(set(output.rows or []))


def test_what_cannot_be_exploded_is_a_fault() -> None:
    records: list[Record] = [{"l": "text"}, {"l": {"a": 1}}, {"l": [1, 2, 3]}, {"l": [1]}]
    config = {"explode": "l", "max_elements": 2}
    assert flatten.execute(records, config).records == [{"l": None}, {"l": None}, {"l": None}, {"l": 1}]
    rejecting = flatten.execute(records, {**config, "on_error": "reject"}, ids=[4, 5, 6, 7])
    assert [(r.row, r.code, r.value) for r in rejecting.rejects] == [
        (4, "not_list", "text"),
        (5, "not_list", {"a": 1}),
        (6, "too_many_elements", [1, 2, 3]),
    ]
    with pytest.raises(StepError, match="row 0, field 'l': not_list") as caught:
        flatten.execute(records, {**config, "on_error": "fail"})
    assert caught.value.code == "not_list"


def test_selections_see_the_row_as_it_came_in() -> None:
    record = {"mails": [{"v": "a", "main": False}, {"v": "b", "main": True}], "n": {"first": "Ann"}}
    select = {"mail": "mails[?main].v | [0]", "n": "n.first", "all": "join(', ', mails[].v)", "none": "n.nothing"}
    assert flattened(record, select=select) == [
        {"mails": record["mails"], "n": "Ann", "mail": "b", "all": "a, b", "none": None}
    ]
    lifted = flattened({"d": {"people": [{"n": 1}, {"n": 2}]}}, select={"p": "d.people"}, explode="p", fields=["p"])
    assert [row["p.n"] for row in lifted] == [1, 2]


def test_a_selection_at_fault_is_null_or_a_reject() -> None:
    config = {"select": {"total": "sum(amounts)"}, "max_depth": 0}
    records: list[Record] = [{"amounts": [1, 2]}, {"amounts": ["x"]}, {"amounts": 3}]
    assert [record["total"] for record in flatten.execute(records, config).records] == [3, None, None]
    assert flatten.execute(records, {**config, "on_error": "reject"}).rejects == [
        Reject(1, "total", "expression_error", None),
        Reject(2, "total", "expression_error", None),
    ]


def test_selections_name_the_fields_that_they_need() -> None:
    for expression in (
        "a.b",
        "a[*].b",
        "a[0] | b",
        "[a, b]",
        "{x: a}",
        "length(a)",
        "a[?b == `1`]",
        "a == b",
        "!a",
        "a[]",
    ):
        with pytest.raises(StepError) as caught:
            flatten.execute([{"z": 1}], {"select": {"out": expression}})
        assert caught.value.code == "unknown_field"
    for expression in ("a || b", "not_null(a, b)", "@", "keys(@)", "`1`"):
        flatten.execute([{"z": 1}], {"select": {"out": expression}})
    with pytest.raises(StepError, match="there are: 'z'"):
        flatten.execute([{"z": 1}], {"explode": "l"})


def test_two_values_for_one_field_are_a_fault_and_the_order_of_names_decides() -> None:
    for record in ({"a.b": 1, "a": {"b": 2, "c": 3}}, {"a": {"b": 2, "c": 3}, "a.b": 1}):
        assert flattened(record) == [{"a.b": 1, "a.c": 3}]
        rejects = flatten.execute([record], {"on_error": "reject"}).rejects
        assert rejects == [Reject(0, "a", "name_conflict", {"b": 2, "c": 3})]
    for record in ({"a": {"b.c": 1}, "a.b": {"c": 2}}, {"a.b": {"c": 2}, "a": {"b.c": 1}}):
        assert flattened(record) == [{"a.b.c": 1}]


def test_a_row_with_too_many_fields_keeps_its_objects() -> None:
    record = {"a": {str(number): number for number in range(1_500)}}
    assert flattened(record) == [record]
    assert flatten.execute([record], {"on_error": "reject"}).rejects[0].code == "too_many_fields"
    many: list[Record] = [{"a": {f"{row}-{number}": 1 for number in range(900)}} for row in range(10)]
    with pytest.raises(StepError) as caught:
        flatten.execute(many, {})
    assert caught.value.code == "batch_too_large"


def test_rows_that_would_repeat_too_much_are_refused() -> None:
    text = "x" * 1_000_000
    output = flatten.execute([{"l": list(range(1_000)), "t": text}], {"explode": "l", "on_error": "reject"})
    assert [reject.code for reject in output.rejects] == ["too_large"]
    records: list[Record] = [{"l": list(range(30)), "t": text} for _ in range(30)]
    with pytest.raises(StepError, match="max_elements") as caught:
        flatten.execute(records, {"explode": "l"})
    assert caught.value.code == "batch_too_large"


@pytest.mark.parametrize(
    "expression",
    [
        "a[",
        "nothing(a)",
        "x" * 1_001,
        "|".join(["[@,@]"] * 40),
        "|".join(["join('',[@,@])"] * 30),
        "|".join(["[@,@][]"] * 30),
        "length(" + "|".join(["[@,@][]"] * 30) + ")",
        "a[?" + "|".join(["[@,@][]"] * 30) + "]",
        "map(&" + "|".join(["[@,@]"] * 30) + ", a)",
        "join(a, b)",
        "|".join(["to_string(@)"] * 20),
        "a[?" * 100 + "a" + "]" * 100,
    ],
)
def test_an_expression_that_is_wrong_or_could_grow_is_refused(expression: str) -> None:
    with pytest.raises(ValidationError, match="out"):
        flatten.execute([], {"select": {"out": expression}})


def test_what_is_let_through_ends_soon_on_a_large_row() -> None:
    record = {"a": [{"b": list(range(1_000)), "c": "x" * 500} for _ in range(200)]}
    began_s = time.perf_counter()
    for expression in ("a[].b[] | sort(@)", "a[?b[?@ > `5`]].c", "map(&length(to_string(@)), a)", "[a, a, a][][].b[]"):
        evaluate(expression, record)
    assert time.perf_counter() - began_s < 10


def test_results_that_no_batch_can_hold_are_faults() -> None:
    assert evaluate("to_number(a)", {"a": "9" * 30}) == Fault("not_json")
    assert evaluate("to_number(a)", {"a": "1e999"}) == Fault("not_json")
    assert evaluate("to_number(a)", {"a": "nan"}) == Fault("not_json")
    assert evaluate("[a, a, a, a, a]", {"a": "x" * 1_000_000}) == Fault("too_large")
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert evaluate("[a]", {"a": deep}) == Fault("too_deep")


def test_large_chunks_and_records_agree() -> None:
    records: list[Record] = [{"id": row, "l": [{"k": row}] * (row % 4)} for row in range(500)]
    config = flatten.config_model.model_validate({"explode": "l"})
    (in_columns,) = flatten.run([ColumnFrame.of_records(records)], config)
    output = flatten.execute(records, {"explode": "l"})
    assert in_columns.frame.records() == output.records
    assert in_columns.frame.row_ids() == output.rows
