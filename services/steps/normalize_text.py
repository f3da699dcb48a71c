"""normalize_text: one spelling for text that should be equal (Unicode form, case, whitespace, null tokens)."""

import re
import unicodedata
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal

import ftfy
from pydantic import ConfigDict, Field

from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

# The pattern of str.title's documentation, with the typographic apostrophe: "o’brien's" is one word.
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
SURROGATE = re.compile(r"[\ud800-\udfff]")
# Zero-width space, word joiner and byte order mark: pasted in unseen, and str.split does not count them as space.
INVISIBLE = dict.fromkeys((0x200B, 0x2060, 0xFEFF))


class NormalizeTextConfig(RowwiseConfig):
    """Which fields, and which of the repairs they get."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"fields": ["name", "city"], "case": "none", "null_tokens": ["n/a", "-"], "fix_mojibake": True}
            ]
        }
    )

    fields: list[str] = Field(min_length=1, max_length=1000)
    """The fields to normalise, in place. A value that is not text is the fault `not_text`; null stays null."""

    nfkc: bool = True
    """Bring text to Unicode normalisation form NFKC (UAX #15): ligatures, full-width and composed letters."""

    case: Literal["none", "lower", "upper", "title"] = "none"
    """The letter case to write, by Unicode's rules without regard to language; `title` capitalises each word."""

    collapse_whitespace: bool = True
    """Trim, make each run of whitespace one space, and take out zero-width spaces and byte order marks."""

    null_tokens: list[str] = Field(default=[], max_length=1000)
    """Texts that mean null, compared without regard to case and outer whitespace, such as `n/a`. Add the empty
    text to make blanks null."""

    fix_mojibake: bool = False
    """Undo text that was decoded with the wrong encoding (`MÃ¼nchen` becomes `München`). Costs about half
    of the step's speed; a value that could be either is left alone."""


@frame_step(
    "normalize_text",
    version=f"1+ucd{unicodedata.unidata_version}+ftfy{version('ftfy')}",
    summary="Normalise Unicode form, whitespace and case; turn null tokens into null; repair mojibake.",
    config=NormalizeTextConfig,
    reads=reads_unless_rejecting(lambda config: config.fields),
    examples=[
        Example(
            "Names that were pasted and badly decoded",
            {"fields": ["name"], "case": "title", "null_tokens": ["n/a"], "fix_mojibake": True, "on_error": "reject"},
            [{"name": "  ANN   o'brien "}, {"name": "ﬁrma MÃ¼ller"}, {"name": " N/A"}, {"name": 7}],
            [{"name": "Ann O'brien"}, {"name": "Firma Müller"}, {"name": None}],
            [Reject(3, "name", "not_text", 7)],
        )
    ],
)
def normalize_text(frame: Frame, config: NormalizeTextConfig, _: Context) -> Result:
    """Normalise the named fields in place; a named field that a row lacks is written as null.

    Faults: `not_text` (the value is not a string), `invalid_unicode` (a lone surrogate, which UTF-8 cannot hold).
    Raises StepError `unknown_field`, and either fault's code under `on_error: fail`.
    """
    require_fields(frame, config.fields)
    normalise = _normaliser(config)
    work = Rowwise(frame, config.on_error)
    for field in config.fields:
        work.map(field, normalise)
    return work.result()


def _normaliser(config: NormalizeTextConfig) -> Callable[[Any], str | Fault | None]:
    """The function that normalises one value: it gives the text, None for null and a null token, or a Fault."""
    null_tokens = frozenset(_token(text) for text in config.null_tokens)
    recase = {"none": None, "lower": str.lower, "upper": str.upper, "title": _title}[config.case]

    def normalise(value: Any) -> str | Fault | None:
        if not isinstance(value, str):
            return None if value is None else Fault("not_text")
        text = value
        if not text.isascii():
            if SURROGATE.search(text):
                return Fault("invalid_unicode")
            if config.fix_mojibake:
                text = ftfy.fix_encoding(text)
            if config.nfkc:
                text = unicodedata.normalize("NFKC", text)
        if config.collapse_whitespace:
            text = _collapse(text)
        if null_tokens and _token(text) in null_tokens:
            return None
        if recase is not None:
            text = recase(text)
            if config.nfkc:
                # A change of case can leave NFKC: some upper-case letters have a composed form, their lower case none.
                text = unicodedata.normalize("NFKC", text)
        return text

    return normalise


def _collapse(text: str) -> str:
    return " ".join((text if text.isascii() else text.translate(INVISIBLE)).split())


def _token(text: str) -> str:
    return _collapse(unicodedata.normalize("NFKC", text)).casefold()


def _title(text: str) -> str:
    return WORD.sub(lambda match: match[0].capitalize(), text)
