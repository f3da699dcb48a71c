"""map_fields: rename, copy, default and drop columns."""

from collections.abc import Callable
from typing import Any, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, require_fields
from services.steps.base import Context, Example, Reject, Result, StepError, frame_step
from services.steps.frame import Frame


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


@frame_step(
    "map_fields",
    version="1",
    summary="Rename, copy, default and drop fields.",
    config=MapFieldsConfig,
    examples=[
        Example(
            "The columns of an export under one's own names",
            {
                "mappings": {"company": "Company Name", "country": "HQ"},
                "defaults": {"source": "crm"},
                "required": ["company"],
                "drop_unmapped": True,
                "on_error": "reject",
            },
            [
                {"Record ID": "1", "Company Name": "Acme", "HQ": "DE"},
                {"Record ID": "2", "Company Name": None, "HQ": "FR"},
                {"Record ID": "3", "Company Name": "Globex"},
            ],
            [
                {"company": "Acme", "country": "DE", "source": "crm"},
                {"company": "Globex", "country": None, "source": "crm"},
            ],
            [Reject(1, "company", "missing_value", None)],
        )
    ],
)
def map_fields(frame: Frame, config: MapFieldsConfig, _: Context) -> Result:
    """Rename fields: the mapped ones first, in the config's order, then the unmapped ones in the batch's.

    A mapped field that a row lacks is null. Raises StepError `unknown_field`, `field_collision` when a new name is
    also the name of an unmapped field of some row (one of the two would be lost), and `missing_value` for a required
    field that is null under `on_error: fail`.
    """
    mappings, defaults = config.mappings, config.defaults
    read = set(mappings.values())
    as_it_is = [name for name in config.required if name not in mappings and name not in defaults]
    require_fields(frame, [*read, *as_it_is])
    unmapped = [] if config.drop_unmapped else [name for name in frame.names if name not in read]
    for name in unmapped:
        if name in mappings:
            raise StepError(
                f"{name!r} is the new name of {mappings[name]!r} and the name of another field", code="field_collision"
            )
    work = Rowwise(frame.select({**mappings, **{name: name for name in unmapped}}, mappings), config.on_error)
    for name in dict.fromkeys([*defaults, *config.required]):
        work.map(name, _filler(defaults.get(name), name in config.required))
    return work.result()


def _filler(default: Any, required: bool) -> Callable[[Any], Any]:
    """The function that fills in a value that is missing, or finds fault with it."""

    def fill(value: Any) -> Any:
        value = default if value is None else value
        return Fault("missing_value") if required and value is None else value

    return fill
