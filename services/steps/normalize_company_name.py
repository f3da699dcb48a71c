"""normalize_company_name: a company's name without its legal form, and a key to compare names by."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, Self

from pydantic import ConfigDict, model_validator

from services.steps._legal_forms import without_legal_form
from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

MAX_CHARACTERS = 500
SURROGATE = re.compile(r"[\ud800-\udfff]")
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
NOT_IN_AN_ASCII_KEY = re.compile(r"[^a-z0-9]+")
# Marks that are letters' own rather than accents: nuktas, the voicing of kana, viramas (combining classes of UAX #44).
LETTERS_OWN = frozenset({7, 8, 9})


class NormalizeCompanyNameConfig(RowwiseConfig):
    """Which field holds the name, and what to make of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"field": "company", "output_field": "company_name", "key_field": "company_key"}],
        }
    )

    field: str
    """The field with the company's name. It is kept as it is."""

    output_field: str = "company_name"
    """The field to write the name into, another than `field`. A field of that name is replaced."""

    strip_legal_form: bool = True
    """Take off legal forms that end the name (`Ltd`, `GmbH & Co. KG`, `株式会社`), and nowhere else in it. A name that
    would be nothing else is left alone."""

    case: Literal["none", "lower", "upper", "title"] = "none"
    """The letter case to write; `title` capitalises each word, acronyms too (`IBM` becomes `Ibm`)."""

    key_field: str | None = None
    """A field to write a comparison key into: the name in small letters without accents, punctuation and double
    spaces, null when that leaves nothing; null writes none."""

    @model_validator(mode="after")
    def _the_raw_name_is_kept(self) -> Self:
        outputs = [self.output_field, *([self.key_field] if self.key_field is not None else [])]
        if len({self.field, *outputs}) <= len(outputs):
            raise ValueError("field, output_field and key_field must be different fields")
        return self


@frame_step(
    "normalize_company_name",
    version=f"1+cleanco{version('cleanco')}+ucd{unicodedata.unidata_version}",
    summary="Take legal forms off company names, and write a key to compare them by.",
    config=NormalizeCompanyNameConfig,
    reads=reads_unless_rejecting(lambda config: [config.field]),
    examples=[
        Example(
            "Spellings of one company get one key",
            {"field": "company", "output_field": "name", "key_field": "key", "on_error": "reject"},
            [
                {"company": "Müller  GmbH & Co. KG"},
                {"company": "MULLER"},
                {"company": "SAS Institute Inc."},
                {"company": "Acme Widgets, Pty. Ltd."},
                {"company": 42},
            ],
            [
                {"company": "Müller  GmbH & Co. KG", "name": "Müller", "key": "muller"},
                {"company": "MULLER", "name": "MULLER", "key": "muller"},
                {"company": "SAS Institute Inc.", "name": "SAS Institute", "key": "sas institute"},
                {"company": "Acme Widgets, Pty. Ltd.", "name": "Acme Widgets", "key": "acme widgets"},
            ],
            [Reject(4, "company", "not_text", 42)],
        )
    ],
)
def normalize_company_name(frame: Frame, config: NormalizeCompanyNameConfig, _: Context) -> Result:
    """Write the name, in Unicode form NFKC with single spaces, and its key; null and blank stay null.

    Legal forms are those of cleanco and a table of ours. Faults: `not_text`, `too_long` (over 500 characters),
    `invalid_unicode` (a lone surrogate). Raises StepError `unknown_field`, and the fault's code under
    `on_error: fail`.
    """
    require_fields(frame, [config.field])
    outputs = [config.output_field, *([config.key_field] if config.key_field is not None else [])]
    normalise = _normaliser(config)

    def names(value: Any) -> tuple[str | None, ...] | Fault:
        name = normalise(value)
        return name if isinstance(name, Fault) else (name, name and comparison_key(name))[: len(outputs)]

    work = Rowwise(frame, config.on_error)
    work.map_many([config.field], names, outputs)
    return work.result()


def _normaliser(config: NormalizeCompanyNameConfig) -> Callable[[Any], str | Fault | None]:
    """The function that normalises one value: the name, None for null and blank, or a Fault."""
    recase = _RECASE[config.case]

    def normalise(value: Any) -> str | Fault | None:
        if not isinstance(value, str):
            return None if value is None else Fault("not_text")
        if len(value) > MAX_CHARACTERS:
            return Fault("too_long")
        if SURROGATE.search(value):
            return Fault("invalid_unicode")
        name = " ".join(unicodedata.normalize("NFKC", value).split())
        if config.strip_legal_form:
            name = without_legal_form(name)
        return unicodedata.normalize("NFKC", recase(name)) or None

    return normalise


def comparison_key(name: str) -> str | None:
    """Small letters and digits with single spaces between words, without accents; None when there are none."""
    if name.isascii():
        return " ".join(NOT_IN_AN_ASCII_KEY.sub(" ", name.lower().replace("'", "")).split()) or None
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    kept = (_in_a_key(character) for character in text)
    # Composed again, for the sake of Hangul, which is taken apart with the accents.
    return unicodedata.normalize("NFC", " ".join("".join(kept).split())) or None


@cache
def _in_a_key(character: str) -> str:
    """What a character of a name is in its key: itself, nothing (accents, apostrophes), or a space (other signs)."""
    if character.isalnum():
        return character
    if unicodedata.category(character).startswith("M"):
        accent = unicodedata.combining(character) not in LETTERS_OWN | {0}
        return "" if accent else character
    return "" if character in "'’" else " "


def _title(text: str) -> str:
    return WORD.sub(lambda match: match[0].capitalize(), text)


_RECASE: dict[str, Callable[[str], str]] = {"none": str, "lower": str.lower, "upper": str.upper, "title": _title}
