"""Exact sums: the result depends neither on the order of the numbers nor on where a chunk ends.

A fraction counts as the decimal that JSON writes for it, so that 0.1 + 0.2 is 0.3. What is added up is rounded once, at
the end.
"""

import math
import re
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Literal

from events.columns import INTEGER_MAX, INTEGER_MIN
from services.steps.base import StepError

Kind = Literal["integer", "number", "decimal"]
"""What numbers are written as: JSON integers, JSON numbers, or text such as `12.50`."""

DIGITS_MAX = 100
_DECIMAL = re.compile(rf"[+-]?[0-9]{{1,{DIGITS_MAX}}}(?:\.[0-9]{{1,{DIGITS_MAX}}})?")
# The largest and the smallest fraction are 633 digits apart; the rest is for 10^100 of them.
_EXACT = Context(prec=800)
_KINDS: tuple[Kind, ...] = ("integer", "number", "decimal")


def number_of(value: Any) -> tuple[Decimal, Kind] | None:
    """The number that a value is, and how it is written; None when it is none: text but for plain decimals of at most
    100 digits a side, true and false, integers beyond 64 bits, infinity."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return (Decimal(value), "integer") if INTEGER_MIN <= value <= INTEGER_MAX else None
    if isinstance(value, float):
        return (Decimal(repr(value)), "number") if math.isfinite(value) else None
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value), "decimal"
    return None


class ExactSum:
    """A running sum."""

    __slots__ = ("count", "kind", "total")

    def __init__(self) -> None:
        self.total = Decimal(0)
        self.count = 0
        self.kind: Kind = "integer"

    def add(self, value: Any, times: int = 1) -> bool:
        """Add a value so many times; False when it is no number, and nothing was added."""
        found = number_of(value)
        if found is None:
            return False
        number, kind = found
        self.total = _EXACT.add(self.total, _EXACT.multiply(number, Decimal(times)))
        self.count += times
        self.kind = widest(self.kind, kind)
        return True

    def sum(self, kind: Kind | None = None) -> Any:
        """The sum, written as `kind` (its own, if None): None when nothing was added.

        Raises StepError `number_too_large` when no JSON integer of 64 bits, or no number, can hold it.
        """
        if not self.count:
            return None
        match kind or self.kind:
            case "decimal":
                return format(self.total, "f")  # with as many places after the point as the number that has most
            case "number":
                return _finite(float(self.total))
            case _:
                if not INTEGER_MIN <= self.total <= INTEGER_MAX:
                    raise StepError(f"the sum {self.total} does not fit in 64 bits", code="number_too_large")
                return int(self.total)

    def mean(self) -> float | None:
        """The mean, rounded once, to the nearest number that JSON readers hold."""
        return _finite(float(Fraction(self.total) / self.count)) if self.count else None


def widest(one: Kind, other: Kind) -> Kind:
    """The kind that holds both."""
    return max(one, other, key=_KINDS.index)


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise StepError("a sum is too large for a number", code="number_too_large")
    return number
