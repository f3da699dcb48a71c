"""assert_quality: what a batch must hold, or the run fails."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field, model_validator

from services.steps._keys import row_keys
from services.steps._rowwise import require_fields
from services.steps._values import identity, is_blank, order_key
from services.steps.base import Context, Example, Exchange, Result, Step, StepConfig, StepError
from services.steps.frame import Frame

ROWS_SHOWN = 5
PATTERN_MAX_CHARACTERS = 1_000
TEXT_MAX_CHARACTERS = 65_536
"""A pattern's time is in proportion to the text, but the factor may be large: longer texts are not looked at."""
Scalar = str | int | float | bool


class FieldCheck(StepConfig):
    """What the values of a field must be. Blank values (null, text of whitespace only) are for `max_null_share`
    alone."""

    field: str
    """The field."""

    max_null_share: float | None = Field(default=None, ge=0, le=1)
    """At most this share of all rows may be blank: 0 for none."""

    allowed_values: list[Scalar] | None = Field(default=None, min_length=1, max_length=10_000)
    """The values that there may be. Text is compared as it stands, numbers by value."""

    pattern: str | None = Field(default=None, min_length=1, max_length=PATTERN_MAX_CHARACTERS)
    """A regular expression in RE2's syntax (https://github.com/google/re2/wiki/Syntax), which takes time in
    proportion to the text; it must be found in each text, so write `^…$` for the whole. What is no text, or a
    text of more than 65,536 characters, does not match."""

    minimum: int | float | str | None = None
    """The smallest value: a number for numbers, a text for texts (by code point; ISO dates are in the order of time).
    A value of another type is a violation."""

    maximum: int | float | str | None = None
    """The largest value, likewise."""

    max_violation_share: float = Field(default=0, ge=0, le=1)
    """At most this share of the values that are not blank may break `allowed_values`, `pattern`, `minimum` or
    `maximum`, each for itself."""

    @model_validator(mode="after")
    def _checks_something(self) -> Self:
        if not _rules(self) and self.max_null_share is None:
            raise ValueError(f"nothing is asked of the field {self.field!r}")
        if self.pattern is not None:
            _matching(self.pattern, [""])  # raises ValueError
        return self


class AssertQualityConfig(StepConfig):
    """What the batch must hold, and what happens when it does not."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "max_rows": 1_000_000,
                    "unique": [["email"]],
                    "fields": [
                        {"field": "email", "max_null_share": 0.05, "pattern": "^[^@]+@[^@]+$"},
                        {"field": "stage", "allowed_values": ["open", "won", "lost"]},
                        {"field": "employees", "minimum": 1, "maximum": 3_000_000, "max_violation_share": 0.01},
                    ],
                    "on_violation": "report",
                }
            ]
        }
    )

    min_rows: int | None = Field(default=None, ge=0)
    """The batch has at least so many rows."""

    max_rows: int | None = Field(default=None, ge=0)
    """The batch has at most so many rows."""

    unique: list[Annotated[list[str], Field(min_length=1, max_length=16)]] = Field(default=[], max_length=16)
    """Sets of fields: no two rows agree on all fields of a set. A row with a blank among them is not looked at; what
    is equal is told as by deduplicate."""

    fields: list[FieldCheck] = Field(default=[], max_length=200)
    """What the values of single fields must be."""

    on_violation: Literal["fail", "report"] = "fail"
    """`fail` fails the step with `quality_failed`; `report` goes on. Either way the figures are told, in the message or
    in the step's report."""

    @model_validator(mode="after")
    def _checks_something(self) -> Self:
        if self.min_rows is None and self.max_rows is None and not self.unique and not self.fields:
            raise ValueError("nothing is asked: name min_rows, max_rows, unique or fields")
        return self


def _reads(config: AssertQualityConfig) -> list[str]:
    """The fields that are looked at."""
    names = (*(check.field for check in config.fields), *(name for key in config.unique for name in key))
    return list(dict.fromkeys(names))


def _extract(frame: Frame, config: AssertQualityConfig, _: Context) -> pa.Table:
    """For each row its number, and whether it is blank in, or breaks, each thing that is asked; keys of 128 bits."""
    require_fields(frame, _reads(config))
    columns: dict[str, Any] = {"row": pa.array(frame.row_ids(), pa.int64())}
    for number, names in enumerate(config.unique):
        columns[f"key {number}"] = row_keys(frame, names)
    for number, check in enumerate(config.fields):
        coded = frame.coded(check.field)
        codes = np.asarray(coded.codes, np.int64)
        blank = np.array([is_blank(value) for value in coded.values], bool)
        columns[f"blank {number}"] = pa.array(blank[codes])
        for rule in _rules(check):
            broken = ~np.array(_holds(check, rule, coded.values), bool) & ~blank
            columns[f"{rule} {number}"] = pa.array(broken[codes])
    return pa.table(columns)


