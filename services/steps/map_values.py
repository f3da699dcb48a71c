"""map_values: a field's values by a table, spelling variants included."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator
from rapidfuzz import fuzz, process

from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

FUZZY_MAX_CHARACTERS = 200


class MapValuesConfig(RowwiseConfig):
    """Which field, and what its values become."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "field": "stage",
                    "table": {"Closed Won": "won", "Closed Lost": "lost"},
                    "default": "open",
                    "fuzzy_cutoff": 85,
                }
            ]
        }
    )

    field: str
    """The field whose values are looked up. Numbers and true and false are looked up as JSON writes them; null stays
    null."""

    table: dict[str, JsonValue] = Field(min_length=1, max_length=10_000)
    """Value as it comes in to value as it goes on."""

    output_field: str | None = None
    """The field to write into, which is replaced if there is one; null writes into `field` itself."""

    default: JsonValue = None
    """What becomes of a value that is not in the table. Null makes it the fault `unmapped`."""

    ignore_case: bool = True
    """Look up without regard to letter case and outer whitespace."""

    fuzzy_cutoff: float | None = Field(default=None, ge=50, le=100)
    """Take the entry that is most alike, when its likeness is at least this (0 to 100, Indel similarity of
    rapidfuzz); among equals the first in the table. Null looks up exact values only."""

    @model_validator(mode="after")
    def _entries_stay_apart(self) -> Self:
        if self.ignore_case and len({_folded(key) for key in self.table}) < len(self.table):
            raise ValueError("the table has entries that differ in case only; turn ignore_case off, or join them")
        return self


@frame_step(
    "map_values",
    version=f"1+rapidfuzz{version('rapidfuzz')}",
    summary="Replace a field's values by a table, with a default and approximate matches.",
    config=MapValuesConfig,
    isolated=True,  # every value is compared with every key
    reads=reads_unless_rejecting(lambda config: [config.field]),
    examples=[
        Example(
            "Deal stages of two systems, one of them misspelt",
            {
                "field": "stage",
                "table": {"Closed Won": "won", "Closed Lost": "lost"},
                "fuzzy_cutoff": 85,
                "on_error": "reject",
            },
            [{"stage": "closed won"}, {"stage": "Closd Lost"}, {"stage": None}, {"stage": "Parked"}],
            [{"stage": "won"}, {"stage": "lost"}, {"stage": None}],
            [Reject(3, "stage", "unmapped", "Parked")],
        )
    ],
)
def map_values(frame: Frame, config: MapValuesConfig, _: Context) -> Result:
    """Look each value up; null stays null.

    Faults: `unmapped` (not in the table, and there is no default), `not_text` (a list or an object). Raises StepError
    `unknown_field`, and either fault's code under `on_error: fail`.
    """
    require_fields(frame, [config.field])
    work = Rowwise(frame, config.on_error)
    work.map(config.field, _lookup(config), into=config.output_field)
    return work.result()


def _lookup(config: MapValuesConfig) -> Callable[[Any], Any]:
    fold = _folded if config.ignore_case else str
    table = {fold(key): value for key, value in config.table.items()}
    keys = list(table)

    def look_up(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list | dict):
            return Fault("not_text")
        key = fold(_text(value))
        if key in table:
            return table[key]
        if config.fuzzy_cutoff is not None and len(key) <= FUZZY_MAX_CHARACTERS:
            found = process.extractOne(key, keys, scorer=fuzz.ratio, score_cutoff=config.fuzzy_cutoff)
            if found is not None:
                return table[keys[found[2]]]
        return Fault("unmapped") if config.default is None else config.default

    return look_up


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _folded(text: str) -> str:
    return text.strip().casefold()
