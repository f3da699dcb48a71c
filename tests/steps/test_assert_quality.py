"""assert_quality: each thing that can be asked, its figures, and both ways to tell."""

import random
import time
from typing import Any

import pytest
from pydantic import ValidationError

from services.steps.assert_quality import assert_quality
from services.steps.base import Record, StepError, one_result
from services.steps.frame import ColumnFrame


def values(*of_a: Any) -> list[Record]:
    return [{"a": value} for value in of_a]


def report(records: list[Record], **config: Any) -> Any:
    output = assert_quality.execute(records, {**config, "on_violation": "report"})
    assert output.records == records
    assert output.rejects == []
    return output.report


def broken(records: list[Record], **check: Any) -> list[int]:
    """The rows that break the one thing asked of `a`."""
    (found,) = report(records, fields=[{"field": "a", **check}])["checks"]
    assert found["found"] == len(found["rows"])
    assert found["passed"] == (not found["rows"])
    rows: list[int] = found["rows"]
    return rows


def test_rows_go_on_and_the_report_has_the_figures() -> None:
    records = values("x", None, "y", "x", " ")
    found = report(records, min_rows=6, max_rows=6, unique=[["a"]], fields=[{"field": "a", "max_null_share": 0.4}])
    assert found == {
        "rows": 5,
        "passed": False,
        "checks": [
            {"rule": "min_rows", "found": 5, "limit": 6, "passed": False},
            {"rule": "max_rows", "found": 5, "limit": 6, "passed": True},
            {"rule": "unique", "field": "a", "found": 1, "of": 5, "limit": 0, "passed": False, "rows": [3]},
            {"rule": "max_null_share", "field": "a", "found": 2, "of": 5, "limit": 0.4, "passed": True, "rows": [1, 4]},
        ],
    }


def test_a_violation_fails_the_step_and_names_every_rule_with_its_figures() -> None:
    records: list[Record] = [{"a": "x", "b": 5}, {"a": "x", "b": -1}, {"a": None, "b": 2}]
    config = {
        "max_rows": 2,
        "unique": [["a"], ["a", "b"]],
        "fields": [{"field": "b", "minimum": 0, "maximum": 9}, {"field": "a", "max_null_share": 0.25}],
    }
    with pytest.raises(StepError) as caught:
        assert_quality.execute(records, config, ids=[10, 11, 12])
    assert caught.value.code == "quality_failed"
    assert not caught.value.retryable
    assert str(caught.value).split("; ") == [
        "max_rows: the batch has 3 rows, the limit is 2",
        "unique of 'a': 1 of 3 (33.3333%), the limit is 0.0000%",
        "the first rows: 11",
        "minimum of 'b': 1 of 3 (33.3333%), the limit is 0.0000%",
        "the first rows: 11",
        "max_null_share of 'a': 1 of 3 (33.3333%), the limit is 25.0000%",
        "the first rows: 12",
    ]
    lenient = {"unique": [["a", "b"]], "fields": [{"field": "b", "minimum": 0, "max_violation_share": 0.34}]}
    assert assert_quality.execute(records, lenient).report == report(records, **lenient)


def test_allowed_values() -> None:
    records = values("x", "X", 1, 1.0, True, None, "", ["x"])
    assert broken(records, allowed_values=["x", 1]) == [1, 4, 7]
    assert broken(records, allowed_values=["x", "X", True]) == [2, 3, 7]


def test_patterns_are_found_in_texts() -> None:
    records = values("ab", "xab", "AB", 7, None, "", "a\nb", "ü", "\ud800")
    assert broken(records[:8], pattern="ab|ü") == [2, 3, 6]
    assert broken(records[:8], pattern="^(?i:ab)$") == [1, 3, 6, 7]
    assert broken(records, pattern="(?s)^.b$|a.b|ü|A|ab") == [3, 8]


def test_ranges() -> None:
    records = values(0, 1, 1.5, 2, 2.5, "1", True, None, [1])
    assert broken(records[:8], minimum=1, maximum=None) == [0, 5, 6]
    assert broken(records[:8], maximum=2) == [4, 5, 6]
    assert broken(values("2026-01-01", "2025-12-31", 7), minimum="2026-01-01") == [1, 2]
    assert broken(values(2**53, 2**53 + 1), maximum=float(2**53)) == [1]


def test_shares_are_compared_as_they_are_written() -> None:
    records = values(*["x"] * 71, *["y"] * 29)
    rule = {"field": "a", "allowed_values": ["x"], "max_violation_share": 0.29}
    assert report(records, fields=[rule])["passed"] is True
    assert report([*records[1:], {"a": "y"}], fields=[rule])["passed"] is False
    none = {"field": "a", "max_null_share": 0.29}
    assert report(values(*["x"] * 71, *[None] * 29), fields=[none])["passed"] is True


def test_copies_are_told_as_by_deduplicate() -> None:
    records: list[Record] = [{"a": 1, "b": "x"}, {"a": 1.0, "b": "x"}, {"a": True, "b": "x"}, {"a": 1, "b": ""}]
    (found,) = report(records, unique=[["a", "b"]])["checks"]
    assert found["rows"] == [1]


def test_an_empty_batch_has_no_rows() -> None:
    assert report([], max_rows=0)["passed"] is True
    with pytest.raises(StepError, match="min_rows: the batch has 0 rows, the limit is 1"):
        assert_quality.execute([], {"min_rows": 1})
    config = assert_quality.config_model.model_validate({"min_rows": 1})
    with pytest.raises(StepError):
        list(assert_quality.run([], config))


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, "nothing is asked"),
        ({"fields": [{"field": "a"}]}, "nothing is asked of the field 'a'"),
        ({"fields": [{"field": "a", "pattern": "("}]}, "missing \\)"),
        ({"fields": [{"field": "a", "pattern": "(a)\\1"}]}, "RE2"),
        ({"fields": [{"field": "a", "pattern": "(?=a)"}]}, "RE2"),
        ({"fields": [{"field": "a", "pattern": "((a{1,100}){1,100}){1,100}"}]}, "RE2"),
        ({"fields": [{"field": "a", "pattern": "a" * 1001}]}, "at most 1000"),
        ({"fields": [{"field": "a", "max_null_share": 1.5}]}, "less than or equal to 1"),
    ],
)
def test_configs_that_ask_nothing_or_the_impossible_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        assert_quality.execute([], config)


def test_patterns_take_bounded_time() -> None:
    letters = random.Random(1)
    records = values("a" * 65_535 + "b", "".join(letters.choice("ab") for _ in range(65_536)), "a" * 1_000_000)
    began_s = time.perf_counter()
    for pattern in ("^(a+)+$", "^(a|a|aa)*$", "(?:(?:a|b|ab){0,30}a){0,30}c", "a.{900}b.{90}c", "(a{0,100}){0,9}c"):
        assert broken(records, pattern=pattern) == [0, 1, 2]
    assert broken(records, pattern="^a") in ([2], [1, 2])
    assert time.perf_counter() - began_s < 30


def test_chunks_give_the_same_report() -> None:
    records = values(*["x", "y", None, 7, "x", "é"] * 20)
    config = {
        "unique": [["a"]],
        "fields": [{"field": "a", "max_null_share": 0, "pattern": "x", "minimum": "b"}],
        "on_violation": "report",
    }
    whole = ColumnFrame.of_records(records)
    chunks = [whole.slice(start, 7) for start in range(0, len(whole), 7)]
    result = one_result(assert_quality.run(chunks, assert_quality.config_model.model_validate(config)), whole)
    assert result.report == assert_quality.execute(records, config).report
    assert result.frame.records() == records
