"""What travels to and from workers in other languages, without any server: parts, and answers that cannot be used."""

import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import InvalidInputError
from services.steps.base import Reject, StepError, StepOutput
from services.worker.foreign import Announcement, Answer, output_of, parse, parts_of, request_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
VALUES = st.integers(-(2**63), 2**63 - 1) | TEXTS | st.none()
RECORDS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=20)
JSON = st.recursive(VALUES | st.booleans() | st.integers(-5, 5), lambda x: st.lists(x) | st.dictionaries(TEXTS, x))


def outcome(body: bytes) -> StepOutput | str:
    """What an answer about three rows comes to: an output, or the code of an error."""
    try:
        return output_of(body, 3, whole=False)
    except StepError as error:
        return error.code


@given(records=RECORDS, part_max_bytes=st.integers(1, 300))
def test_parts_hold_all_records_in_order_and_are_bounded(records, part_max_bytes):
    parts = list(parts_of(records, part_max_bytes))
    assert [orjson.loads(encoded) for part in parts for encoded in part] == records
    assert all(len(part) == 1 or len(b",".join(part)) <= part_max_bytes for part in parts if part)
    assert len(parts) >= 1
    requests = [orjson.loads(request_of("k", "1", {"a": 1}, part, 5)) for part in parts]
    assert [record for request in requests for record in request["records"]] == records
    assert {tuple(request) for request in requests} == {
        ("protocol", "step", "version", "config", "deadline_ms", "records")
    }


@given(st.binary(max_size=300))
def test_whatever_comes_is_an_answer_or_a_step_error(body):
    made = outcome(body)
    assert made == "bad_answer" or isinstance(made, StepOutput)


@given(st.fixed_dictionaries({}, optional={"records": JSON, "rejects": JSON, "rows": JSON}))
def test_whatever_is_in_an_answer_is_checked(value):
    made = outcome(orjson.dumps(value))
    if isinstance(made, StepOutput):
        assert len(made.rows or ()) == len(made.records)
        assert all(0 <= row < 3 for row in [*(made.rows or ()), *(reject.row for reject in made.rejects)])
    else:
        assert made == "bad_answer"


def answer(**fields: object) -> bytes:
    return orjson.dumps(fields)


def test_rows_are_told_or_follow_from_the_rejects():
    rejects = [{"row": 1, "field": None, "code": "bad"}]
    assert output_of(answer(records=[{}, {}], rejects=rejects), 3, whole=False).rows == [0, 2]
    assert output_of(answer(records=[{}, {}, {}], rejects=rejects), 3, whole=False).rows == [0, 1, 2]
    assert output_of(answer(records=[{}, {}], rows=[2, 2]), 3, whole=False).rows == [2, 2]
    assert output_of(answer(records=[{}]), 3, whole=True).rows is None
    assert output_of(answer(records=[], rejects=rejects * 2), 1 + 1, whole=True).rejects == [Reject(1, None, "bad")] * 2
    with pytest.raises(StepError, match='"rows" must tell'):
        output_of(answer(records=[{}]), 3, whole=False)
    with pytest.raises(StepError, match="one for each"):
        output_of(answer(records=[{}], rows=[0, 1]), 3, whole=False)


def test_an_error_keeps_its_code_and_whether_it_is_worth_another_try():
    with pytest.raises(StepError, match="Busy") as raised:
        output_of(answer(error={"code": "busy", "message": "Busy.", "retryable": True}), 1, whole=False)
    assert (raised.value.code, raised.value.retryable) == ("busy", True)


def test_faults_are_named_and_bounded():
    with pytest.raises(InvalidInputError) as raised:
        parse(answer(records=[1] * 100_000), Answer)
    assert raised.value.message.startswith("records.0: ")
    assert len(raised.value.message) < 1000


def test_the_messages_of_the_document_are_those_of_the_code():
    announced, refusal, request, answered, failed = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    announcement = parse(announced.encode(), Announcement)
    assert set(orjson.loads(announced)) == set(Announcement.model_fields)
    assert re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE)[: len(Announcement.model_fields)] == list(
        Announcement.model_fields
    )
    shown = orjson.loads(request)
    records = [orjson.dumps(record) for record in shown["records"]]
    made = request_of(announcement.key, announcement.version, shown["config"], records, shown["deadline_ms"])
    assert orjson.loads(made) == shown
    assert set(orjson.loads(answered)) | set(orjson.loads(failed)) == set(Answer.model_fields)
    assert output_of(answered.encode(), 2, whole=False).rows == [0]
    with pytest.raises(StepError, match="2027"):
        output_of(failed.encode(), 2, whole=False)
    assert "error" in orjson.loads(refusal)


def test_a_schema_may_be_deep_in_structure_but_fetches_nothing():
    for schema in (
        {"type": "object", "properties": {"a": {"items": [{"$ref": "file:///etc/passwd"}]}}},
        {"type": "object", "$dynamicRef": "http://127.0.0.1/"},
        {"type": "object", "$id": "http://127.0.0.1/", "properties": {"a": {"$ref": "#/x"}}},
        {"type": "object", "$schema": "http://127.0.0.1/"},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}},
        {"type": "object", "properties": {"a": {"pattern": "("}}},
    ):
        body = {"protocol": 1, "key": "k", "version": "1", "summary": "s", "config_schema": schema}
        with pytest.raises(InvalidInputError, match="config_schema"):
            parse(orjson.dumps(body), Announcement)
