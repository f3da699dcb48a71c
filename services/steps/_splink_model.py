"""A frozen Splink model: what `linker.misc.save_model_to_json()` wrote, evaluated here.

Splink (https://moj-analytical-services.github.io/splink/) trains a Fellegi-Sunter model and writes it as JSON; its
comparison levels are SQL. That SQL is never run: it is parsed, what Splink's comparison library makes is understood,
and anything else is refused by name. A match weight is a sum of logarithms in the model's order, so it has the same
bits in every process, with any number of threads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from rapidfuzz.distance import DamerauLevenshtein, Jaro, JaroWinkler, Levenshtein

from services.steps._comparing import SCORE_DECIMALS, Flags, Floats, Indices, Scores, Texts, both_present, distances

CONDITION_CHARS_MAX: Final = 1_000
COMPARISONS_MAX: Final = 64
LEVELS_MAX: Final = 32

NOT_OBSERVED: Final = "level not observed in training dataset"
NOT_OBSERVED_PROBABILITY: Final = 1e-6
"""What Splink takes for a level that its training has not met."""

PROBABILITY_MIN: Final = 1e-12
"""In place of 0, whose logarithm is infinite."""


class ModelError(ValueError):
    """The model cannot be used; the message says which part of it, and why."""


@dataclass(frozen=True, slots=True)
class Truth:
    """SQL's three values for each pair: true, false, and neither where something is null."""

    true: Flags
    false: Flags


@dataclass(frozen=True, slots=True)
class Sides:
    """The pairs at hand, as the SQL sees them: `name_l` and `name_r`."""

    columns: Mapping[str, Texts]
    left: Indices
    right: Indices

    def text(self, field: str, side: str) -> Texts:
        """One side's values of a field."""
        return self.columns[field][self.left if side == "l" else self.right]


Condition = Callable[[Sides], Truth]


@dataclass(frozen=True, slots=True)
class FrozenLevel:
    """When the level holds (None: whenever none before it did), and the match weight (log2) that it gives."""

    condition: Condition | None
    weight: float


class SplinkModel:
    """A scorer: the probability that two records match, of the model's prior and its levels' match weights."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        """Raises ModelError."""
        prior = model.get("probability_two_random_records_match")
        if not isinstance(prior, float) or not 0 < prior < 1:
            raise ModelError("probability_two_random_records_match is missing, or not between 0 and 1")
        comparisons = model.get("comparisons")
        if not isinstance(comparisons, list) or not 0 < len(comparisons) <= COMPARISONS_MAX:
            raise ModelError(f"comparisons must be a list of 1 to {COMPARISONS_MAX}")
        self._prior = math.log2(prior / (1 - prior))
        reads: dict[str, None] = {}
        self._comparisons = [_comparison(comparison, at, reads) for at, comparison in enumerate(comparisons)]
        self.labels = tuple(_label(comparison, at) for at, comparison in enumerate(comparisons))
        self.fields = tuple(reads)

    def score(self, columns: Mapping[str, Texts], left: Indices, right: Indices) -> Scores:
        """The probability of each pair; the details are the comparisons' match weights, NaN at a null level."""
        sides = Sides(columns, left, right)
        details = np.empty((len(left), len(self._comparisons)))
        weight = np.full(len(left), self._prior)
        for at, levels in enumerate(self._comparisons):
            details[:, at] = _weights(levels, sides)
            weight += np.where(np.isnan(details[:, at]), 0.0, details[:, at])
        odds = np.exp2(np.clip(weight, -1000.0, 1000.0))
        return Scores(np.round(odds / (1.0 + odds), SCORE_DECIMALS), details)


def _weights(levels: Sequence[FrozenLevel], sides: Sides) -> Floats:
    """The weight of the first level that holds for each pair."""
    found = np.full(len(sides.left), np.nan)
    open_ = np.ones(len(sides.left), bool)
    for level in levels:
        holds = open_ if level.condition is None else open_ & level.condition(sides).true
        found[holds] = level.weight
        open_ = open_ & ~holds
    return found


def _label(comparison: Mapping[str, Any], at: int) -> str:
    name = comparison.get("output_column_name")
    return name if isinstance(name, str) and name else f"comparison {at}"


def _comparison(comparison: Any, at: int, reads: dict[str, None]) -> list[FrozenLevel]:
    levels = comparison.get("comparison_levels") if isinstance(comparison, dict) else None
    if not isinstance(levels, list) or not 0 < len(levels) <= LEVELS_MAX:
        raise ModelError(f"comparison {at}: comparison_levels must be a list of 1 to {LEVELS_MAX}")
    return [_level(level, f"{_label(comparison, at)}, level {number}", reads) for number, level in enumerate(levels)]


def _level(level: Any, place: str, reads: dict[str, None]) -> FrozenLevel:
    sql = level.get("sql_condition") if isinstance(level, dict) else None
    if not isinstance(sql, str) or len(sql) > CONDITION_CHARS_MAX:
        raise ModelError(f"{place}: sql_condition must be a text of at most {CONDITION_CHARS_MAX} characters")
    if level.get("tf_adjustment_column") is not None:
        raise ModelError(
            f"{place}: term frequencies are not supported: they would make a link depend on what else is in the batch; "
            "train the comparison without them"
        )
    condition = None if sql.strip().upper() == "ELSE" else _condition(sql, place, reads)
    if level.get("is_null_level"):
        return FrozenLevel(condition, math.nan)
    m, u = (_probability(level.get(name), f"{place}: {name}") for name in ("m_probability", "u_probability"))
    return FrozenLevel(condition, math.log2(m / u))


