"""How alike two records are: similarities of their texts, and the weighted score made of them.

Everything here works on many pairs at once and on each pair for itself: a score depends on the two records alone, so
it is the same whatever else is in the batch, and whoever asks first.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from rapidfuzz import fuzz
from rapidfuzz.distance import OSA, JaroWinkler, Levenshtein
from rapidfuzz.process import cpdist

from services.steps.base import StepConfig

TEXT_CHARS_MAX: Final = 512
"""What is compared of a text; the distances take time with the square of the length."""

SCORE_DECIMALS: Final = 6
"""Scores are rounded before they meet the threshold, so that the last bits of a logarithm decide nothing."""

PAIRS_AT_ONCE: Final = 65_536

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]
"""A text or None for each record."""

Method = Literal["exact", "jaro_winkler", "levenshtein", "token_sort", "token_set", "date", "numeric"]


def comparable(value: Any) -> str | None:
    """A value as it is compared and kept: Unicode NFKC, without case, single spaces; None when there is nothing.

    Numbers are compared by their shortest decimal text. Booleans, lists and objects count as missing.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if not isinstance(value, str):
        # 7 and 7.0 are one number; NaN and infinity are none
        number = float(value) if isinstance(value, float) or abs(value) < 2**53 else value
        if isinstance(number, float) and (number != number or number in (float("inf"), float("-inf"))):
            return None
        return str(int(number)) if number == int(number) else repr(number)
    text = value[: 4 * TEXT_CHARS_MAX].encode("utf-8", "backslashreplace").decode()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())[:TEXT_CHARS_MAX] or None


class Level(StepConfig):
    """One step of a comparison that knows few degrees of likeness."""

    at_least: float = Field(ge=0, le=1)
    """The similarity from which on the level holds."""

    counts_as: float = Field(ge=0, le=1)
    """What the similarity then counts as."""


class Comparison(StepConfig):
    """One thing that is compared between two records, and how much it counts."""

    fields: list[str] = Field(min_length=1, max_length=8)
    """The fields to compare. Several are joined with spaces first, so that what is swapped between a first and a last
    name is still found (with `token_sort` or `token_set`)."""

    method: Method
    """How texts are compared, each giving 0 to 1. `exact`: equal or not. `jaro_winkler`: for short names, an equal
    beginning counts more. `levenshtein`: share of characters that stay. `token_sort`: the same with the words in
    alphabetical order. `token_set`: words that both have count fully, so that one may have more words. `date`:
    `YYYY-MM-DD` or `YYYYMMDD`, a quarter off for each digit that differs or for day and month swapped. `numeric`: 1 at
    equal, falling evenly to 0 at a difference of `scale`."""

    weight: float = Field(gt=0, le=1000)
    """How much it counts beside the others."""

    floor: float = Field(default=0.0, ge=0, lt=1)
    """Similarities up to this count as 0, and those above are spread over 0 to 1. Unrelated names are often half
    alike: a floor of 0.6 or so keeps that from adding up."""

    scale: float | None = Field(default=None, gt=0)
    """For `numeric`: the difference at which nothing is alike any more."""

    levels: list[Level] = Field(default=[], max_length=16)
    """Instead of the similarity itself (after the floor): the `counts_as` of the highest level that it reaches, or 0
    below all of them. Empty: the similarity counts as it is."""

    name: str | None = None
    """What the evidence calls it; null: the fields' names, joined with +."""

    @model_validator(mode="after")
    def _check(self) -> "Comparison":
        if (self.method == "numeric") != (self.scale is not None):
            raise ValueError("numeric needs scale, and no other method takes it")
        return self

    @property
    def label(self) -> str:
        """What the evidence calls it."""
        return self.name or "+".join(self.fields)


@dataclass(frozen=True, slots=True)
class Scores:
    """A score for each pair, 0 to 1, and for each pair and comparison what led to it; NaN: nothing to compare."""

    score: Floats
    details: Floats


class Scorer(Protocol):
    """What gives pairs their scores."""

    @property
    def fields(self) -> Sequence[str]:
        """The fields that it reads."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """The comparisons' names, in the order of the details. One fired when its detail is above 0."""
        ...

    def score(self, columns: Mapping[str, Texts], left: Indices, right: Indices) -> Scores:
        """The scores of the pairs (left[i], right[i]), indices into the columns."""
        ...


class Weighted:
    """The share of weight that agrees: sum of weight × similarity over what both records have."""

    def __init__(self, comparisons: Sequence[Comparison], min_compared: float) -> None:
        self._comparisons = comparisons
        self._min_compared = min_compared
        self.fields = tuple(dict.fromkeys(name for comparison in comparisons for name in comparison.fields))
        self.labels = tuple(comparison.label for comparison in comparisons)

    def score(self, columns: Mapping[str, Texts], left: Indices, right: Indices) -> Scores:
        """The scores of the pairs; 0 where less than `min_compared` of the weight could be compared."""
        details = np.empty((len(left), len(self._comparisons)))
        agreed, compared = np.zeros(len(left)), np.zeros(len(left))
        for at, comparison in enumerate(self._comparisons):
            likeness = _counted(comparison, _likeness(comparison, columns, left, right))
            details[:, at] = likeness
            present = ~np.isnan(likeness)
            agreed[present] += comparison.weight * likeness[present]
            compared[present] += comparison.weight
        total = sum(comparison.weight for comparison in self._comparisons)
        enough = (compared > 0) & (compared >= self._min_compared * total)
        score: Floats = np.divide(agreed, compared, out=np.zeros(len(left)), where=enough)
        return Scores(np.round(score, SCORE_DECIMALS), details)


