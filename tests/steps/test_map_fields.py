"""map_fields: rename, copy, default, drop."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.steps.base import Record, Reject, StepError
from services.steps.map_fields import map_fields

ROW: Record = {"Name": "Acme", "HQ": "US", "n": 1}


def mapped(*records: Record, **config: Any) -> list[Record]:
    return map_fields.execute(records, config).records


def test_mapped_fields_come_first_and_the_others_follow() -> None:
    assert [list(row.items()) for row in mapped(ROW, mappings={"country": "HQ", "company": "Name"})] == [
        [("country", "US"), ("company", "Acme"), ("n", 1)]
    ]


def test_unmapped_fields_can_be_dropped() -> None:
    assert mapped(ROW, mappings={"company": "Name"}, drop_unmapped=True) == [{"company": "Acme"}]


def test_a_field_can_feed_two_and_two_can_swap_names() -> None:
    assert mapped({"a": 1, "b": 2}, mappings={"a": "b", "b": "a", "c": "a"}) == [{"a": 2, "b": 1, "c": 1}]


def test_a_field_missing_in_some_rows_is_null_there() -> None:
    assert mapped({"a": 1}, {}, mappings={"b": "a"}) == [{"b": 1}, {"b": None}]


def test_defaults_fill_what_is_missing_or_null_and_leave_falsy_values() -> None:
    config: dict[str, Any] = {"mappings": {"b": "a"}, "defaults": {"b": [0], "source": "crm"}}
    assert mapped({"a": None}, {"a": 0}, {"a": ""}, **config) == [
        {"b": [0], "source": "crm"},
        {"b": 0, "source": "crm"},
        {"b": "", "source": "crm"},
    ]


def test_a_new_name_that_another_field_has_is_an_error_rather_than_a_loss() -> None:
    with pytest.raises(StepError, match="'email' is the new name of 'E-Mail'") as caught:
        mapped({"E-Mail": "a", "email": "b"}, mappings={"email": "E-Mail"})
    assert caught.value.code == "field_collision"
    assert mapped({"E-Mail": "a", "email": "b"}, mappings={"email": "E-Mail"}, drop_unmapped=True) == [{"email": "a"}]


def test_a_required_field_that_is_null_falls_under_on_error() -> None:
    config: dict[str, Any] = {"mappings": {"b": "a"}, "required": ["b"]}
    assert mapped({"a": 1}, {"a": None}, **config) == [{"b": 1}, {"b": None}]
    rejecting = map_fields.execute([{"a": 1}, {"a": None}], {**config, "on_error": "reject"})
    assert rejecting.records == [{"b": 1}]
    assert rejecting.rejects == [Reject(1, "b", "missing_value", None)]
    with pytest.raises(StepError, match="row 1, field 'b'") as caught:
        map_fields.execute([{"a": 1}, {"a": None}], {**config, "on_error": "fail"})
    assert caught.value.code == "missing_value"


def test_a_required_field_must_be_one_that_the_output_can_have() -> None:
    with pytest.raises(ValidationError, match="drop_unmapped"):
        mapped(ROW, mappings={"company": "Name"}, required=["n"], drop_unmapped=True)
    with pytest.raises(StepError, match="no record has the field 'N'"):
        mapped(ROW, required=["N"])


def test_the_list_of_fields_in_an_error_is_bounded() -> None:
    wide = {f"column_{number:03}" + "x" * 500: 1 for number in range(300)}
    with pytest.raises(StepError, match="and 280 more") as caught:
        mapped(wide, mappings={"a": "b"})
    assert len(str(caught.value)) < 2500
