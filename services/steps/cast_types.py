"""cast_types: text to numbers, booleans, dates and times, and back, by explicit rules."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from decimal import Context as Decimals
from importlib.metadata import version
from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from events.columns import INTEGER_MAX, INTEGER_MIN
from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps._times import Parser, in_zone, parser_of, zone_of
from services.steps.base import Context, Example, Reject, Result, StepConfig, frame_step
from services.steps.frame import Frame

TEXT_MAX_CHARACTERS: Final = 1_000
DIGITS_MAX: Final = 100
_EXACT = Decimals(prec=4 * DIGITS_MAX + 700)
_SPACES: Final = str.maketrans("", "", " \u00a0\u2007\u2009\u202f")
_FORMATS: Final = {
    "date": ["%Y-%m-%d"],
    "datetime": [
        f"%Y-%m-%d{between}%H:%M{rest}{zone}"
        for between in "T "
        for rest in (":%S.%f", ":%S", "")
        for zone in ("%z", "")
    ],
}


class Cast(StepConfig):
    """A field, and the type that its values get."""

    field: str
    """The field."""

    to: Literal["integer", "number", "decimal", "boolean", "date", "datetime", "text"]
    """`integer`: whole numbers of 64 bits. `number`: a JSON number. `decimal`: exact text with `scale` places, such as
    `12.50`. `boolean`: by tokens. `date`: text such as `2026-03-01`. `datetime`: text in UTC such as
    `2026-03-01T09:30:00Z`, with fractions of a second where there are any. `text`: numbers, true and false as JSON
    writes them. Blank text becomes null, but for `text`."""

    output_field: str | None = None
    """The field to write into, which is replaced if there is one; null writes into `field` itself."""

    formats: list[str] = Field(default=[], max_length=32)
    """For `date` and `datetime`: the formats that values are in; the first that fits is taken, so of `%d/%m/%Y` and
    `%m/%d/%Y` the one that comes first decides what 01/02/2026 is. Directives: %Y %y (69 to 99 are 1969 to 1999) %m
    %d %b %B (English names) %H %I %p %M %S %f %z, %% for a percent sign; case does not matter. Or, for numbers:
    `excel` (days since 30 December 1899), `unix` (seconds) or `unix_ms` (milliseconds since 1970, UTC). None: ISO
    8601, `2026-03-01` or `2026-03-01T09:30:00Z` (seconds, fractions and offset may be missing, T may be a space)."""

    time_zone: str | None = None
    """For `datetime`: the IANA zone, such as `Europe/Paris`, of times that have no offset. Null makes them the fault
    `no_time_zone`. A time that there was twice is the earlier one; one that there was not is `no_such_time`. A `date`
    is the day that the text names, whatever its offset."""

    scale: int = Field(default=2, ge=0, le=20)
    """For `decimal`: the places after the point."""

    rounding: Literal["half_even", "half_up", "refuse"] = "half_even"
    """For `decimal`: how a number with more places is rounded; `refuse` makes it the fault `too_many_places`."""

    decimal_mark: Literal[".", ","] = "."
    """For numbers in text: what stands before the fraction."""

    thousands_mark: Literal["", ",", ".", " ", "'", "_"] = ""
    """For numbers in text: what may stand between groups of three digits; the space stands for no-break and thin ones
    too. A text with groups of another size is no number."""

    strip: list[str] = Field(default=[], max_length=20)
    """For numbers in text: texts that are taken away at either end, once each, such as `$`, `EUR` or `%`."""

    true_tokens: list[str] = Field(default=["true", "yes", "y", "1", "t"], max_length=100)
    """For `boolean`: what is true, without regard to case and outer whitespace; numbers are looked up as JSON writes
    them."""

    false_tokens: list[str] = Field(default=["false", "no", "n", "0", "f"], max_length=100)
    """For `boolean`: what is false."""

    @model_validator(mode="after")
    def _rules_fit(self) -> Self:
        if self.formats and self.to not in _FORMATS:
            raise ValueError("formats are for date and datetime")
        if self.time_zone is not None and self.to != "datetime":
            raise ValueError("time_zone is for datetime")
        if self.decimal_mark == self.thousands_mark:
            raise ValueError("decimal_mark and thousands_mark are the same")
        if both := {_token(text) for text in self.true_tokens} & {_token(text) for text in self.false_tokens}:
            raise ValueError(f"true and false at once: {', '.join(sorted(both))}")
        _caster(self)  # raises ValueError for a format or a zone that there is not
        return self


class CastTypesConfig(RowwiseConfig):
    """Which fields get which types."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "casts": [
                        {"field": "employees", "to": "integer", "thousands_mark": ","},
                        {"field": "revenue", "to": "decimal", "strip": ["$"], "thousands_mark": ","},
                        {"field": "rating", "to": "number"},
                        {"field": "active", "to": "boolean"},
                        {"field": "founded", "to": "date", "formats": ["%d.%m.%Y", "%Y-%m-%d"]},
                        {"field": "seen", "to": "datetime", "time_zone": "Europe/Berlin"},
                        {"field": "zip", "to": "text"},
                    ]
                }
            ]
        }
    )

    casts: list[Cast] = Field(min_length=1, max_length=1000)
    """The fields and their types, in order; each reads what came in, not what another wrote."""

    @model_validator(mode="after")
    def _outputs_stay_apart(self) -> Self:
        outputs = [cast.output_field or cast.field for cast in self.casts]
        if len(set(outputs)) < len(outputs):
            raise ValueError("two casts write into the same field")
        return self


