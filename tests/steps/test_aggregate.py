"""aggregate: what makes a group, what each metric counts, and sums that are exact in any order."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps import aggregate as module
from services.steps.aggregate import aggregate
from services.steps.base import Record, StepError, one_result
from services.steps.frame import ColumnFrame


def metric(function: str, *values: Any) -> Any:
    """One metric over a field's values, in one group."""
    config = {"metrics": [{"function": function, "field": "v", "into": "m"}]}
    return aggregate.execute([{"v": value} for value in values], config).records[0]["m"]


def test_groups_are_in_the_order_of_their_first_rows_and_show_that_rows_value() -> None:
    records: list[Record] = [
        {"k": "b", "n": 1},
        {"k": None, "n": 1},
        {"k": "a", "n": 1.0},
        {"n": True},
        {"k": "b", "n": 1.0},
        {"k": "", "n": "1"},
        {"k": ["x"], "n": {"p": 1, "q": 2}},
        {"k": ["x"], "n": {"q": 2, "p": 1}},
    ]
    output = aggregate.execute(records, {"group_by": ["k"], "metrics": [{"function": "count", "into": "c"}]})
    assert output.records == [
        {"k": "b", "c": 2},
        {"k": None, "c": 2},
        {"k": "a", "c": 1},
        {"k": "", "c": 1},
        {"k": ["x"], "c": 2},
    ]
    assert output.rows == [0, 1, 2, 3, 4]
    assert output.report == {"groups": 5, "no_numbers": {}}
    by_number = aggregate.execute(records, {"group_by": ["n"]}).records
    assert [repr(record["n"]) for record in by_number] == ["1", "True", "'1'", "{'p': 1, 'q': 2}"]
    assert len(aggregate.execute(records, {"group_by": ["k", "n"]}).records) == 6


def test_counts() -> None:
    records: list[Record] = [{"v": 1}, {"v": None}, {}, {"v": 1.0}, {"v": True}, {"v": "1"}, {"v": ""}]
    metrics = [
        {"function": "count", "into": "all"},
        {"function": "count", "field": "v", "into": "there"},
        {"function": "count_distinct", "field": "v", "into": "different"},
    ]
    assert aggregate.execute(records, {"metrics": metrics}).records == [{"all": 7, "there": 5, "different": 4}]


def test_sums_are_exact_and_of_the_kind_of_their_numbers() -> None:
    assert metric("sum", *[0.1] * 10) == 1.0
    assert metric("sum", 1e100, 1, -1e100) == 1.0
    assert repr(metric("sum", 1, 2, 3)) == "6"
    assert repr(metric("sum", 1, 2.0)) == "3.0"
    assert metric("sum", 2**62, 2**62 - 1) == 2**63 - 1
    assert metric("sum", "12.50", "0.5", 1) == "14.00"
    assert metric("sum", "99999999999999999999.99", "0.01") == "100000000000000000000.00"
    assert metric("sum", None, None) is None
    assert metric("sum", "n/a", True, [1]) is None
    with pytest.raises(StepError, match="64 bits") as caught:
        metric("sum", 2**62, 2**62)
    assert caught.value.code == "number_too_large"
    with pytest.raises(StepError):
        metric("sum", 1.7e308, 1.7e308)


def test_the_kind_of_a_sum_is_that_of_all_groups() -> None:
    records: list[Record] = [{"k": 1, "v": 1}, {"k": 2, "v": 0.5}]
    config = {"group_by": ["k"], "metrics": [{"function": "sum", "field": "v", "into": "m"}]}
    assert [repr(record["m"]) for record in aggregate.execute(records, config).records] == ["1.0", "0.5"]


def test_what_is_no_number_is_left_out_and_told() -> None:
    records: list[Record] = [{"v": 1}, {"v": "x"}, {"v": "x"}, {"v": True}, {"v": None}, {"v": "1e3"}, {"v": "9" * 101}]
    config = {"metrics": [{"function": name, "field": "v", "into": name} for name in ("sum", "mean", "max")]}
    output = aggregate.execute(records, config)
    assert output.records == [{"sum": 1, "mean": 1.0, "max": True}]
    assert output.report == {"groups": 1, "no_numbers": {"sum": 5, "mean": 5}}