def _combine(
    parts: Sequence[pa.Table], config: AssertQualityConfig, _: Context
) -> tuple[list[pa.Table], Mapping[str, Any]]:
    """The figures; nothing to say to the chunks. Raises StepError `quality_failed`."""
    whole = pa.concat_tables(parts) if parts else None
    rows = 0 if whole is None else len(whole)
    checks = []
    if config.min_rows is not None:
        checks.append({"rule": "min_rows", "found": rows, "limit": config.min_rows, "passed": rows >= config.min_rows})
    if config.max_rows is not None:
        checks.append({"rule": "max_rows", "found": rows, "limit": config.max_rows, "passed": rows <= config.max_rows})
    if whole is not None:
        ids = whole["row"].to_numpy()
        for number, names in enumerate(config.unique):
            copies = _copies(whole[f"key {number}"])
            checks.append(_figures("unique", ", ".join(names), copies, rows, 0, ids))
        for number, check in enumerate(config.fields):
            blank = whole[f"blank {number}"].to_numpy()
            if check.max_null_share is not None:
                checks.append(_figures("max_null_share", check.field, blank, rows, check.max_null_share, ids))
            present = rows - int(blank.sum())
            for rule in _rules(check):
                broken = whole[f"{rule} {number}"].to_numpy()
                checks.append(_figures(rule, check.field, broken, present, check.max_violation_share, ids))
    violated = [check for check in checks if not check["passed"]]
    if violated and config.on_violation == "fail":
        raise StepError("; ".join(map(_sentence, violated)), code="quality_failed")
    return [pa.table({}) for _ in parts], {"rows": rows, "passed": not violated, "checks": checks}


def _apply(frame: Frame, _verdict: pa.Table, _config: AssertQualityConfig, _context: Context) -> Result:
    return Result(frame)


def _figures(
    rule: str, field: str, broken: npt.NDArray[np.bool_], of: int, limit: float, ids: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """How many rows break a rule, of how many, which share may, and the numbers of the first that do."""
    found = int(broken.sum())
    shown = ids[np.flatnonzero(broken)[:ROWS_SHOWN]].tolist()
    passed = found <= Decimal(repr(limit)) * of  # 0.29 of 100 rows is 29, which it is not in binary fractions
    return {"rule": rule, "field": field, "found": found, "of": of, "limit": limit, "passed": passed, "rows": shown}


def _sentence(check: Mapping[str, Any]) -> str:
    """A violation, as people read it."""
    if "field" not in check:
        return f"{check['rule']}: the batch has {check['found']} rows, the limit is {check['limit']}"
    share = f"{check['found'] / check['of']:.4%}" if check["of"] else "0%"
    where = ", ".join(map(str, check["rows"]))
    return (
        f"{check['rule']} of {check['field']!r}: {check['found']} of {check['of']} ({share}), "
        f"the limit is {check['limit']:.4%}; the first rows: {where}"
    )


def _copies(keys: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which rows have the key of an earlier row."""
    encoded = keys.combine_chunks().dictionary_encode()
    there = np.flatnonzero(encoded.is_valid().to_numpy(zero_copy_only=False))
    _, firsts = np.unique(encoded.indices.drop_null().to_numpy(), return_index=True)
    copies = np.zeros(len(keys), bool)
    copies[there] = True
    copies[there[firsts]] = False
    return copies


def _rules(check: FieldCheck) -> list[str]:
    """What is asked of each value that is not blank."""
    return [name for name in ("allowed_values", "pattern", "minimum", "maximum") if getattr(check, name) is not None]


def _holds(check: FieldCheck, rule: str, values: Sequence[Any]) -> Sequence[bool]:
    """Whether each value is as the rule asks."""
    match rule:
        case "pattern":
            assert check.pattern is not None
            return _matching(check.pattern, values)
        case "allowed_values":
            allowed = {identity(value) for value in check.allowed_values or ()}
            return [identity(value) in allowed for value in values]
    limit = getattr(check, rule)
    kind, bound = order_key(limit)
    sign = 1 if rule == "minimum" else -1

    def within(value: Any) -> bool:
        if is_blank(value) or isinstance(value, list | dict):
            return False
        found, amount = order_key(value)
        return found == kind and (amount == bound or (amount > bound) == (sign > 0))

    return [within(value) for value in values]


def _matching(pattern: str, values: Sequence[Any]) -> list[bool]:
    """Whether the pattern is found in each text. Raises ValueError for a pattern that is none."""
    texts = [_unicode(value) if isinstance(value, str) else None for value in values]
    try:
        found = pc.match_substring_regex(pa.array(texts, pa.string()), pattern)
    except pa.ArrowInvalid as error:
        raise ValueError(f"the pattern {pattern!r} is not one that RE2 knows: {error}") from error
    return [bool(one) for one in found.to_pylist()]


def _unicode(text: str) -> str | None:
    """The text, if UTF-8 can hold it and it is not too long."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text if len(text) <= TEXT_MAX_CHARACTERS else None


assert_quality = Step(
    "assert_quality",
    version=f"1+arrow{pa.__version__}",
    summary="Check that the batch holds what it must; fail, or report the figures.",
    config_model=AssertQualityConfig,
    body=Exchange(_extract, _combine, _apply, extracts=_reads),
    isolated=True,  # a pattern may be slow
    reads=_reads,
    holds="8 bytes a row, 16 for each set in `unique`, and one for each thing that is asked of a field.",
    examples=[
        Example(
            "One bad address of three is too much; the rows go on, and the report tells",
            {
                "unique": [["email"]],
                "fields": [{"field": "email", "max_null_share": 0.3, "pattern": "^[^@]+@[^@]+$"}],
                "on_violation": "report",
            },
            [{"email": "ann@acme.com"}, {"email": "n/a"}, {"email": None}, {"email": "bo@acme.com"}],
            [{"email": "ann@acme.com"}, {"email": "n/a"}, {"email": None}, {"email": "bo@acme.com"}],
        )
    ],
)
"""The rows go on as they came. The report has `rows`, `passed`, and `checks`: for each thing asked its rule, field, how
many rows break it (`found`), `of` how many, the `limit`, whether it `passed`, and the numbers of the first five rows.

Regular expressions are RE2's, as Arrow has it. Raises StepError `quality_failed`, whose message names every rule that
is violated, with its figures; `unknown_field`; `unusable_key` and `unusable_value` for values that nest too deeply to
compare.
"""
