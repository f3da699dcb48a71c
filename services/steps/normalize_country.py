"""normalize_country: many spellings of a country to one ISO 3166-1 code or name. It knows or it does not: no guess."""

import re
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal

from pydantic import ConfigDict

from services.steps._country_names import Country, codes, fold, names
from services.steps._rowwise import Changed, Fault, Memo, RowFault, RowwiseConfig, require_fields, run_rows
from services.steps.base import Record, StepOutput, step

MAX_CHARACTERS = 200
CODE = re.compile(r"[A-Za-z]{2,3}|[0-9]{3}")


class NormalizeCountryConfig(RowwiseConfig):
    """Which field holds the country, and how to write it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"field": "hq", "output_field": "country", "output": "alpha-2"}]}
    )

    field: str
    """The field with the country: a name in one of many languages, or an ISO 3166-1 code (two or three letters, or
    three digits)."""

    output_field: str | None = None
    """The field to write into, which is replaced if there is one; null writes into `field` itself."""

    output: Literal["alpha-2", "alpha-3", "name"] = "alpha-2"
    """What to write: the two-letter code, the three-letter code, or the English name of the CLDR."""


@step(
    "normalize_country",
    version=f"1+iso3166-{version('iso3166')}+babel{version('babel')}+ucd{unicodedata.unidata_version}",
    summary="Turn country names and codes into ISO 3166-1.",
    config=NormalizeCountryConfig,
)
def normalize_country(records: Sequence[Record], config: NormalizeCountryConfig) -> StepOutput:
    """Write the country's code or name; null and blank stay null.

    A spelling is looked up, never matched approximately: codes first, as they stand, then names without regard to
    case, accents and punctuation. So `NA` is Namibia's code, and `N.A.` is unknown. Kosovo is XK and XKX, from the
    user-assigned range. Faults: `not_text`, `unknown_country` (also for what several countries are called, such as
    Congo). Raises StepError `unknown_field`, and either fault's code under `on_error: fail`.
    """
    require_fields(records, [config.field])
    field = config.field
    target = config.output_field or field
    column = {"alpha-2": 0, "alpha-3": 1, "name": 2}[config.output]
    memo = Memo(_country)

    def change(record: Record) -> Changed:
        value = record.get(field)
        if value is None:
            return {**record, target: None}, None
        result = memo[value] if isinstance(value, str) else Fault("not_text")
        if isinstance(result, Fault):
            return {**record, target: None}, RowFault(field, result.code, value)
        return {**record, target: None if result is None else result[column]}, None

    return run_rows(records, config.on_error, change)


def _country(text: str) -> Country | Fault | None:
    """The country a text names, None for a blank text, or a Fault."""
    if len(text) > MAX_CHARACTERS:
        return Fault("unknown_country")
    text = unicodedata.normalize("NFKC", text).strip()
    if not text:
        return None
    country = codes().get(text.upper()) if CODE.fullmatch(text) else None
    return country or names().get(fold(text)) or Fault("unknown_country")
