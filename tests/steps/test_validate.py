"""validate: what fits a schema, what does not and why, and schemas that are none."""

import pytest
from pydantic import ValidationError

from services.steps.base import Reject, StepError
from services.steps.validate import validate

RULES = {
    "required": ["id"],
    "properties": {"id": {"type": "integer"}, "email": {"format": "email"}, "tags": {"items": {"pattern": "^[a-z]+$"}}},
}


def test_rows_that_fit_go_on_and_others_say_why():
    rows = [{"id": 1, "extra": None}, {"id": "1"}, {}, {"id": 2, "tags": ["ok", "No"]}, {"id": 3, "email": "nope"}]
    output = validate.execute(rows, {"rules": RULES, "on_error": "reject"})
    assert output.records == rows[:1]
    assert output.rejects == [
        Reject(1, "id", "type", "1"),
        Reject(2, None, "required", None),
        Reject(3, "tags", "pattern", ["ok", "No"]),
        Reject(4, "email", "format", "nope"),
    ]


def test_a_value_that_does_not_fit_may_be_emptied():
    assert validate.execute([{"id": 1, "email": "nope"}, {}], {"rules": RULES}).records == [
        {"id": 1, "email": None},
        {},
    ]


def test_the_first_row_that_does_not_fit_may_fail_the_step():
    with pytest.raises(StepError, match="row 1") as caught:
        validate.execute([{"id": 1}, {"id": None}], {"rules": RULES, "on_error": "fail"})
    assert caught.value.code == "type"


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"type": "nonsense"}, "not valid"),
        ({"pattern": "(?=a)b"}, "not valid"),
        ({"properties": {"a": {"$ref": "http://169.254.169.254/latest"}}}, "its own parts"),
        ({"allOf": [{"$ref": "file:///etc/passwd"}]}, "its own parts"),
        ({"enum": ["x" * 70_000]}, "bytes"),
    ],
)
def test_a_schema_that_cannot_be_used_is_an_error_of_the_config(rules, says):
    with pytest.raises(ValidationError, match=says):
        validate.execute([], {"rules": rules})


def test_patterns_take_time_in_proportion_to_the_text():
    config = {"rules": {"properties": {"a": {"pattern": "^(a+)+$"}}}, "on_error": "reject"}
    assert len(validate.execute([{"a": "a" * 500_000 + "!"}], config).rejects) == 1
