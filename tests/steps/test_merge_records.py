"""merge_records: what is a cluster, each rule of survival, ties, and large batches."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps import merge_records as module
from services.steps.base import Record, StepError, one_result
from services.steps.frame import ColumnFrame
from services.steps.merge_records import merge_records


def survivor(rule: str, *values: Any, **more: Any) -> Any:
    """What becomes of a field's values in one cluster."""
    records = [{"c": 1, "v": value} for value in values]
    config = {"cluster_field": "c", "rules": {"v": {"rule": rule, **more}}}
    (merged,) = merge_records.execute(records, config).records
    return merged["v"]


def test_one_row_for_each_cluster_with_the_rows_that_it_was_made_of() -> None:
    records: list[Record] = [{"c": c, "v": row} for row, c in enumerate(["b", None, "a", 1, "b", "", 1.0, True])]
    output = merge_records.execute(records, {"cluster_field": "c", "size_field": "n"})
    assert [(r["c"], r["source_rows"], r["n"]) for r in output.records] == [
        ("b", [0, 4], 2),
        (None, [1], 1),
        ("a", [2], 1),
        (1, [3, 6], 2),
        ("", [5], 1),
        (True, [7], 1),
    ]
    assert output.rows == [0, 1, 2, 3, 5, 7]
    assert output.report == {"clusters": 6, "merged": 2}
    assert (
        "source_rows"
        not in merge_records.execute(records, {"cluster_field": "c", "source_rows_field": None}).records[0]
    )


def test_the_order_is_that_of_row_numbers_whatever_the_batchs() -> None:
    records: list[Record] = [{"c": "a", "v": "late"}, {"c": "b", "v": "x"}, {"c": "a", "v": "early"}]
    config = {"cluster_field": "c", "default_rule": {"rule": "first"}}
    output = merge_records.execute(records, config, ids=[9, 5, 2])
    assert [(r["v"], r["source_rows"]) for r in output.records] == [("early", [2, 9]), ("x", [5])]
    assert output.rows == [2, 5]


def test_each_rule() -> None:
    values = [None, "bb", "a", "ccc", "a", " "]
    assert survivor("first", *values) == "bb"
    assert survivor("last", *values) == "a"
    assert survivor("longest", *values) == "ccc"
    assert survivor("most_frequent", *values) == "a"
    assert survivor("min", *values, 7) == 7
    assert survivor("max", *values, 7) == "ccc"
    assert survivor("sum", 0.1, 0.2, None, "x") == 0.3
    assert survivor("sum", "1.50", 2) == "3.50"
    assert survivor("sum", "x", "y") is None
    with pytest.raises(StepError) as caught:
        survivor("sum", 2**63 - 1, 1)
    assert caught.value.code == "number_too_large"


def test_among_equals_the_lowest_row_decides() -> None:
    assert repr(survivor("most_frequent", 2, 1.0, 1, 2.0)) == "2"
    assert survivor("longest", "ab", "cd") == "ab"
    assert repr(survivor("max", 1, 1.0)) == "1"
    assert repr(survivor("min", 1.0, 1)) == "1.0"
    assert survivor("longest", 12345, "abc", [1, 2, 3]) == [1, 2, 3]


def test_blank_everywhere_stays_as_the_first_row_has_it() -> None:
    for rule in ("first", "last", "longest", "most_frequent", "min", "max", "sum", "most_complete_row"):
        assert survivor(rule, "", None) == ""
    (merged,) = merge_records.execute([{"c": 1}, {"c": 1, "v": None}], {"cluster_field": "c", "rules": {}}).records
    assert "v" not in merged or merged["v"] is None


def test_by_date() -> None:
    records: list[Record] = [
        {"c": 1, "v": "old", "d": "2024-01-01"},
        {"c": 1, "v": "new", "d": "2026-01-01"},
        {"c": 1, "v": None, "d": "2027-01-01"},
        {"c": 1, "v": "undated", "d": ""},
        {"c": 1, "v": "tie", "d": "2026-01-01"},
    ]

    def found(rule: str, rows: list[Record]) -> Any:
        config = {"cluster_field": "c", "rules": {"v": {"rule": rule, "date_field": "d"}}}
        return merge_records.execute(rows, config).records[0]["v"]

    assert (found("newest", records), found("oldest", records)) == ("new", "old")
    undated: list[Record] = [{"c": 1, "v": "a", "d": None}, {"c": 1, "v": "b", "d": " "}]
    assert (found("newest", undated), found("oldest", undated)) == ("a", "a")


