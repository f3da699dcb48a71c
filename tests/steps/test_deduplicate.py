"""deduplicate: groups over several key sets, which row stays, what counts as equal."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps.base import Record, StepError
from services.steps.deduplicate import _unite, deduplicate


def kept(records: list[Record], keys: list[list[str]], **config: Any) -> list[int]:
    """The indexes of the rows that stay."""
    numbered = [{**record, "row": row} for row, record in enumerate(records)]
    return [record["row"] for record in deduplicate.execute(numbered, {"keys": keys, **config}).records]


def values(*of_a: Any) -> list[Record]:
    return [{"a": value} for value in of_a]


CHAIN: list[Record] = [
    {"mail": "x", "phone": "1"},
    {"mail": "z", "phone": "3"},
    {"mail": "y", "phone": "2", "more": True},
    {"mail": "y", "phone": "1"},
]


def test_any_key_set_will_do_and_sameness_carries_over() -> None:
    assert kept(CHAIN, [["mail"], ["phone"]]) == [0, 1]
    assert kept(CHAIN, [["mail"]]) == [0, 1, 2]
    assert kept(CHAIN, [["mail", "phone"]]) == [0, 1, 2, 3]


def test_which_row_stays_and_the_order_is_the_inputs() -> None:
    assert kept(CHAIN, [["mail"], ["phone"]], keep="first") == [0, 1]
    assert kept(CHAIN, [["mail"], ["phone"]], keep="last") == [1, 3]
    assert kept(CHAIN, [["mail"], ["phone"]], keep="most_complete") == [1, 2]


def test_most_complete_counts_what_is_not_blank_and_ties_end_at_the_first() -> None:
    records: list[Record] = [{"a": 1, "b": "", "c": " "}, {"a": 1, "b": 0}, {"a": 1, "b": "x", "c": None}]
    assert kept(records, [["a"]], keep="most_complete") == [1]


DATED: list[Record] = [
    {"a": 1, "d": None},
    {"a": 1, "d": "2026-01-01", "more": 1},
    {"a": 1, "d": "2024-01-01", "more": 1},
    {"a": 1, "d": "2026-01-01"},
    {"a": 1, "d": " "},
]


@pytest.mark.parametrize(
    "keep, descending, row",
    [
        ("first", False, 2),
        ("first", True, 1),
        ("last", False, 3),
        ("last", True, 2),
        ("most_complete", False, 2),
        ("most_complete", True, 1),
    ],
)
def test_first_and_last_may_go_by_a_field_and_then_by_row_number(keep: str, descending: bool, row: int) -> None:
    order = {"field": "d", "descending": descending}
    assert kept(DATED, [["a"]], keep=keep, order_by=order) == [row]
    # where no row has a value, and among equals, the row number decides, not the place in the batch
    undated = deduplicate.execute(DATED[:1] * 3, {"keys": [["a"]], "keep": keep, "order_by": order}, ids=[5, 3, 4])
    assert undated.rows == ([5] if keep == "last" else [3])


def test_order_is_by_value_and_its_field_must_be_there() -> None:
    found = [10, 9.5, "8", True, [1], 2**53 + 1, float(2**53)]
    for keep, value in (("first", 9.5), ("last", [1])):
        records: list[Record] = [{"a": 1, "d": value} for value in found]
        output = deduplicate.execute(records, {"keys": [["a"]], "keep": keep, "order_by": {"field": "d"}})
        assert output.records[0]["d"] == value
    with pytest.raises(StepError, match="'nr'"):
        kept(DATED, [["a"]], order_by={"field": "nr"})


def test_blanks_never_match() -> None:
    assert kept(values(None, None, "", "", " ", " ", float("nan"), float("nan")), [["a"]]) == list(range(8))
    assert kept([{"a": 1}, {"a": 1}, {"a": 1, "b": 2}], [["a", "b"]]) == [0, 1, 2]


def test_equality_is_jsons_not_pythons() -> None:
    assert kept(values(1, 1.0, True, "1", [1], [True], {"x": 1, "y": 2}, {"y": 2, "x": 1}, False, 0), [["a"]]) == [
        *(0, 2, 3, 4, 5, 6, 8, 9),
    ]
    assert kept([{"a": "x", "b": "y z"}, {"a": "x y", "b": "z"}], [["a", "b"]]) == [0, 1]


def test_the_size_of_each_group_can_be_written() -> None:
    output = deduplicate.execute(values("x", "y", "x"), {"keys": [["a"]], "keep": "last", "count_field": "n"})
    assert output.records == [{"a": "y", "n": 1}, {"a": "x", "n": 2}]
    assert output.rejects == []


def test_a_value_too_deep_to_compare_is_an_error() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(StepError) as caught:
        kept(values(deep), [["a"]])
    assert caught.value.code == "unusable_key"


@pytest.mark.parametrize("keys", [[], [[]], [["a"]] * 17, "a", [("a",)]])
def test_key_sets_are_bounded_and_not_empty(keys: Any) -> None:
    with pytest.raises(ValidationError):
        deduplicate.execute([], {"keys": keys})


def test_a_long_chain_is_one_group() -> None:
    chain: list[Record] = [{"a": row // 2, "b": (row + 1) // 2} for row in range(20_000)]
    assert kept(chain, [["a"], ["b"]]) == [0]


small = st.sampled_from([None, "", "x", "y", "z", 1])


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    records=st.lists(st.fixed_dictionaries({"a": small, "b": small, "c": small}), min_size=1, max_size=8),
    keep=st.sampled_from(["first", "last", "most_complete"]),
)
def test_the_groups_are_those_of_the_plain_definition(records: list[Record], keep: str) -> None:
    keys = [["a"], ["b", "c"]]
    same = [
        {other for other, right in enumerate(records) if any(agree(left, right, names) for names in keys)} | {row}
        for row, left in enumerate(records)
    ]
    for _ in records:
        same = [set().union(*(same[other] for other in group)) for group in same]
    output = deduplicate.execute(
        [{**record, "row": row} for row, record in enumerate(records)], {"keys": keys, "keep": keep, "count_field": "n"}
    )
    assert sorted(len(group) for group in {frozenset(group) for group in same}) == sorted(
        record["n"] for record in output.records
    )
    assert [record["n"] for record in output.records] == [len(same[record["row"]]) for record in output.records]
    assert [record["row"] for record in output.records] == sorted(record["row"] for record in output.records)


def agree(left: Record, right: Record, names: list[str]) -> bool:
    return all(left[name] == right[name] and left[name] not in (None, "") for name in names)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=40), max_size=3))
def test_groups_are_what_being_the_same_carries_over_to(sets: list[list[tuple[int, int]]]) -> None:
    roots = np.arange(40)
    first = list(range(40))
    for pairs in sets:
        _unite(roots, np.array(pairs, np.int64).reshape(-1, 2))
        for one, other in pairs:
            lower, higher = sorted((first[one], first[other]))
            first = [lower if root == higher else root for root in first]
        assert roots.tolist() == first
