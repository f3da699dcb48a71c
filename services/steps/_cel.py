"""Expressions of users in CEL, the Common Expression Language (https://cel.dev), with Google's C++ runtime.

CEL has no loops but over lists and maps, and no functions of a user's own; the runtime bounds nesting (32) and the
iterations of one evaluation. What is left could still grow: text that is replaced or joined again and again. So an
expression is bounded in length and in the number of such calls, the values that it reads are bounded, and steps with
expressions run in a process with limits on memory and time, never on a worker's own loop.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_strings

from services.steps._rowwise import Fault
from services.steps.base import Record

VERSION = f"cel{version('cel-expr-python')}"
EXPRESSION_MAX_CHARACTERS = 2_000
GROWING_MAX = 3
"""Calls in one expression that can make a value larger than what they were given, but for `+`."""
VALUE_MAX_CHARACTERS = 65_536
RESULT_MAX_CHARACTERS = 1_000_000
DEPTH_MAX = 32

_GROWING = re.compile(r"\b(?:map|filter|exists|exists_one|all|replace|join|format|split)\s*\(")
_ASKED = re.compile(r"\bhas\s*\(\s*row\.(\w+)")
_READ = re.compile(r"""\brow\s*(?:\.\s*([A-Za-z_]\w*)\b(?!\s*\()|\[\s*(?:'([^'\\]*)'|"([^"\\]*)")\s*\])""")
_TEXT = re.compile(r"""r?(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)


@lru_cache(maxsize=1)
def _environment() -> Any:
    row = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    return cel.NewEnv(variables={"row": row}, extensions=[ext_strings.ExtStrings(), ext_math.ExtMath()])


@lru_cache(maxsize=256)
def compiled(expression: str, *, boolean: bool = False) -> Any:
    """The expression, parsed and checked. Raises ValueError that says what is wrong with it, and where."""
    if len(expression) > EXPRESSION_MAX_CHARACTERS:
        raise ValueError(f"the expression has more than {EXPRESSION_MAX_CHARACTERS} characters")
    if len(_GROWING.findall(_TEXT.sub("''", expression))) > GROWING_MAX:
        raise ValueError(f"the expression has more than {GROWING_MAX} calls of map, replace, join and the like")
    try:
        checked = _environment().compile(expression)
    except RuntimeError as error:
        raise ValueError(f"the expression {expression!r} is not valid: {_readable(error)}") from error
    if boolean and checked.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
        raise ValueError(f"the expression {expression!r} gives {checked.return_type().name()}, and not true or false")
    return checked


def fields_read(expression: str) -> list[str]:
    """The fields that the expression cannot do without: those it names, but for those it asks `has` of."""
    asked = set(_ASKED.findall(expression))
    named = [next(filter(None, groups), "") for groups in _READ.findall(expression)]
    return [name for name in dict.fromkeys(named) if name and name not in asked]


def evaluate(expression: Any, record: Record) -> Any:
    """The value for one record, as JSON has it, or a Fault: `expression_error`, `value_too_long`, `not_json`."""
    if not _is_small(record, 0):
        return Fault("value_too_long")
    try:
        value = expression.eval(data={"row": record})
    except (RuntimeError, TypeError, ValueError, OverflowError):  # the budget, or a value that CEL does not know
        return Fault("expression_error")
    if value.type() == cel.Type.ERROR:
        return Fault("expression_error")
    return _plain(value.plain_value(), 0)


def _is_small(value: Any, depth: int) -> bool:
    """Whether no text in a value is too long for an expression, and no nest too deep."""
    if isinstance(value, str):
        return len(value) <= VALUE_MAX_CHARACTERS
    if depth > DEPTH_MAX:
        return False
    if isinstance(value, dict):
        return all(_is_small(item, depth + 1) for item in value.values())
    return not isinstance(value, list) or all(_is_small(item, depth + 1) for item in value)


def _plain(value: Any, depth: int) -> Any:
    """The value in JSON's types: times in RFC 3339, durations in seconds; a Fault for what JSON has not."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return value if len(value) <= RESULT_MAX_CHARACTERS else Fault("value_too_long")
        case float():
            return value if math.isfinite(value) else Fault("not_json")
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
    if depth > DEPTH_MAX:
        return Fault("not_json")
    if isinstance(value, Mapping):
        made = {key: _plain(item, depth + 1) for key, item in value.items()}
        if not all(isinstance(key, str) for key in made):
            return Fault("not_json")
        return next((item for item in made.values() if isinstance(item, Fault)), made)
    if isinstance(value, list | tuple):
        items = [_plain(item, depth + 1) for item in value]
        return next((item for item in items if isinstance(item, Fault)), items)
    return Fault("not_json")


def _readable(error: RuntimeError) -> str:
    """The library's message, on one line, without its codes."""
    text = str(error).removeprefix("INVALID_ARGUMENT: ").replace("[INVALID_ARGUMENT]", "")
    return " ".join(text.replace("ERROR: <input>:", "").split())[:500]
