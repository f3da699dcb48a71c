"""Expressions of users in JMESPath (https://jmespath.org), with bounds on what they can make.

JMESPath has no loops but over lists and objects that it was given, and no reference to a place outside of the one at
hand: its time is about that of walking the value. What can grow is the result, by writing the same value several times
and then again; so an expression is bounded in length and in how many times its result may hold what it was given.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any, NamedTuple

import jmespath
from jmespath import exceptions
from jmespath.functions import Functions

from services.steps._rowwise import Fault
from services.steps._size import RESULT_SIZE_MAX, size_of

VERSION = f"jmespath{version('jmespath')}"
EXPRESSION_MAX_CHARACTERS = 1_000
GROWTH_MAX = 64
"""How many times larger than the row a result may be, at worst."""
NESTING_MAX = 50

_FUNCTIONS = frozenset(Functions.FUNCTION_TABLE)
_SCALAR = frozenset({"abs", "avg", "ceil", "contains", "ends_with", "floor", "length", "starts_with", "sum", "type"})
_OPTIONAL = frozenset({"not_null", "type"})
Node = dict[str, Any]


@lru_cache(maxsize=1024)
def compiled(expression: str) -> Any:
    """The expression, parsed and checked. Raises ValueError that says what is wrong with it, and where."""
    if len(expression) > EXPRESSION_MAX_CHARACTERS:
        raise ValueError(f"the expression has more than {EXPRESSION_MAX_CHARACTERS} characters")
    try:
        found = jmespath.compile(expression)
    except exceptions.JMESPathError as error:
        raise ValueError(f"not a JMESPath expression: {error}") from error
    except RecursionError as error:
        raise ValueError("the expression nests too deeply") from error
    if _depth(found.parsed) > NESTING_MAX:
        raise ValueError(f"the expression nests more than {NESTING_MAX} deep")
    unknown = {node["value"] for node in _nodes(found.parsed) if node["type"] == "function_expression"} - _FUNCTIONS
    if unknown:
        raise ValueError(f"unknown function: {', '.join(sorted(unknown))}")
    if _growth(found.parsed).peak > GROWTH_MAX:
        raise ValueError(f"it could hold what it is given more than {GROWTH_MAX} times over; split it, or write less")
    return found


def fields_read(expression: str) -> list[str]:
    """The fields that rows must have for the expression to find something; not those of which it has an alternative."""
    return list(dict.fromkeys(_roots(compiled(expression).parsed)))


def evaluate(expression: str, record: Any) -> Any:
    """The expression's result, or a Fault: `expression_error`, `too_large`, `too_deep`, `not_json`."""
    try:
        found = compiled(expression).search(record)
    except (exceptions.JMESPathError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError):
        # the library checks the types of a function's arguments, but not of all that is in them
        return Fault("expression_error")
    except RecursionError:
        return Fault("too_deep")
    size = size_of(found, RESULT_SIZE_MAX)
    return size if isinstance(size, Fault) else found


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node["children"]:
        yield from _nodes(child)


def _depth(node: Node) -> int:
    return 1 + max(map(_depth, node["children"]), default=0)


class _Growth(NamedTuple):
    """How many times what it is given a node's result can hold, at worst, and what is held on the way to it."""

    result: int
    peak: int


def _growth(node: Node) -> _Growth:
    """A literal counts by its length."""
    kind, children = node["type"], node["children"]
    if kind == "literal":
        return _Growth(length := max(1, len(repr(node["value"]))), length)
    grown = [_growth(child) for child in children]
    peaks = min(sum(one.peak for one in grown), GROWTH_MAX + 1)
    results = min(sum(one.result for one in grown), GROWTH_MAX + 1)
    if kind == "function_expression":
        if node["value"] in _SCALAR:
            return _Growth(1, peaks)
        if node["value"] in ("map", "sort_by", "max_by", "min_by"):
            return _one_after_another(grown[::-1] if node["value"] == "map" else grown)
        if node["value"] == "to_string":
            results *= 6  # it may write six characters for one
        elif node["value"] == "join" and len(children) == 2:
            # a separator that is itself data could be as long as all that is joined, and stand between any two
            separator = grown[0].result if children[0]["type"] == "literal" else GROWTH_MAX
            results = grown[1].result * (1 + separator)
        return _Growth(results, max(results, peaks))
    if kind in ("comparator", "not_expression"):
        return _Growth(1, peaks)
    if kind in ("multi_select_list", "multi_select_dict", "or_expression", "and_expression"):
        return _Growth(results, peaks)
    if kind == "filter_projection":
        left, right, condition = grown
        found = _one_after_another([left, right])
        return _Growth(found.result, max(found.peak, _one_after_another([left, condition]).peak))
    return _one_after_another(grown)


def _one_after_another(grown: Sequence[_Growth]) -> _Growth:
    """Each works on what the one before it made."""
    made = peak = 1
    for one in grown:
        peak = min(max(peak, made * one.peak), GROWTH_MAX + 1)
        made = min(made * one.result, GROWTH_MAX + 1)
    return _Growth(made, peak)


def _roots(node: Node) -> Iterator[str]:
    """The names that a node looks for in what it is given."""
    match node["type"]:
        case "field":
            yield node["value"]
        case "or_expression" | "expref" | "literal" | "current" | "identity":
            return
        case "function_expression" if node["value"] in _OPTIONAL:
            return
        case "multi_select_list" | "multi_select_dict" | "key_val_pair" | "function_expression" | "comparator":
            for child in node["children"]:
                yield from _roots(child)
        case "and_expression" | "not_expression":
            for child in node["children"]:
                yield from _roots(child)
        case _:
            # the rest looks into what its first part gives
            if node["children"]:
                yield from _roots(node["children"][0])
