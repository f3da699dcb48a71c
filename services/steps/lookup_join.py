"""lookup_join: fields from the matching row of another run's output."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from services.steps._keys import key_of
from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, check_fields, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame, distinct_rows

EXAMPLE_RUN = "5b0c6d1e-9d55-4a57-8d0c-3f0f6a0b7c01"


class LookupJoinConfig(RowwiseConfig):
    """Where to look, by what, and what to bring."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"run_id": EXAMPLE_RUN, "keys": {"country": "code"}, "fields": {"region": "region"}}]
        }
    )

    run_id: str = Field(max_length=64)
    """The run of this company, ended with success, whose output is looked into. It is held whole by each process."""

    keys: dict[str, str] = Field(min_length=1, max_length=16)
    """Field of the row to field of the other rows: all of them must be equal. Text is compared as it stands; blank
    values match nothing."""

    fields: dict[str, str] = Field(min_length=1, max_length=1000)
    """Output field to field of the matching row. A field of that name is replaced."""

    on_multiple: Literal["first", "fault"] = "first"
    """When several rows match: take the first in the other run's order, or find fault (`several_matches`)."""

    on_missing: Literal["null", "fault"] = "null"
    """When none matches: write null, or find fault (`no_match`)."""


@frame_step(
    "lookup_join",
    version="1",
    summary="Bring fields from the matching row of another run's output.",
    config=LookupJoinConfig,
    reads=reads_unless_rejecting(lambda config: list(config.keys)),
    references=lambda config: (config.run_id,),
    examples=[
        Example(
            "Regions by country, and a country that the table has not",
            {
                "run_id": EXAMPLE_RUN,
                "keys": {"country": "code"},
                "fields": {"region": "region"},
                "on_missing": "fault",
                "on_error": "reject",
            },
            [
                {"name": "Globex", "country": "DE"},
                {"name": "Hooli", "country": "US"},
                {"name": "Initech", "country": "XX"},
            ],
            [
                {"name": "Globex", "country": "DE", "region": "EMEA"},
                {"name": "Hooli", "country": "US", "region": "AMER"},
            ],
            [Reject(2, "country", "no_match", "XX")],
            references={EXAMPLE_RUN: [{"code": "DE", "region": "EMEA"}, {"code": "US", "region": "AMER"}]},
        )
    ],
)
def lookup_join(frame: Frame, config: LookupJoinConfig, context: Context) -> Result:
    """Write what the matching row has; rows keep their number and order.

    Numbers compare by value (1 is 1.0, but not true), lists and objects by their JSON text with sorted names. Faults:
    `no_match`, `several_matches`, as the config says; a reject names the first key. Raises StepError `unknown_field`
    (of the rows, or of the other run's), `unknown_run`, and a fault's code under `on_error: fail`.
    """
    require_fields(frame, config.keys)
    reference = context.references[config.run_id]
    table = _table(reference, config)
    nothing = (None,) * len(config.fields)

    def look_up(*values: Any) -> Any:
        key = key_of(values)
        found = None if key is None else table.get(key)
        if found is None:
            return Fault("no_match") if config.on_missing == "fault" else nothing
        return found

    work = Rowwise(frame, config.on_error)
    work.map_many(list(config.keys), look_up, list(config.fields))
    return work.result()


def _table(reference: Frame, config: LookupJoinConfig) -> dict[bytes, Any]:
    """The values to bring, or a fault, by key."""
    if len(reference):
        check_fields(reference.names, [*config.keys.values(), *config.fields.values()])
    combinations = distinct_rows(reference, list(config.keys.values()))
    keys = [key_of(values) for values in combinations.values]
    columns = [reference.values(name) for name in config.fields.values()]
    table: dict[bytes, Any] = {}
    for row, code in enumerate(combinations.code_list()):
        key = keys[code]
        if key is None:
            continue
        if key not in table:
            table[key] = tuple(column[row] for column in columns)
        elif config.on_multiple == "fault":
            table[key] = Fault("several_matches")
    return table
