"""validate: rows against a JSON Schema."""

from functools import cached_property
from importlib.metadata import version
from typing import Any, Self

import jsonschema_rs
import orjson
from pydantic import ConfigDict, Field, JsonValue, model_validator

from services.steps._rowwise import RowFault, RowwiseConfig, failed, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

SCHEMA_MAX_BYTES = 64 * 1024
_UNBOUNDED = ("$ref", "$dynamicRef", "$recursiveRef")


class ValidateConfig(RowwiseConfig):
    """What a row must be like."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"rules": {"required": ["email", "company"], "minProperties": 3}}],
        },
    )

    rules: dict[str, JsonValue] = Field(min_length=1)
    """A JSON Schema (2020-12) of one row, of at most 64 KiB; `format` counts. References to anything but the schema's
    own parts (`#/…`) are refused; patterns take time in proportion to the text (no look-around, no back references)."""

    @cached_property
    def validator(self) -> Any:
        """The compiled schema."""
        return jsonschema_rs.Draft202012Validator(
            self.rules, validate_formats=True, pattern_options=jsonschema_rs.RegexOptions()
        )

    @model_validator(mode="after")
    def _the_schema_is_one(self) -> Self:
        if len(orjson.dumps(self.rules)) > SCHEMA_MAX_BYTES:
            raise ValueError(f"the schema has more than {SCHEMA_MAX_BYTES} bytes")
        if foreign := _foreign_references(self.rules):
            raise ValueError(f"the schema refers to {foreign[0]!r}; it may refer to its own parts only (#/…)")
        try:
            _ = self.validator
        except (ValueError, jsonschema_rs.ValidationError) as error:
            raise ValueError(f"the schema is not valid: {str(error)[:300]}") from error
        return self


@frame_step(
    "validate",
    version=f"1+jsonschema{version('jsonschema-rs')}",
    summary="Check rows against a JSON Schema.",
    config=ValidateConfig,
    isolated=True,
    examples=[
        Example(
            "Companies with a name and a number of employees",
            {
                "rules": {
                    "required": ["name"],
                    "properties": {"name": {"type": "string", "minLength": 1}, "employees": {"type": "integer"}},
                },
                "on_error": "reject",
            },
            [{"name": "Globex", "employees": 42}, {"name": "", "employees": 1}, {"employees": 7}],
            [{"name": "Globex", "employees": 42}],
            [Reject(1, "name", "minLength", ""), Reject(2, None, "required", None)],
        )
    ],
)
def validate(frame: Frame, config: ValidateConfig, _: Context) -> Result:
    """Let the rows go on that fit, as they are. The first fault of a row counts.

    Its code is the keyword of the schema that the row does not fit (`required`, `type`, `pattern`, …), its field the
    one the keyword is about, and null where that is the row as a whole; `not_json` for a row that JSON cannot hold.
    Under `on_error: null` a row that does not fit loses the value at fault, and goes on. Raises StepError
    `unknown_field` for a required field that no row has, and with the keyword under `on_error: fail`.
    """
    required = config.rules.get("required")
    require_fields(frame, map(str, required) if isinstance(required, list) else ())
    ids, records = frame.row_ids(), frame.records()
    kept: list[int] = []
    rejects: list[Reject] = []
    emptied: dict[int, RowFault] = {}
    for row, record in enumerate(records):
        fault = _fault(config.validator, record)
        if fault is None or config.on_error == "null":
            kept.append(row)
            if fault is not None:
                emptied[row] = fault
        elif config.on_error == "fail":
            raise failed(ids[row], fault)
        else:
            rejects.append(Reject(ids[row], *fault))
    if not emptied:
        return Result(frame if len(kept) == len(ids) else frame.take(kept), rejects)
    mended = [
        {**record, emptied[row].field: None} if row in emptied and emptied[row].field in record else record
        for row, record in enumerate(records)
    ]
    return Result(frame.of(mended, ids), rejects)


def _fault(validator: Any, record: dict[str, Any]) -> RowFault | None:
    try:
        if validator.is_valid(record):
            return None
        error = next(iter(validator.iter_errors(record)))
    except (ValueError, TypeError, OverflowError):
        return RowFault(None, "not_json", None)
    path = list(error.instance_path)
    field = str(path[0]) if path else None
    keyword = next((str(part) for part in reversed(list(error.schema_path)) if isinstance(part, str)), "schema")
    return RowFault(field, keyword, None if field is None else record.get(field))


def _foreign_references(schema: Any) -> list[str]:
    """What the schema refers to outside of itself."""
    if isinstance(schema, list):
        return [found for item in schema for found in _foreign_references(item)]
    if not isinstance(schema, dict):
        return []
    own = [str(value) for name, value in schema.items() if name in _UNBOUNDED and not str(value).startswith("#")]
    return own + [found for value in schema.values() for found in _foreign_references(value)]