def test_mean_is_rounded_once() -> None:
    assert metric("mean", 1, 2) == 1.5
    assert metric("mean", 0.1, 0.2, 0.3) == 0.2
    assert metric("mean", "0.10", 1) == 0.55
    assert metric("mean", None) is None
    assert metric("mean", 1.7e308, 1.7e308) == 1.7e308


def test_extremes_and_ends() -> None:
    values = [None, "b", 3, "a", 2.5, None]
    assert [metric(name, *values) for name in ("min", "max", "first", "last")] == [2.5, "b", "b", 2.5]
    assert [metric(name, None) for name in ("min", "max", "first", "last")] == [None] * 4
    assert repr(metric("min", 1.0, 1)) == repr(metric("max", 1.0, 1)) == "1.0"


numbers = st.integers(-(2**40), 2**40) | st.floats(-1e12, 1e12, allow_nan=False) | st.sampled_from(["0.10", "7", "x"])
rows = st.fixed_dictionaries({"k": st.sampled_from(["a", "b", None, 1, 1.0])}, optional={"v": numbers | st.none()})
NAMES = ("count", "count_distinct", "sum", "min", "max", "mean", "first", "last")
ALL = {
    "group_by": ["k"],
    "metrics": [{"function": name, "field": "v", "into": name} for name in NAMES],
}


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(rows, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_metrics_are_those_of_the_plain_definitions_in_any_chunks_and_order(
    records: list[Record], seed: Any
) -> None:
    records = [{"k": "a", "v": None}, *records]
    output = aggregate.execute(records, ALL)
    decimals = any(isinstance(r.get("v"), str) and r["v"] != "x" for r in records)
    for found in output.records:
        mine = [r.get("v") for r in records if (r["k"] == found["k"])]
        there = [value for value in mine if value is not None]
        exact = [Decimal(repr(v) if isinstance(v, float) else v) for v in there if v != "x"]
        assert found["count"] == len(there)
        assert found["first"] == (there[0] if there else None)
        assert found["last"] == (there[-1] if there else None)
        if exact:
            total = sum(map(Fraction, exact), Fraction(0))
            assert Fraction(found["sum"]) == total if decimals else math.isclose(found["sum"], total, rel_tol=1e-15)
            assert found["mean"] == float(total / len(exact))
    whole = ColumnFrame.of_records(records)
    config = aggregate.config_model.model_validate(ALL)
    for chunk_rows in (1, 4):
        chunks = [whole.slice(start, chunk_rows) for start in range(0, len(whole), chunk_rows)]
        assert repr(one_result(aggregate.run(chunks, config), whole).frame.records()) == repr(output.records)
    shuffled = records[:]
    seed.shuffle(shuffled)
    order_free = ("count", "count_distinct", "sum", "mean")
    for found in aggregate.execute(shuffled, ALL).records:
        (same,) = (other for other in output.records if other["k"] == found["k"])
        assert [repr(found[name]) for name in order_free] == [repr(same[name]) for name in order_free]


def test_groups_and_values_to_count_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[Record] = [{"k": row} for row in range(11)]
    assert len(aggregate.execute(records, {"group_by": ["k"], "max_groups": 11}).records) == 11
    with pytest.raises(StepError, match="more than 10 groups by 'k'") as caught:
        aggregate.execute(records, {"group_by": ["k"], "max_groups": 10})
    assert caught.value.code == "too_many_groups"
    monkeypatch.setattr(module, "DISTINCT_MAX", 10)
    with pytest.raises(StepError) as caught:
        aggregate.execute(records, {"metrics": [{"function": "count_distinct", "field": "k", "into": "n"}]})
    assert caught.value.code == "too_many_values"


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, "group_by or metrics"),
        ({"metrics": [{"function": "sum", "into": "x"}]}, "needs a field"),
        ({"group_by": ["a"], "metrics": [{"function": "count", "into": "a"}]}, "same name"),
        ({"metrics": [{"function": "median", "field": "a", "into": "x"}]}, "count_distinct"),
        ({"group_by": ["a"], "max_groups": 10**9}, "less than"),
    ],
)
def test_configs_that_cannot_work_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        aggregate.execute([], config)