def _likeness(comparison: Comparison, columns: Mapping[str, Texts], left: Indices, right: Indices) -> Floats:
    one, other = (_joined([columns[name][rows] for name in comparison.fields]) for rows in (left, right))
    present = both_present(one, other)
    found = np.full(len(left), np.nan)
    if present.any():
        found[present] = _METHODS[comparison.method](one[present], other[present], comparison.scale or 1.0)
    return found


def _joined(parts: Sequence[Texts]) -> Texts:
    if len(parts) == 1:
        return parts[0]
    rows = zip(*parts, strict=True)
    return texts([" ".join(part for part in row if part is not None) or None for row in rows])


def _counted(comparison: Comparison, likeness: Floats) -> Floats:
    if comparison.floor:
        likeness = np.maximum(likeness - comparison.floor, 0.0) / (1.0 - comparison.floor)
    if not comparison.levels:
        return likeness
    counted = np.where(np.isnan(likeness), np.nan, 0.0)
    for level in sorted(comparison.levels, key=lambda level: level.at_least):
        counted[likeness >= level.at_least] = level.counts_as
    return counted


def texts(values: Sequence[str | None]) -> Texts:
    """An array of texts and None."""
    made = np.empty(len(values), object)
    made[:] = values
    return made


def both_present(one: Texts, other: Texts) -> Flags:
    """Where neither is None."""
    found: Flags = (one != None) & (other != None)  # noqa: E711 - elementwise
    return found


def distances(scorer: Callable[..., float], one: Texts, other: Texts) -> Floats:
    """A rapidfuzz scorer over pairs of texts, on one thread."""
    found: Floats = cpdist(one.tolist(), other.tolist(), scorer=scorer, workers=1, dtype=np.float64)
    return found


def _exact(one: Texts, other: Texts, _: float) -> Floats:
    found: Floats = (one == other).astype(np.float64)
    return found


def _dates(one: Texts, other: Texts, _: float) -> Floats:
    """By digits: a slip of the pen or two swapped digits are one change, whatever day they lead to."""
    parsed = {text: _digits_of_date(text) for text in {*one.tolist(), *other.tolist()}}
    left, right = texts([parsed[text] for text in one]), texts([parsed[text] for text in other])
    present = both_present(left, right)
    found = np.full(len(one), np.nan)
    changes = distances(OSA.distance, left[present], right[present])
    swapped = texts([digits[:4] + digits[6:] + digits[4:6] for digits in left[present]]) == right[present]
    found[present] = np.maximum(1.0 - np.where(swapped, np.minimum(changes, 1.0), changes) / 4, 0.0)
    return found


def _digits_of_date(text: str) -> str | None:
    """Eight digits, whether they name a day that there is or not (mistyped ones are compared too); or None."""
    try:
        return date.fromisoformat(text).strftime("%Y%m%d").zfill(8)
    except ValueError:
        digits = text.replace("-", "")
        return digits if len(digits) == 8 and digits.isascii() and digits.isdigit() else None


def _numbers(one: Texts, other: Texts, scale: float) -> Floats:
    parsed = {text: _number(text) for text in {*one.tolist(), *other.tolist()}}
    left, right = np.array([parsed[text] for text in one]), np.array([parsed[text] for text in other])
    found: Floats = np.maximum(1.0 - np.abs(left - right) / scale, 0.0)
    return found


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return np.nan
    return number if abs(number) < 1e300 else np.nan


_Likeness = Callable[[Texts, Texts, float], Floats]

_METHODS: Final[Mapping[Method, _Likeness]] = {
    "exact": _exact,
    "jaro_winkler": lambda one, other, _: distances(JaroWinkler.normalized_similarity, one, other),
    "levenshtein": lambda one, other, _: distances(Levenshtein.normalized_similarity, one, other),
    "token_sort": lambda one, other, _: distances(fuzz.token_sort_ratio, one, other) / 100,
    "token_set": lambda one, other, _: distances(fuzz.token_set_ratio, one, other) / 100,
    "date": _dates,
    "numeric": _numbers,
}


@dataclass(frozen=True, slots=True)
class Links:
    """Pairs that reach the threshold, with their scores and details."""

    left: Indices
    right: Indices
    score: Floats
    details: Floats


def links_of(scorer: Scorer, columns: Mapping[str, Texts], left: Indices, right: Indices, threshold: float) -> Links:
    """Score the pairs, some at a time, and keep those that reach the threshold."""
    found: list[Links] = []
    for start in range(0, max(len(left), 1), PAIRS_AT_ONCE):
        one, other = left[start : start + PAIRS_AT_ONCE], right[start : start + PAIRS_AT_ONCE]
        scores = scorer.score(columns, one, other)
        kept = scores.score >= threshold
        found.append(Links(one[kept], other[kept], scores.score[kept], scores.details[kept]))
    return Links(
        np.concatenate([part.left for part in found]),
        np.concatenate([part.right for part in found]),
        np.concatenate([part.score for part in found]),
        np.concatenate([part.details for part in found]),
    )