def test_the_most_complete_row_keeps_what_belongs_together() -> None:
    records: list[Record] = [
        {"c": 1, "street": "A", "city": None, "zip": None, "name": "x"},
        {"c": 1, "street": None, "city": "B", "zip": "1", "name": "y"},
        {"c": 1, "street": "C", "city": " ", "zip": "2", "name": "z"},
    ]
    (merged,) = merge_records.execute(records, {"cluster_field": "c", "rules": {"name": {"rule": "last"}}}).records
    assert merged == {"c": 1, "street": None, "city": "B", "zip": "1", "name": "z", "source_rows": [0, 1, 2]}


@pytest.mark.parametrize(
    "config, message",
    [
        ({"rules": {"v": {"rule": "newest"}}}, "date_field goes with"),
        ({"rules": {"v": {"rule": "first", "date_field": "d"}}}, "date_field goes with"),
        ({"rules": {"c": {"rule": "first"}}}, "takes no rule"),
        ({"size_field": "c"}, "names of their own"),
        ({"size_field": "source_rows"}, "names of their own"),
        ({"rules": {"v": {"rule": "best"}}}, "most_frequent"),
    ],
)
def test_configs_that_cannot_work_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        merge_records.execute([], {"cluster_field": "c", **config})


def test_fields_that_there_are_not_are_named() -> None:
    for config in (
        {"rules": {"nr": {"rule": "first"}}},
        {"rules": {"v": {"rule": "newest", "date_field": "nr"}}},
        {"cluster_field": "nr"},
    ):
        with pytest.raises(StepError, match="'nr'; there are: 'c', 'v'"):
            merge_records.execute([{"c": 1, "v": 1}], {"cluster_field": "c", **config})


cells = st.none() | st.sampled_from(["", "a", "bb", 1, 1.0, True, 2.5]) | st.lists(st.integers(0, 1), max_size=1)
rows = st.fixed_dictionaries({"c": st.sampled_from([1, 2, "x", None])}, optional={"v": cells, "w": cells, "d": cells})
RULES = ("first", "last", "longest", "most_frequent", "most_complete_row", "sum", "min", "max", "newest", "oldest")


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(rows, min_size=1, max_size=15), st.sampled_from(RULES), st.sampled_from(RULES))
def test_nothing_depends_on_how_the_batch_is_cut_and_no_row_is_lost(records: list[Record], one: str, two: str) -> None:
    records = [{"c": 1, "v": None, "w": None, "d": None}, *records]

    def rule(name: str) -> dict[str, str]:
        return {"rule": name, "date_field": "d"} if name in ("newest", "oldest") else {"rule": name}

    config = {"cluster_field": "c", "rules": {"v": rule(one)}, "default_rule": rule(two)}
    output = merge_records.execute(records, config)
    assert sorted(row for record in output.records for row in record["source_rows"]) == list(range(len(records)))
    whole, model = ColumnFrame.of_records(records), merge_records.config_model.model_validate(config)
    for size in (1, 4):
        chunks = [whole.slice(start, size) for start in range(0, len(whole), size)]
        found = one_result(merge_records.run(chunks, model), whole).frame.records()
        assert [sorted(map(repr, r.items())) for r in found] == [sorted(map(repr, r.items())) for r in output.records]


def test_clusters_are_not_cut_at_the_end_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[Record] = [{"c": row % 40, "v": row} for row in range(200)]
    config = {"cluster_field": "c", "rules": {"v": {"rule": "sum"}}}
    expected = merge_records.execute(records, config)
    for chunk_rows in (1, 7, 12):
        monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
        found = merge_records.execute(records, config)
        assert (found.records, found.rows) == (expected.records, expected.rows)