@frame_step(
    "cast_types",
    version=f"1+tzdata{version('tzdata')}",
    summary="Turn text into numbers, decimals, booleans, dates and times by explicit formats.",
    config=CastTypesConfig,
    reads=reads_unless_rejecting(lambda config: [cast.field for cast in config.casts]),
    examples=[
        Example(
            "A European export; a date that no format fits goes to the rejects",
            {
                "casts": [
                    {
                        "field": "amount",
                        "to": "decimal",
                        "decimal_mark": ",",
                        "thousands_mark": ".",
                        "strip": ["€"],
                    },
                    {"field": "closed", "to": "date", "formats": ["%d.%m.%Y", "excel"]},
                    {"field": "seen", "to": "datetime", "time_zone": "Europe/Berlin"},
                    {"field": "active", "to": "boolean", "true_tokens": ["ja"], "false_tokens": ["nein"]},
                ],
                "on_error": "reject",
            },
            [
                {"amount": "1.234,5 €", "closed": "01.03.2026", "seen": "2026-07-01 09:30", "active": "Ja"},
                {"amount": 12, "closed": 46082, "seen": "2026-07-01T09:30:00.25-05:00", "active": False},
                {"amount": "", "closed": None, "seen": None, "active": " nein "},
                {"amount": "1", "closed": "3/1/2026", "seen": None, "active": None},
            ],
            [
                {"amount": "1234.50", "closed": "2026-03-01", "seen": "2026-07-01T07:30:00Z", "active": True},
                {"amount": "12.00", "closed": "2026-03-01", "seen": "2026-07-01T14:30:00.250000Z", "active": False},
                {"amount": None, "closed": None, "seen": None, "active": False},
            ],
            [Reject(3, "closed", "no_format_fits", "3/1/2026")],
        )
    ],
)
def cast_types(frame: Frame, config: CastTypesConfig, _: Context) -> Result:
    """Cast each field's values; null stays null.

    A fraction counts as the decimal that JSON writes for it. Faults: `not_scalar` (a list or an object), `too_long`
    (more than 1,000 characters), `not_a_number`, `not_an_integer` (it has a fraction), `out_of_range` (beyond 64 bits,
    or what a number or a calendar holds; more than 100 digits), `too_many_places`, `not_a_boolean`, `no_format_fits`,
    `no_time_zone`, `no_such_time`, `invalid_unicode` (a lone surrogate). Raises StepError `unknown_field`, and a
    fault's code under `on_error: fail`.
    """
    require_fields(frame, (cast.field for cast in config.casts))
    work = Rowwise(frame, config.on_error)
    for cast in config.casts:
        work.map(cast.field, _caster(cast), into=cast.output_field)
    return work.result()


def _caster(cast: Cast) -> Callable[[Any], Any]:
    """What casts one value: to a value, None, or a Fault. Raises ValueError for a format or zone that there is not."""
    make = _maker(cast)

    def to_type(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list | dict):
            return Fault("not_scalar")
        if isinstance(value, str) and cast.to != "text":
            if len(value) > TEXT_MAX_CHARACTERS:
                return Fault("too_long")
            value = value.strip()
            if not value:
                return None
        return make(value)

    return to_type


def _maker(cast: Cast) -> Callable[[Any], Any]:
    match cast.to:
        case "integer":
            return _numeric(cast, _integer)
        case "number":
            return _numeric(cast, _number)
        case "decimal":
            return _numeric(cast, lambda number: _decimal(number, cast))
        case "boolean":
            return _boolean(cast)
        case "text":
            return _text
        case _:
            return _dated(cast)


