"""map_fields: rename, copy, default and drop columns."""

from collections.abc import Sequence
from typing import Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from services.steps._rowwise import Changed, RowFault, RowwiseConfig, require_fields, run_rows
from services.steps.base import Record, StepError, StepOutput, step


class MapFieldsConfig(RowwiseConfig):
    """Which columns go on, and under which names."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "mappings": {"company": "Company Name", "country": "HQ"},
                    "defaults": {"source": "crm"},
                    "drop_unmapped": True,
                },
                {"defaults": {"source": "crm"}, "required": ["company"]},
            ]
        }
    )

    mappings: dict[str, str] = Field(default={}, max_length=1000)
    """New name to old name. One old field may feed several new ones, and two may swap their names."""

    defaults: dict[str, JsonValue] = Field(default={}, max_length=1000)
    """Output field to the value it gets where it is missing or null after the mapping."""

    required: list[str] = Field(default=[], max_length=1000)
    """Output fields that must not be null after the defaults; one that is falls under `on_error`."""

    drop_unmapped: bool = False
    """Leave out every input field that no mapping reads. Otherwise they follow, under their own names."""

    @model_validator(mode="after")
    def _required_fields_are_output(self) -> Self:
        absent = [name for name in self.required if name not in self.mappings and name not in self.defaults]
        if self.drop_unmapped and absent:
            raise ValueError("with drop_unmapped, each required field must be in mappings or defaults")
        return self


@step(
    "map_fields",
    version="1",
    summary="Rename, copy, default and drop fields.",
    config=MapFieldsConfig,
)
def map_fields(records: Sequence[Record], config: MapFieldsConfig) -> StepOutput:
    """Rename fields: the mapped ones first, in the config's order, then the unmapped ones in the row's.

    A mapped field that a row lacks is null. Raises StepError `unknown_field`, `field_collision` when a new name is
    also the name of an unmapped field of some row (one of the two would be lost), and `missing_value` for a required
    field that is null under `on_error: fail`.
    """
    mappings, defaults, required = config.mappings, config.defaults, config.required
    sources = frozenset(mappings.values())
    kept_as_is = [name for name in required if name not in mappings and name not in defaults]
    require_fields(records, [*mappings.values(), *kept_as_is])

    def change(record: Record) -> Changed:
        mapped = {new: record.get(old) for new, old in mappings.items()}
        if not config.drop_unmapped:
            unmapped = {name: value for name, value in record.items() if name not in sources}
            if not mapped.keys().isdisjoint(unmapped):
                name = next(name for name in mapped if name in unmapped)
                raise StepError(
                    f"{name!r} is the new name of {mappings[name]!r} and the name of another field",
                    code="field_collision",
                )
            mapped.update(unmapped)
        for name, default in defaults.items():
            if mapped.get(name) is None:
                mapped[name] = default
        for name in required:
            if mapped.get(name) is None:
                mapped[name] = None
                return mapped, RowFault(name, "missing_value", None)
        return mapped, None

    return run_rows(records, config.on_error, change)
