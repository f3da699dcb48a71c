"""derive: new fields from expressions over the row."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from services.steps._cel import VERSION, compiled, evaluate, fields_read
from services.steps._rowwise import Changed, Fault, RowFault, RowwiseConfig, require_fields, run_rows
from services.steps.base import Context, Example, Record, Reject, Result, frame_step
from services.steps.frame import Frame


class DeriveConfig(RowwiseConfig):
    """Which fields to write, and from what."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "fields": {
                        "full_name": "row.first + ' ' + row.last",
                        "tier": "row.employees > 1000 ? 'enterprise' : 'smb'",
                    }
                }
            ]
        }
    )

    fields: dict[str, str] = Field(min_length=1, max_length=100)
    """Output field to CEL expression (https://cel.dev), such as `row.first + ' ' + row.last`. `row` is the row as it
    came in: `row.city`, or `row['Company Name']`; `has(row.city)` asks whether there is such a field. A field of that
    name is replaced. At most 2,000 characters each, with CEL's standard functions and its string and math extensions;
    at most three calls of `map`, `filter`, `replace`, `join` and others that repeat or grow."""

    @model_validator(mode="after")
    def _expressions_are_valid(self) -> Self:
        for name, expression in self.fields.items():
            try:
                compiled(expression)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return self


@frame_step(
    "derive",
    version=f"1+{VERSION}",
    summary="Write fields from CEL expressions over the row.",
    config=DeriveConfig,
    isolated=True,
    examples=[
        Example(
            "Names, a size class, and a row that has no number",
            {
                "fields": {
                    "name": "row.first + ' ' + row.last",
                    "size": "row.employees > 1000 ? 'enterprise' : 'smb'",
                },
                "on_error": "reject",
            },
            [
                {"first": "Ada", "last": "Byron", "employees": 4200},
                {"first": "Max", "last": "Weber", "employees": 12},
                {"first": "Eve", "last": "Moss", "employees": "many"},
            ],
            [
                {"first": "Ada", "last": "Byron", "employees": 4200, "name": "Ada Byron", "size": "enterprise"},
                {"first": "Max", "last": "Weber", "employees": 12, "name": "Max Weber", "size": "smb"},
            ],
            [Reject(2, "size", "expression_error", None)],
        )
    ],
)
def derive(frame: Frame, config: DeriveConfig, _: Context) -> Result:
    """Write what each expression gives; all of them see the row as it came in.

    Times are written as RFC 3339 text, durations as seconds. Faults: `expression_error` (a field that the row lacks,
    a value of the wrong type, a division by zero, too many iterations), `value_too_long` (the row has a text of more
    than 65,536 characters or nests too deeply, or the result has more than a million), `not_json` (bytes, a type, a
    number that is not finite). A reject names the output field. An expression that is not valid is an error of the
    config. Raises StepError `unknown_field` for a field that no row has, unless the expression asks `has` of it, and
    with a fault's code under `on_error: fail`.
    """
    require_fields(frame, (name for expression in config.fields.values() for name in fields_read(expression)))
    expressions = {name: compiled(expression) for name, expression in config.fields.items()}

    def change(record: Record) -> Changed:
        fault: RowFault | None = None
        made = dict(record)
        for name, expression in expressions.items():
            value = evaluate(expression, record)
            if isinstance(value, Fault):
                fault = fault or RowFault(name, value.code, record.get(name))
                value = None
            made[name] = value
        return made, fault

    return run_rows(frame, config.on_error, change)
