"""What aggregate works out for each group, chunk by chunk: one state a group, the same however the batch is cut."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from services.steps._exact import ExactSum, Kind, widest
from services.steps._values import identity, is_missing, order_key
from services.steps.frame import Coded, Frame

DIGEST_BYTES = 16
Groups = npt.NDArray[np.int64]


class Metric(ABC):
    """One metric of all groups; groups are numbered from 0."""

    def __init__(self, field: str | None) -> None:
        self.field = field
        self.left_out = 0
        """How many values were no numbers, where numbers are needed."""

    @abstractmethod
    def add(self, frame: Frame, groups: Groups, count: int) -> None:
        """Take in the rows of a chunk; `groups` has each row's group, and `count` groups are known by now."""

    @abstractmethod
    def results(self) -> list[Any]:
        """The metric of each group."""


def metric_of(function: str, field: str | None) -> Metric:
    """The metric of this name, over a field."""
    if field is None or function == "count":
        return Count(field)
    match function:
        case "count_distinct":
            return CountDistinct(field)
        case "sum" | "mean":
            return Sum(field, mean=function == "mean")
        case "min" | "max":
            return Extreme(field, largest=function == "max")
        case _:
            return End(field, last=function == "last")


class Count(Metric):
    """Rows; or those with a value in the field."""

    def __init__(self, field: str | None) -> None:
        super().__init__(field)
        self._counts = np.zeros(0, np.int64)

    def add(self, frame: Frame, groups: Groups, count: int) -> None:
        """Take in the rows of a chunk."""
        if self.field is not None:
            groups = groups[_present(frame.coded(self.field))]
        counts = np.bincount(groups, minlength=count)
        counts[: len(self._counts)] += self._counts
        self._counts = counts

    def results(self) -> list[Any]:
        """Each group's count."""
        return self._counts.tolist()


class CountDistinct(Metric):
    """Different values. They are told apart by 128 bits of BLAKE2b (RFC 7693)."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self._counts: list[int] = []
        self._seen: set[bytes] = set()

    @property
    def size(self) -> int:
        """How many values are held."""
        return len(self._seen)

    def add(self, frame: Frame, groups: Groups, count: int) -> None:
        """Take in the rows of a chunk."""
        assert self.field is not None
        self._counts += [0] * (count - len(self._counts))
        coded = frame.coded(self.field)
        for group, value, _ in _pairs(coded, groups):
            digest = blake2b(b"%d:" % group + _bytes(value), digest_size=DIGEST_BYTES).digest()
            if digest not in self._seen:
                self._seen.add(digest)
                self._counts[group] += 1

    def results(self) -> list[Any]:
        """Each group's count."""
        return self._counts


class Sum(Metric):
    """The exact sum or mean of what is a number."""

    def __init__(self, field: str, *, mean: bool) -> None:
        super().__init__(field)
        self._sums: list[ExactSum] = []
        self._mean = mean

    def add(self, frame: Frame, groups: Groups, count: int) -> None:
        """Take in the rows of a chunk."""
        assert self.field is not None
        self._sums += [ExactSum() for _ in range(count - len(self._sums))]
        for group, value, times in _pairs(frame.coded(self.field), groups):
            if not self._sums[group].add(value, times):
                self.left_out += times

    def results(self) -> list[Any]:
        """Each group's sum or mean, null where there was nothing to add; sums all of one kind."""
        if self._mean:
            return [found.mean() for found in self._sums]
        kind: Kind = "integer"
        for found in self._sums:
            kind = widest(kind, found.kind)
        return [found.sum(kind) for found in self._sums]


class Extreme(Metric):
    """The smallest or the largest value; the first of those that are equal."""

    def __init__(self, field: str, *, largest: bool) -> None:
        super().__init__(field)
        self._largest = largest
        self._found: list[tuple[tuple[int, Any], Any] | None] = []

    def add(self, frame: Frame, groups: Groups, count: int) -> None:
        """Take in the rows of a chunk."""
        assert self.field is not None
        self._found += [None] * (count - len(self._found))
        coded = frame.coded(self.field)
        keys = [None if is_missing(value) else order_key(value) for value in coded.values]
        for group, code in zip(groups.tolist(), coded.code_list(), strict=True):
            key, best = keys[code], self._found[group]
            if key is not None and (best is None or (key > best[0] if self._largest else key < best[0])):
                self._found[group] = (key, coded.values[code])

    def results(self) -> list[Any]:
        """Each group's value, null where there is none."""
        return [None if found is None else found[1] for found in self._found]


class End(Metric):
    """The first or the last value that is not null."""

    def __init__(self, field: str, *, last: bool) -> None:
        super().__init__(field)
        self._last = last
        self._found: dict[int, Any] = {}
        self._count = 0

    def add(self, frame: Frame, groups: Groups, count: int) -> None:
        """Take in the rows of a chunk."""
        assert self.field is not None
        self._count = count
        coded = frame.coded(self.field)
        codes = np.asarray(coded.codes, np.int64)
        rows = np.flatnonzero(_present(coded))
        if self._last:
            rows = rows[::-1]
        found, at = np.unique(groups[rows], return_index=True)
        for group, row in zip(found.tolist(), rows[at].tolist(), strict=True):
            if self._last or group not in self._found:
                self._found[group] = coded.values[codes[row]]

    def results(self) -> list[Any]:
        """Each group's value, null where there is none."""
        return [self._found.get(group) for group in range(self._count)]


def _present(coded: Coded) -> npt.NDArray[np.bool_]:
    """Which rows have a value."""
    there = np.array([not is_missing(value) for value in coded.values], bool)
    return there[np.asarray(coded.codes, np.int64)]


def _pairs(coded: Coded, groups: Groups) -> Iterator[tuple[int, Any, int]]:
    """Each pair of a group and a value that there is, null left out, with how many rows have it."""
    rows = _present(coded)
    size = max(len(coded.values), 1)
    pairs, counts = np.unique(groups[rows] * size + np.asarray(coded.codes, np.int64)[rows], return_counts=True)
    for pair, times in zip(pairs.tolist(), counts.tolist(), strict=True):
        group, code = divmod(pair, size)
        yield group, coded.values[code], times


def _bytes(value: Any) -> bytes:
    """The same bytes for values that count as equal."""
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return b"n" + repr(value).encode()
    found = identity(value)
    assert isinstance(found, tuple)
    return json.dumps(found).encode()
