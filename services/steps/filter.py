"""filter: the rows for which an expression is true."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from services.steps._cel import VERSION, compiled, evaluate, fields_read
from services.steps._rowwise import Fault, RowFault, RowwiseConfig, failed, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame


class FilterConfig(RowwiseConfig):
    """Which rows go on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"keep": "row.country == 'DE' && row.employees > 100", "on_error": "reject"}]}
    )

    keep: str = Field(min_length=1)
    """A CEL expression (https://cel.dev) that is true for the rows to keep, such as `row.country == 'DE'`. `row` is the
    row: `row.city`, or `row['Company Name']`; `has(row.city)` asks whether there is such a field. Bounded as those of
    `derive` are."""

    @model_validator(mode="after")
    def _expression_is_valid(self) -> Self:
        compiled(self.keep, boolean=True)
        return self


@frame_step(
    "filter",
    version=f"1+{VERSION}",
    summary="Keep the rows for which a CEL expression is true.",
    config=FilterConfig,
    isolated=True,
    examples=[
        Example(
            "Companies of some size; one whose size is no number",
            {"keep": "row.employees >= 100", "on_error": "reject"},
            [
                {"name": "Globex", "employees": 4200},
                {"name": "Initech", "employees": 12},
                {"name": "Hooli", "employees": "?"},
            ],
            [{"name": "Globex", "employees": 4200}],
            [Reject(2, None, "expression_error", None)],
        )
    ],
)
def filter(frame: Frame, config: FilterConfig, _: Context) -> Result:  # noqa: A001 - the step's key
    """Keep the rows for which the expression is true; the others are left out, and are no rejects.

    A row for which it gives no answer is a fault: `expression_error`, `value_too_long` (as for `derive`),
    `not_boolean`. Under `on_error: null` such a row is left out, as one that is not known to be wanted. Raises
    StepError `unknown_field` for a field that no row has, unless the expression asks `has` of it, and with a fault's
    code under `on_error: fail`.
    """
    require_fields(frame, fields_read(config.keep))
    expression = compiled(config.keep, boolean=True)
    ids = frame.row_ids()
    kept: list[int] = []
    rejects: list[Reject] = []
    for row, record in enumerate(frame.records()):
        answer = evaluate(expression, record)
        if answer is True:
            kept.append(row)
        elif answer is not False and config.on_error != "null":
            fault = RowFault(None, answer.code if isinstance(answer, Fault) else "not_boolean", None)
            if config.on_error == "fail":
                raise failed(ids[row], fault)
            rejects.append(Reject(ids[row], *fault))
    return Result(frame.take(kept), rejects)
