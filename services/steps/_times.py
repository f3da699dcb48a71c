"""Dates and times by explicit formats: nothing is guessed, and no locale has a say.

The directives are those of POSIX strptime, with English names of months whatever the process's locale is. Time zones
are those of the IANA database as the package tzdata has it, whatever the machine has.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from importlib.resources import files
from typing import Final
from zoneinfo import ZoneInfo

FORMAT_MAX_CHARACTERS = 100

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONG: Final = (
    "january|february|march|april|may|june|july|august|september|october|november|december"  # the first three tell
)
_PATTERNS: Final[Mapping[str, str]] = {
    "Y": "(?P<Y>[0-9]{4})",
    "y": "(?P<y>[0-9]{2})",
    "m": "(?P<m>1[0-2]|0?[1-9])",
    "d": "(?P<d>3[01]|[12][0-9]|0?[1-9])",
    "b": f"(?P<b>{'|'.join(_MONTHS)})\\.?",
    "B": f"(?P<B>{_LONG})",
    "H": "(?P<H>2[0-3]|[01]?[0-9])",
    "I": "(?P<I>1[0-2]|0?[1-9])",
    "p": "(?P<p>am|pm|a\\.m\\.|p\\.m\\.)",
    "M": "(?P<M>[0-5]?[0-9])",
    "S": "(?P<S>[0-5]?[0-9])",
    "f": "(?P<f>[0-9]{1,9})",
    "z": "(?P<z>z|[+-][0-9]{2}:?[0-9]{2})",
}
_DATE: Final = ({"Y", "y"}, {"m", "b", "B"}, {"d"})
_EXCEL_EPOCH: Final = datetime(1899, 12, 30)  # noqa: DTZ001 - a day of the calendar; serial 60, 29 February 1900, never was
_SPECIAL: Final = ("excel", "unix", "unix_ms")

Parser = Callable[[str], datetime | None]
"""Reads a text; gives the time, with an offset if the text has one, or None when it is not of the format."""


def parser_of(form: str) -> Parser:
    """The parser of a format: of strptime's directives, or `excel`, `unix`, `unix_ms` for numbers.

    Raises ValueError that says what is wrong with the format.
    """
    if form in _SPECIAL:
        return lambda text: _from_number(form, text)
    pattern, names = _compiled(form)
    for several in _DATE:
        if len(several & names) != 1:
            raise ValueError(f"the format {form!r} needs one of {', '.join('%' + name for name in sorted(several))}")
    if ("I" in names) != ("p" in names) or {"H", "I"} <= names:
        raise ValueError(f"the format {form!r} needs %H, or %I and %p")

    def parse(text: str) -> datetime | None:
        found = pattern.fullmatch(text)
        return None if found is None else _built(found.groupdict())

    return parse


def zone_of(name: str) -> tzinfo:
    """The IANA time zone. Raises ValueError for one that there is not."""
    return _zone(name)


def in_zone(local: datetime, zone: tzinfo) -> datetime | None:
    """A time without an offset as one of the zone's, in UTC; the earlier of two when clocks were set back; None when
    they were set forward over it."""
    try:
        found = local.replace(tzinfo=zone).astimezone(UTC)
        return found if found.astimezone(zone).replace(tzinfo=None) == local else None
    except OverflowError:
        return None


def _compiled(form: str) -> tuple[re.Pattern[str], set[str]]:
    if len(form) > FORMAT_MAX_CHARACTERS:
        raise ValueError(f"a format has at most {FORMAT_MAX_CHARACTERS} characters")
    parts, names = [], set[str]()
    for token in re.findall(r"%.?|[^%]+", form, re.DOTALL):
        if not token.startswith("%"):
            parts.append(re.escape(token))
        elif token == "%%":
            parts.append("%")
        elif token[1:] not in _PATTERNS or token[1:] in names:
            known = ", ".join(f"%{name}" for name in _PATTERNS)
            raise ValueError(f"{token!r} in the format {form!r} is not one of {known}, or there twice")
        else:
            names.add(token[1:])
            parts.append(_PATTERNS[token[1:]])
    return re.compile("".join(parts), re.IGNORECASE | re.ASCII), names


def _built(found: Mapping[str, str | None]) -> datetime | None:
    """The time that a match tells; None for a day that there is not, such as 30 February."""
    year = found.get("Y")
    short = found.get("y")
    if year is None and short is not None:
        year = f"20{short}" if int(short) < 69 else f"19{short}"  # POSIX
    name = (found.get("b") or found.get("B") or "").lower()[:3]
    month = _MONTHS.index(name) + 1 if name else int(found.get("m") or 0)
    hour = int(found.get("H") or found.get("I") or 0)
    if half := found.get("p"):
        hour = hour % 12 + (12 if half.lower().startswith("p") else 0)
    # nanoseconds are cut to microseconds
    micros = int((found.get("f") or "0").ljust(6, "0")[:6])
    clock = (hour, int(found.get("M") or 0), int(found.get("S") or 0), micros)
    try:
        return datetime(int(year or 0), month, int(found.get("d") or 0), *clock, tzinfo=_offset(found.get("z")))
    except ValueError:
        return None


def _offset(text: str | None) -> tzinfo | None:
    if text is None:
        return None
    if text in "zZ":
        return UTC
    digits = text[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _from_number(form: str, text: str) -> datetime | None:
    """A number of days since 30 December 1899 (without an offset), or of seconds or milliseconds since 1970 in UTC."""
    if not re.fullmatch(r"-?[0-9]{1,15}(?:\.[0-9]{1,20})?", text):
        return None
    whole, _, rest = text.lstrip("-").partition(".")
    unit_us = {"excel": 86_400_000_000, "unix": 1_000_000, "unix_ms": 1_000}[form]
    # in whole numbers: no fraction is rounded twice. Excel's days are fractions, so they are good to the second only
    scale = 10 ** len(rest)
    micros = (int(whole + rest) * unit_us + scale // 2) // scale
    if form == "excel":
        micros = (micros + 500_000) // 1_000_000 * 1_000_000
    try:
        past = timedelta(microseconds=-micros if text.startswith("-") else micros)
        return _EXCEL_EPOCH + past if form == "excel" else datetime(1970, 1, 1, tzinfo=UTC) + past
    except OverflowError:
        return None


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    known = files("tzdata").joinpath("zones").read_text().split()
    if name not in known:
        raise ValueError(
            f"there is no time zone {name!r}; zones are named as in the IANA database, such as Europe/Paris"
        )
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)
