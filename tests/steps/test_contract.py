"""What every step of the catalogue must hold, whatever it does."""

import copy
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from services.steps.base import Context, Step, StepError, StepOutput, one_result
from services.steps.catalogue import STEPS
from services.steps.frame import ColumnFrame, Frame, RecordFrame

OVER_RECORDS = [step for step in STEPS if step.kind != "source"]

ABOUT_WHOLE_ROWS = ("validate",)
"""May find fault with a row as such, and not with a field of it."""

LEAVE_ROWS_OUT = ("filter",)
"""Row-wise, and yet a row may be neither in the output nor among the rejects."""

TENANT_KEY = b"a key of thirty-two bytes, or so"

every_step = pytest.mark.parametrize("step", OVER_RECORDS, ids=lambda step: step.key)
every_config = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.key)

every_row_wise_step = pytest.mark.parametrize(
    "step",
    [step for step in STEPS if "on_error" in step.config_model.model_fields and step.key not in LEAVE_ROWS_OUT],
    ids=lambda step: step.key,
)


def examples(step: Step[Any]) -> list[dict[str, Any]]:
    """The config examples, as JSON gives them."""
    found: list[dict[str, Any]] = json.loads(json.dumps(step.config_schema()["examples"]))
    return found


def texts(value: Any) -> Iterator[str]:
    """Every string of a config, names and values: among them are all the fields that it reads."""
    if isinstance(value, str):
        yield value
        yield from re.findall(r"\brow\.(\w+)", value)  # those of an expression
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *texts(item))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def properties(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of a schema, nested models' too."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {}).items()
        for item in schema.values():
            yield from properties(item)
    elif isinstance(schema, list):
        for item in schema:
            yield from properties(item)


# Surrogates too: JSON may carry a lone one as an escape, and Python's reader lets it through.
hard_text = st.one_of(
    st.text(alphabet=st.characters()),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Cf", "Mn", "Zs", "Lt", "So"])),
    st.sampled_from(
        ["", " ", "\x00", "\ud800", "\ufeff", "İ", "ß", "ŉ", "a@b", "@", "://", "http://[", "n/a", "é" * 9000]
    ),
    st.builds("https://{}".format, st.text()),
    st.builds("{0}@{1}".format, st.text(), st.text(alphabet="ab.-@[]:%xn1")),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hard_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def batches(config: dict[str, Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Batches whose records have some of the fields that the config names."""
    optional = dict.fromkeys(sorted(set(texts(config))), hard_text | json_values)
    return st.lists(st.fixed_dictionaries({}, optional=optional), max_size=6)


def full_batch(config: dict[str, Any]) -> list[dict[str, Any]]:
    """A batch that has every field the config may name, with gaps, copies and values of every JSON type."""
    fields = sorted(set(texts(config)))
    values = ["https://example.co.uk/a", " Ann@Example.org ", "u.s.a.", None, 7, 1.5, True, ["x"], {"k": 1}, "é"]
    rows = [{name: values[(row + at) % len(values)] for at, name in enumerate(fields)} for row in range(20)]
    return [*rows, {}, {fields[0]: "x"}]


def context(step: Step[Any], config: dict[str, Any], *, columns: bool = False, empty: bool = False) -> Context:
    """What the step may know; where it reads the outputs of earlier runs, each has the first rows of `full_batch`."""
    records = [] if empty else full_batch(config)[:5]
    frame: Frame = ColumnFrame.of_records(records) if columns else RecordFrame(records)
    return Context(dict.fromkeys(step.references(step.config_model.model_validate(config)), frame), TENANT_KEY)


def outcome(step: Step[Any], records: list[dict[str, Any]], config: dict[str, Any]) -> StepOutput | tuple[str, str]:
    try:
        return step.execute(records, config, context(step, config))
    except StepError as error:
        return error.code, str(error)


def test_each_key_is_once_in_the_catalogue() -> None:
    keys = [step.key for step in STEPS]
    assert len(set(keys)) == len(keys)
    for key in (step.key for step in OVER_RECORDS):
        assert getattr(importlib.import_module(f"services.steps.{key}"), key).key == key


@every_config
def test_the_config_schema_is_valid_and_says_what_each_field_is(step: Step[Any]) -> None:
    schema = step.config_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert [name for name, field in properties(schema) if not field.get("description")] == []
    assert step.summary.endswith(".")
    assert step.version
    for example in examples(step):
        Draft202012Validator(schema).validate(example)


@every_step
def test_an_unknown_config_field_is_refused(step: Step[Any]) -> None:
    with pytest.raises(ValidationError, match="surprise"):
        step.execute([], {**examples(step)[0], "surprise": 1}, Context(tenant_key=TENANT_KEY))


@every_step
def test_an_empty_batch_gives_an_empty_output(step: Step[Any]) -> None:
    for config in examples(step):
        output = step.execute([], config, context(step, config, empty=True))
        assert (output.records, output.rejects, output.rows) == ([], [], [])


@every_step
def test_a_field_that_no_record_has_is_an_error_that_names_those_there_are(step: Step[Any]) -> None:
    for config in examples(step):
        with pytest.raises(StepError, match="elsewhere") as caught:
            step.execute([{"elsewhere": 1}], config, context(step, config, empty=True))
        assert caught.value.code == "unknown_field"


@every_step
def test_the_same_input_gives_the_same_bytes_and_is_left_alone(step: Step[Any]) -> None:
    for config in examples(step):
        records = full_batch(config)
        before = copy.deepcopy(records)
        first = step.execute(records, config, context(step, config))
        assert records == before
        second = step.execute(copy.deepcopy(records), copy.deepcopy(config), context(step, config))
        assert json.dumps(first.records) == json.dumps(second.records)
        assert first.rejects == second.rejects


def in_columns(step: Step[Any], records: list[dict[str, Any]], config: dict[str, Any], chunk_rows: int) -> Any:
    """What `outcome` gives, of the same batch held in columns and cut into chunks."""
    whole = ColumnFrame.of_records(records)
    chunks = [whole.slice(start, chunk_rows) for start in range(0, max(len(whole), 1), chunk_rows)]
    known = context(step, config, columns=True)
    try:
        result = one_result(step.run(chunks, step.config_model.model_validate(config), known), whole)
    except StepError as error:
        return error.code, str(error)
    return StepOutput(result.frame.records(), result.rejects, result.frame.row_ids(), result.report)


def as_json(found: Any) -> str:
    """Without regard to the order of a record's fields, which is the batch's where it is held in columns."""
    return found if isinstance(found, tuple) else json.dumps(asdict(found), sort_keys=True)  # type: ignore[return-value]


# what columns can hold: no lone surrogate, no NaN or infinity, no integer beyond 64 bits; what a gateway lets in
plain_text = hard_text.filter(lambda text: text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text))
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=5,
)


@every_step
@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_records_columns_and_chunks_of_any_size_agree(step: Step[Any], data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(examples(step)))
    if "on_error" in step.config_model.model_fields:
        config = {**config, "on_error": data.draw(st.sampled_from(["null", "reject", "fail"]))}
    names = sorted(set(texts(config)))
    rows = st.fixed_dictionaries({}, optional=dict.fromkeys(names, plain_text | plain_values))
    records = data.draw(st.lists(rows, max_size=8))
    expected = as_json(outcome(step, records, config))
    for chunk_rows in (1, 3, 100):
        assert as_json(in_columns(step, records, config, chunk_rows)) == expected


@every_step
def test_examples_give_what_they_say(step: Step[Any]) -> None:
    assert step.examples
    for example in step.examples:
        earlier: dict[str, Frame] = {run_id: RecordFrame(found) for run_id, found in example.references.items()}
        output = step.execute(list(example.records), example.config, Context(earlier))
        assert output.records == list(example.output)
        assert output.rejects == list(example.rejects)


@every_row_wise_step
def test_each_row_goes_on_or_is_accounted_for(step: Step[Any]) -> None:
    for config in examples(step):
        records = full_batch(config)
        nulled = step.execute(records, config, context(step, config))
        assert len(nulled.records) == len(records)
        assert nulled.rejects == []
        rejecting = step.execute(records, {**config, "on_error": "reject"}, context(step, config))
        assert len(rejecting.records) + len(rejecting.rejects) == len(records)
        rows = [reject.row for reject in rejecting.rejects]
        assert rows == sorted(set(rows))
        for reject in rejecting.rejects:
            if reject.field is None:
                assert step.key in ABOUT_WHOLE_ROWS
                continue
            assert reject.value == records[reject.row].get(reject.field)
        if rejecting.rejects:
            with pytest.raises(StepError) as caught:
                step.execute(records, {**config, "on_error": "fail"}, context(step, config))
            assert caught.value.code == rejecting.rejects[0].code


@every_step
@pytest.mark.parametrize("on_error", ["null", "reject", "fail"])
@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_input_raises_anything_but_a_step_error(step: Step[Any], on_error: str, data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(examples(step)))
    if "on_error" in step.config_model.model_fields:
        config = {**config, "on_error": on_error}
    records = data.draw(batches(config))
    before = copy.deepcopy(records)
    assert repr(outcome(step, records, config)) == repr(outcome(step, copy.deepcopy(records), config))
    assert repr(records) == repr(before)
