"""normalize_country: many spellings of a country to one ISO 3166-1 code or name. It knows or it does not: no guess."""

import re
import unicodedata
from importlib.metadata import version
from typing import Any, Literal

from pydantic import ConfigDict

from services.steps._country_names import Country, codes, fold, names
from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

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


@frame_step(
    "normalize_country",
    version=f"1+iso3166-{version('iso3166')}+babel{version('babel')}+ucd{unicodedata.unidata_version}",
    summary="Turn country names and codes into ISO 3166-1.",
    config=NormalizeCountryConfig,
    reads=reads_unless_rejecting(lambda config: [config.field]),
    examples=[
        Example(
            "Names in several languages, and codes",
            {"field": "hq", "output_field": "country", "on_error": "reject"},
            [{"hq": "Deutschland"}, {"hq": " u.s.a. "}, {"hq": "GBR"}, {"hq": "Congo"}, {"hq": None}],
            [
                {"hq": "Deutschland", "country": "DE"},
                {"hq": " u.s.a. ", "country": "US"},
                {"hq": "GBR", "country": "GB"},
                {"hq": None, "country": None},
            ],
            [Reject(3, "hq", "unknown_country", "Congo")],
        )
    ],
)
def normalize_country(frame: Frame, config: NormalizeCountryConfig, _: Context) -> Result:
    """Write the country's code or name; null and blank stay null.

    A spelling is looked up, never matched approximately: codes first, as they stand, then names without regard to
    case, accents and punctuation. So `NA` is Namibia's code, and `N.A.` is unknown. Kosovo is XK and XKX, from the
    user-assigned range. Faults: `not_text`, `unknown_country` (also for what several countries are called, such as
    Congo). Raises StepError `unknown_field`, and either fault's code under `on_error: fail`.
    """
    require_fields(frame, [config.field])
    place = {"alpha-2": 0, "alpha-3": 1, "name": 2}[config.output]

    def country(value: Any) -> str | Fault | None:
        if not isinstance(value, str):
            return None if value is None else Fault("not_text")
        found = _country(value)
        return found[place] if isinstance(found, tuple) else found

    work = Rowwise(frame, config.on_error)
    work.map(config.field, country, into=config.output_field)
    return work.result()


def _country(text: str) -> Country | Fault | None:
    """The country a text names, None for a blank text, or a Fault."""
    if len(text) > MAX_CHARACTERS:
        return Fault("unknown_country")
    text = unicodedata.normalize("NFKC", text).strip()
    if not text:
        return None
    country = codes().get(text.upper()) if CODE.fullmatch(text) else None
    return country or names().get(fold(text)) or Fault("unknown_country")