def _numeric(cast: Cast, convert: Callable[[Decimal], Any]) -> Callable[[Any], Any]:
    """Reads a number, exactly, and converts it."""
    group = {"": "", ".": r"\.", " ": "[ \u00a0\u2007\u2009\u202f]"}.get(cast.thousands_mark, cast.thousands_mark)
    digits = f"(?:[0-9]{{1,3}}(?:{group}[0-9]{{3}})+|[0-9]+)" if group else "[0-9]+"
    mark = re.escape(cast.decimal_mark)
    pattern = re.compile(rf"[+-]?(?:{digits}(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][+-]?[0-9]{{1,3}})?")

    def read(text: str) -> Decimal | None:
        """The number that a text, which is not empty, writes."""
        text = text.replace("\u2212", "-")  # the minus sign of typographers
        sign = text[0] if text[0] in "+-" else ""
        text = text[len(sign) :]
        for affix in cast.strip:  # between a sign and the number too: -$5
            text = text.removeprefix(affix).removesuffix(affix).strip()
        text = sign + text
        if not pattern.fullmatch(text):
            return None
        if cast.thousands_mark:
            text = text.translate(_SPACES) if cast.thousands_mark == " " else text.replace(cast.thousands_mark, "")
        return Decimal(text.replace(",", "."))

    def to_number(value: Any) -> Any:
        number: Decimal | None
        if isinstance(value, bool):
            return Fault("not_a_number")
        if isinstance(value, str):
            number = read(value)
            if number is None:
                return Fault("not_a_number")
        else:
            if isinstance(value, float) and not math.isfinite(value):
                return Fault("out_of_range")
            number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        if len(number.as_tuple().digits) > DIGITS_MAX or abs(number.adjusted()) > 400:
            return Fault("out_of_range")
        return convert(number)

    return to_number


def _integer(number: Decimal) -> int | Fault:
    if number and number.adjusted() < 0:
        return Fault("not_an_integer")
    if number != number.to_integral_value(context=_EXACT):
        return Fault("not_an_integer")
    return int(number) if INTEGER_MIN <= number <= INTEGER_MAX else Fault("out_of_range")


def _number(number: Decimal) -> float | Fault:
    found = float(number)
    return found + 0.0 if math.isfinite(found) else Fault("out_of_range")  # + 0.0: there is one zero


def _decimal(number: Decimal, cast: Cast) -> str | Fault:
    step = Decimal(1).scaleb(-cast.scale)
    mode = ROUND_HALF_UP if cast.rounding == "half_up" else ROUND_HALF_EVEN
    if number.adjusted() > DIGITS_MAX:
        return Fault("out_of_range")
    found = number.quantize(step, rounding=mode, context=_EXACT)
    if cast.rounding == "refuse" and found != number:
        return Fault("too_many_places")
    return format(found if found else found.copy_abs(), "f")


def _boolean(cast: Cast) -> Callable[[Any], bool | Fault]:
    tokens = {_token(text): True for text in cast.true_tokens} | {_token(text): False for text in cast.false_tokens}

    def to_boolean(value: Any) -> bool | Fault:
        if isinstance(value, bool):
            return value
        return tokens.get(_token(value if isinstance(value, str) else repr(value)), Fault("not_a_boolean"))

    return to_boolean


def _token(text: str) -> str:
    return text.strip().casefold()


def _dated(cast: Cast) -> Callable[[Any], str | Fault]:
    parsers: list[Parser] = [parser_of(form) for form in cast.formats or _FORMATS[cast.to]]
    zone = None if cast.time_zone is None else zone_of(cast.time_zone)

    def to_date(value: Any) -> str | Fault:
        if isinstance(value, bool):
            return Fault("no_format_fits")
        text = value if isinstance(value, str) else repr(value)
        found = next((time for parse in parsers if (time := parse(text)) is not None), None)
        if found is None:
            return Fault("no_format_fits")
        if cast.to == "date":
            return found.date().isoformat()
        return _in_utc(found)

    def _in_utc(found: datetime) -> str | Fault:
        if found.tzinfo is None:
            if zone is None:
                return Fault("no_time_zone")
            local = in_zone(found, zone)
            if local is None:
                return Fault("no_such_time")
            found = local
        try:
            return found.astimezone(UTC).isoformat().replace("+00:00", "Z")
        except OverflowError:
            return Fault("out_of_range")

    return to_date


def _text(value: Any) -> str | Fault:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if value.isascii() or not re.search(r"[\ud800-\udfff]", value) else Fault("invalid_unicode")
    if isinstance(value, float) and not math.isfinite(value):
        return Fault("out_of_range")
    return repr(value)
