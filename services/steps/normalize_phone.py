"""normalize_phone: telephone numbers in one international spelling, by libphonenumber's numbering plans."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat, ValidationResult
from pydantic import ConfigDict, field_validator

from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame, distinct_rows

MAX_CHARACTERS = 250  # the library's own bound

UNPARSED = {
    NumberParseException.INVALID_COUNTRY_CODE: "unknown_country_code",
    NumberParseException.NOT_A_NUMBER: "not_a_number",
    NumberParseException.TOO_SHORT_AFTER_IDD: "too_short",
    NumberParseException.TOO_SHORT_NSN: "too_short",
    NumberParseException.TOO_LONG: "too_long",
}
IMPOSSIBLE = {
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "local_only",
    ValidationResult.TOO_SHORT: "too_short",
    ValidationResult.TOO_LONG: "too_long",
}


class NormalizePhoneConfig(RowwiseConfig):
    """Which field holds the number, which country it is read in, and how to write it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"field": "phone", "region_field": "country", "default_region": "US", "format": "E164"}]
        }
    )

    field: str
    """The field with the telephone number, as text."""

    region_field: str | None = None
    """A field with the country that a number without a country code is dialled in: ISO 3166-1 alpha-2, in any case
    (see normalize_country). A code that is not known leaves only numbers with a `+` readable."""

    default_region: str | None = None
    """The country (ISO 3166-1 alpha-2, such as `GB`) where `region_field` is null or blank, or not named."""

    output_field: str | None = None
    """The field to write into, which is replaced if there is one; null writes into `field` itself."""

    format: Literal["E164", "INTERNATIONAL", "NATIONAL", "RFC3966"] = "E164"
    """How to write: `+442083661177` (which drops an extension), `+44 20 8366 1177`, `020 8366 1177`, or
    `tel:+44-20-8366-1177`."""

    @field_validator("default_region")
    @classmethod
    def _region_is_known(cls, region: str | None) -> str | None:
        if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(f"{region!r} is not an ISO 3166-1 alpha-2 code with a numbering plan, such as GB or US")
        return region


# rphonenumbers is faster, but 0.1.0 carries the numbering plans of 9.0.41: it takes for invalid some numbers that are
# valid by now, and the reverse. One set of plans decides, and the version names it.
@frame_step(
    "normalize_phone",
    version=f"1+phonenumbers{version('phonenumbers')}",
    summary="Check telephone numbers and write them in one format.",
    config=NormalizePhoneConfig,
    reads=reads_unless_rejecting(
        lambda config: [config.field, *([config.region_field] if config.region_field is not None else [])]
    ),
    examples=[
        Example(
            "The row's country decides how a national number is read",
            {"field": "phone", "region_field": "country", "default_region": "US", "on_error": "reject"},
            [
                {"phone": "020 8366 1177", "country": "GB"},
                {"phone": "(650) 253-0000", "country": None},
                {"phone": "0033 1 42 68 53 00", "country": "DE"},
                {"phone": "ask reception", "country": "GB"},
            ],
            [
                {"phone": "+442083661177", "country": "GB"},
                {"phone": "+16502530000", "country": None},
                {"phone": "+33142685300", "country": "DE"},
            ],
            [Reject(3, "phone", "not_a_number", "ask reception")],
        )
    ],
)
def normalize_phone(frame: Frame, config: NormalizePhoneConfig, _: Context) -> Result:
    """Write the number when it is a valid one of its country; null and blank stay null.

    Faults: `not_text` (of either field), `not_a_number`, `unknown_region` (no `+`, and no usable country to read it
    in), `unknown_country_code`, `too_short`, `too_long`, `local_only` (dialled within one area only), `invalid_number`
    (the right length, but not given out). Raises StepError `unknown_field`, and the fault's code under
    `on_error: fail`. The numbering plans are those packaged with phonenumbers.
    """
    sources = [config.field, *([config.region_field] if config.region_field is not None else [])]
    require_fields(frame, sources)
    normalise = _normaliser(config)
    # The library has thousands of patterns, and Python keeps 512 compiled: numbers of one country are done together.
    texts = [values for values in distinct_rows(frame, sources).values if all(map(_is_text_or_null, values))]
    done = {values: normalise(*values) for values in sorted(texts, key=_by_country)}

    def looked_up(*values: Any) -> tuple[str | None] | Fault:
        return done[values] if all(map(_is_text_or_null, values)) else normalise(*values)

    work = Rowwise(frame, config.on_error)
    work.map_many(sources, looked_up, [config.output_field or config.field])
    return work.result()


def _is_text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _by_country(values: Sequence[str | None]) -> tuple[str, ...]:
    """A sort key by which numbers that are read by the same patterns are near each other."""
    return tuple(value or "" for value in reversed(values))


def _normaliser(config: NormalizePhoneConfig) -> Callable[..., tuple[str | None] | Fault]:
    """The function from a number and perhaps its region to the number as it is written, or a Fault."""
    number_format = getattr(PhoneNumberFormat, config.format)

    def normalise(value: Any, region: Any = None) -> tuple[str | None] | Fault:
        if not isinstance(value, str):
            return (None,) if value is None else Fault("not_text")
        text = value.strip()
        if not text:
            return (None,)
        if region is not None and not isinstance(region, str):
            return Fault("not_text", at=1)
        code = (region or "").strip().upper()
        known = code in phonenumbers.SUPPORTED_REGIONS
        number = _parsed(text, code if known else None if code else config.default_region)
        if isinstance(number, Fault):
            return Fault(number.code, at=1) if number.code == "unknown_region" and code else number
        return (phonenumbers.format_number(number, number_format),)

    return normalise


def _parsed(text: str, region: str | None) -> phonenumbers.PhoneNumber | Fault:
    """The valid number that `text` is when dialled in `region`, or why it is none."""
    if len(text) > MAX_CHARACTERS:
        return Fault("too_long")
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException as error:
        if error.error_type == NumberParseException.INVALID_COUNTRY_CODE and region is None and "+" not in text:
            return Fault("unknown_region")
        return Fault(UNPARSED[error.error_type])
    if phonenumbers.is_valid_number(number):
        return number
    return Fault(IMPOSSIBLE.get(phonenumbers.is_possible_number_with_reason(number), "invalid_number"))
