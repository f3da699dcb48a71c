"""lookup_join: which row matches, what it brings, and what becomes of rows that none or several match."""

import pytest

from services.steps.base import Context, Reject, StepError
from services.steps.frame import ColumnFrame, RecordFrame
from services.steps.lookup_join import lookup_join

TABLE = [
    {"k": "a", "n": 1, "v": "first"},
    {"k": "a", "n": 1, "v": "second"},
    {"k": "b", "n": 2, "v": None},
    {"k": None, "n": 3, "v": "blank"},
    {"k": 7, "n": 4, "v": {"deep": [1]}},
]
CONFIG = {"run_id": "r", "keys": {"key": "k"}, "fields": {"value": "v"}}


@pytest.fixture(params=[RecordFrame, ColumnFrame.of_records], ids=["records", "columns"])
def context(request):
    return Context({"r": request.param(TABLE)})


def test_what_matches_is_brought(context):
    rows = [{"key": key} for key in ("a", "b", None, " ", 7, 7.0, "nobody")]
    output = lookup_join.execute(rows, CONFIG, context)
    assert [row["value"] for row in output.records] == ["first", None, None, None, {"deep": [1]}, {"deep": [1]}, None]


def test_none_and_several_may_be_faults(context):
    config = CONFIG | {"on_missing": "fault", "on_multiple": "fault", "on_error": "reject"}
    output = lookup_join.execute([{"key": "a"}, {"key": "b"}, {"key": "x"}], config, context)
    assert output.records == [{"key": "b", "value": None}]
    assert output.rejects == [Reject(0, "key", "several_matches", "a"), Reject(2, "key", "no_match", "x")]


def test_all_keys_must_be_equal(context):
    config = CONFIG | {"keys": {"key": "k", "number": "n"}}
    output = lookup_join.execute([{"key": "a", "number": 1.0}, {"key": "a", "number": 2}], config, context)
    assert [row["value"] for row in output.records] == ["first", None]


def test_a_field_that_the_other_run_has_not_is_told(context):
    with pytest.raises(StepError, match="'nothing'") as caught:
        lookup_join.execute([{"key": "a"}], CONFIG | {"fields": {"value": "nothing"}}, context)
    assert caught.value.code == "unknown_field"
