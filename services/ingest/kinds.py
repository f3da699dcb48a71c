"""Kinds of values: what the values of a field look like, and strict conversion into a kind."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from events.columns import INTEGER_MAX, INTEGER_MIN, Column
from events.errors import InvalidInputError
from events.strictjson import parse
from services.ingest.config import Kind
from services.steps._rowwise import Fault

# What text may be, in the order of preference. A leading zero or plus makes it text: `007` and `+44…` are no numbers.
PATTERNS: Mapping[str, str] = {
    "integer": r"^-?(0|[1-9][0-9]{0,17})$",
    "decimal": r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$",
    "boolean": r"^(?i:true|false|yes|no)$",
    "date": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    "datetime": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?$",
    "json": r"^(?s:\{.*\}|\[.*\])$",
}
OF_COLUMN = {"integer": "integer", "number": "decimal", "boolean": "boolean", "json": "json"}
PROBED = 100


@dataclass(slots=True)
class FieldSchema:
    """What the values of a field were so far."""

    rows: int = 0
    nulls: int = 0
    longest_chars: int = 0
    _text: list[str] = field(default_factory=lambda: list(PATTERNS))
    _kinds: set[str] = field(default_factory=set)

    def see(self, column: Column) -> None:
        """Take in the field's values of one chunk."""
        array = column.array
        self.rows += len(array)
        self.nulls += array.null_count
        if array.null_count == len(array):
            return
        if column.kind == "json":
            values = set(map(type, column.values())) - {type(None)}
            self.nulls += sum(value is None for value in column.values()) - array.null_count
            self._kinds |= {_JSON_KINDS.get(found, "json") for found in values}
        elif column.kind != "string":
            self._kinds.add(OF_COLUMN[column.kind])
        else:
            self._kinds.add("text")
            self.longest_chars = max(self.longest_chars, pc.max(pc.utf8_length(array)).as_py())
            self._narrow(array)

    def _narrow(self, array: pa.Array) -> None:
        """Strike out what the texts are not; a few are looked at first, as most fields are plain text."""
        if not self._text:
            return
        probe = array.slice(0, PROBED)
        for name in list(self._text):
            if not (_all_match(probe, PATTERNS[name]) and _all_match(array, PATTERNS[name])):
                self._text.remove(name)

    def plain(self) -> dict[str, Any]:
        """As the report has it; `kind` is `mixed` where values of several kinds were found."""
        kinds = {next(iter(self._text), "text") if kind == "text" else kind for kind in self._kinds}
        if kinds == {"integer", "decimal"}:
            kinds = {"decimal"}
        kind = "empty" if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"
        share = round(self.nulls / self.rows, 6) if self.rows else 0.0
        return {"kind": kind, "null_share": share, "longest_chars": self.longest_chars}


_JSON_KINDS: Mapping[type, str] = {str: "text", int: "integer", float: "decimal", bool: "boolean"}


def _all_match(array: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(array, pattern), min_count=0).as_py())


Cast = Callable[[Any], Any]
"""Gives the value in the kind, None for None, or a Fault."""

BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "t": True, "f": False, "y": True, "n": False} | {
    "1": True,
    "0": False,
}
_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?")
_DATETIME = re.compile(PATTERNS["datetime"])


def cast_to(kind: Kind) -> Cast:
    """The strict conversion into `kind`. Its faults are `not_<kind>`."""
    convert = _CASTS[kind]

    def cast(value: Any) -> Any:
        return None if value is None else convert(value)

    return cast


def _text(value: Any) -> Any:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _integer(value: Any) -> Any:
    if (type(value) is str and _INTEGER.fullmatch(value.strip())) or (type(value) is float and value.is_integer()):
        value = int(value)
    return value if type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX else Fault("not_integer")


def _number(value: Any) -> Any:
    if (type(value) is str and _NUMBER.fullmatch(value.strip())) or type(value) is int:
        value = float(value)
    return value if type(value) is float and math.isfinite(value) else Fault("not_number")


def _decimal(value: Any) -> Any:
    text = value.strip() if type(value) is str else str(value) if type(value) in (int, float) else ""
    return text if _DECIMAL.fullmatch(text) else Fault("not_decimal")


def _boolean(value: Any) -> Any:
    if type(value) is bool:
        return value
    text = str(value).strip().lower() if type(value) in (str, int) else ""
    return BOOLEANS.get(text, Fault("not_boolean"))


def _date(value: Any) -> Any:
    text = value.strip() if type(value) is str else ""
    try:
        return date.fromisoformat(text).isoformat() if len(text) == 10 else Fault("not_date")
    except ValueError:
        return Fault("not_date")


def _datetime(value: Any) -> Any:
    text = value.strip() if type(value) is str else ""
    try:
        if not _DATETIME.match(text):
            return Fault("not_datetime")
        datetime.fromisoformat(text)
    except ValueError:
        return Fault("not_datetime")
    return text


def _json(value: Any) -> Any:
    if type(value) is not str:
        return value
    try:
        return parse(value.encode())
    except InvalidInputError:
        return Fault("not_json")


_CASTS: Mapping[Kind, Cast] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "decimal": _decimal,
    "boolean": _boolean,
    "date": _date,
    "datetime": _datetime,
    "json": _json,
}