def _probability(value: Any, place: str) -> float:
    if value == NOT_OBSERVED:
        return NOT_OBSERVED_PROBABILITY
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ModelError(f"{place} is missing, or not between 0 and 1: the model is not fully trained")
    return max(float(value), PROBABILITY_MIN)


def _condition(sql: str, place: str, reads: dict[str, None]) -> Condition:
    import sqlglot  # loaded for those who bring a model; it takes long

    try:
        return _Parser(place, reads).condition(sqlglot.parse_one(sql, read="duckdb"))
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise ModelError(f"{place}: {sql!r} cannot be read as SQL") from error


_DISTANCES: Final[Mapping[str, Callable[..., float]]] = {
    "jaro_winkler_similarity": JaroWinkler.normalized_similarity,
    "jaro_similarity": Jaro.normalized_similarity,
    "levenshtein": Levenshtein.distance,
    "editdist3": Levenshtein.distance,
    "damerau_levenshtein": DamerauLevenshtein.distance,
}
_CLASSES: Final = {"JarowinklerSimilarity": "jaro_winkler_similarity", "Levenshtein": "levenshtein"}
_ORDERS: Final[Mapping[str, Callable[[Any, Any], Flags]]] = {
    "GTE": np.greater_equal, "GT": np.greater, "LTE": np.less_equal, "LT": np.less,
}  # fmt: skip


class _Parser:
    """Turns sqlglot's tree into a condition; keeps account of the fields that are read."""

    def __init__(self, place: str, reads: dict[str, None]) -> None:
        self._place = place
        self._reads = reads

    def condition(self, node: Any) -> Condition:
        kind = type(node).__name__
        if kind == "Paren":
            return self.condition(node.this)
        if kind in ("And", "Or"):
            return _both(self.condition(node.this), self.condition(node.expression), either=kind == "Or")
        if kind == "Not":
            return _not(self.condition(node.this))
        if kind == "Is" and type(node.expression).__name__ == "Null":
            return _is_null(self._column(node.this))
        if kind in ("EQ", "NEQ"):
            equal = _equal(self._column(node.this), self._column(node.expression))
            return equal if kind == "EQ" else _not(equal)
        if kind in _ORDERS:
            return self._compared(node, _ORDERS[kind])
        raise self._unknown(node)

    def _compared(self, node: Any, order: Callable[[Any, Any], Flags]) -> Condition:
        """A similarity or distance of two columns, against a number."""
        call, bound = node.this, node.expression
        kind = type(call).__name__
        anonymous = kind == "Anonymous"
        name = str(call.this).lower() if anonymous else _CLASSES.get(kind, "")
        arguments = call.expressions if anonymous else [call.this, call.args.get("expression")]
        if name not in _DISTANCES or len(arguments) != 2 or type(bound).__name__ != "Literal" or bound.is_string:
            raise self._unknown(node)
        return _measured(
            _DISTANCES[name], self._column(arguments[0]), self._column(arguments[1]), order, float(bound.this)
        )

    def _column(self, node: Any) -> tuple[str, str]:
        """A field and the side that is meant: `surname_l` is the left one's surname."""
        name = str(node.name) if type(node).__name__ == "Column" and not node.table else ""
        field, _, side = name.rpartition("_")
        if not field or side not in ("l", "r"):
            raise self._unknown(node)
        self._reads[field] = None
        return field, side

    def _unknown(self, node: Any) -> ModelError:
        return ModelError(
            f"{self._place}: {node.sql(dialect='duckdb')!r} is not supported; what is: AND, OR, NOT, IS NULL, = and <> "
            f"of columns, and {', '.join(_DISTANCES)} of two columns against a number"
        )


Side = tuple[str, str]


def _both(one: Condition, other: Condition, *, either: bool) -> Condition:
    def holds(sides: Sides) -> Truth:
        a, b = one(sides), other(sides)
        return Truth(a.true | b.true, a.false & b.false) if either else Truth(a.true & b.true, a.false | b.false)

    return holds


def _not(one: Condition) -> Condition:
    def holds(sides: Sides) -> Truth:
        found = one(sides)
        return Truth(found.false, found.true)

    return holds


def _is_null(side: Side) -> Condition:
    def holds(sides: Sides) -> Truth:
        present = sides.text(*side) != None  # noqa: E711 - elementwise
        return Truth(~present, present)

    return holds


def _equal(one: Side, other: Side) -> Condition:
    def holds(sides: Sides) -> Truth:
        left, right = sides.text(*one), sides.text(*other)
        present = both_present(left, right)
        equal = left == right
        return Truth(present & equal, present & ~equal)

    return holds


def _measured(
    scorer: Callable[..., float], one: Side, other: Side, order: Callable[[Any, Any], Flags], bound: float
) -> Condition:
    def holds(sides: Sides) -> Truth:
        left, right = sides.text(*one), sides.text(*other)
        present = both_present(left, right)
        found = np.zeros(len(left), bool)
        found[present] = order(distances(scorer, left[present], right[present]), bound)
        return Truth(found, present & ~found)

    return holds
