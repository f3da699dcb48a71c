"""merge_records: one row for each cluster of rows, every field by its own rule."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, model_validator

from events.columns import ABSENT
from services.steps._exact import ExactSum
from services.steps._rowwise import check_fields
from services.steps._values import fullness, identity, is_blank, json_text, order_key, ranks
from services.steps.base import Context, Example, Result, Step, StepConfig, Whole
from services.steps.frame import CHUNK_ROWS, Frame, gathered

RuleName = Literal[
    "first", "last", "longest", "most_frequent", "most_complete_row", "newest", "oldest", "sum", "min", "max"
]
DATED = ("newest", "oldest")


class Rule(StepConfig):
    """Which value of a cluster's rows survives."""

    rule: RuleName
    """`first`, `last`: by row number. `longest`: the longest text. `most_frequent`. `most_complete_row`: that of the
    row with the most fields that are not blank, be it blank itself. `newest`, `oldest`: that of the row with the
    largest or smallest value of `date_field`. `sum`, `min`, `max`: of the values; a sum is exact, and of numbers alone.
    All but `most_complete_row` pass over blank values; among equals the lowest row number decides."""

    date_field: str | None = None
    """The field that says how new a row is, for `newest` and `oldest`: numbers, or texts in the order of time, such as
    ISO dates. A row in which it is blank comes after all others."""

    @model_validator(mode="after")
    def _has_a_date(self) -> Self:
        if (self.date_field is not None) != (self.rule in DATED):
            raise ValueError("date_field goes with newest and oldest, and they need it")
        return self


class MergeRecordsConfig(StepConfig):
    """What tells the clusters, and which values survive."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "cluster_field": "entity_id",
                    "default_rule": {"rule": "most_complete_row"},
                    "rules": {
                        "name": {"rule": "most_frequent"},
                        "website": {"rule": "longest"},
                        "phone": {"rule": "newest", "date_field": "updated_at"},
                        "revenue": {"rule": "sum"},
                    },
                    "size_field": "merged",
                }
            ]
        }
    )

    cluster_field: str
    """The field whose value is the same in all rows of a cluster, such as the one that match_entities writes. A row in
    which it is blank is a cluster of its own."""

    rules: dict[str, Rule] = Field(default={}, max_length=1000)
    """Field to rule."""

    default_rule: Rule = Rule(rule="most_complete_row")
    """The rule of all other fields."""

    source_rows_field: str | None = "source_rows"
    """Where to write the list of the row numbers that were merged; null writes none."""

    size_field: str | None = None
    """Where to write how many rows were merged; null writes none."""

    @model_validator(mode="after")
    def _outputs_stay_apart(self) -> Self:
        outputs = [name for name in (self.source_rows_field, self.size_field) if name is not None]
        if len(set(outputs)) < len(outputs) or {*outputs} & {self.cluster_field, *self.rules}:
            raise ValueError("source_rows_field and size_field need names of their own")
        if self.cluster_field in self.rules:
            raise ValueError("the cluster field is the same in all rows, and takes no rule")
        return self


def _merge_records(frames: Iterable[Frame], config: MergeRecordsConfig, _: Context) -> Iterator[Result]:
    """One row a cluster, which has the lowest row number of its rows, in the order of those numbers.

    A field that is blank in all rows of a cluster stays as the first row has it. Clusters are equal as keys are in
    deduplicate. No row is lost: each is in the list of source rows of one. Raises StepError `unknown_field`,
    `number_too_large` (a sum beyond 64 bits), `unusable_value` (nested too deeply to compare).
    """
    held = list(frames)
    ids = np.array([row for frame in held for row in frame.row_ids()], np.int64)
    if not len(ids):
        return
    names = tuple(dict.fromkeys(name for frame in held for name in frame.names))
    dates = (rule.date_field for rule in (*config.rules.values(), config.default_rule) if rule.date_field is not None)
    check_fields(names, (config.cluster_field, *config.rules, *dates))
    rows, starts = _clusters(held, config.cluster_field, ids)
    report = {"clusters": len(starts) - 1, "merged": int((np.diff(starts) > 1).sum())}
    at = 0
    while at < len(starts) - 1:
        # whole clusters, of about a chunk's rows, but a cluster that is larger
        until = max(int(np.searchsorted(starts, starts[at] + CHUNK_ROWS, side="right")) - 1, at + 1)
        chunk = gathered(held, rows[starts[at] : starts[until]])
        yield Result(_merged(chunk, (starts[at : until + 1] - starts[at]).tolist(), names, config), report=report)
        at = until


def _clusters(
    frames: Sequence[Frame], field: str, ids: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows' places, cluster by cluster, each in the order of row numbers; and where each cluster starts."""
    numbers: dict[Hashable, int] = {}
    parts = []
    for frame in frames:
        coded = frame.coded(field)
        codes = [-1 if is_blank(value) else numbers.setdefault(identity(value), len(numbers)) for value in coded.values]
        parts.append(np.array(codes, np.int64)[np.asarray(coded.codes, np.int64)])
    clusters = np.concatenate(parts)
    alone = np.flatnonzero(clusters < 0)
    clusters[alone] = len(numbers) + np.arange(len(alone))
    lowest = np.full(len(numbers) + len(alone), np.iinfo(np.int64).max)
    np.minimum.at(lowest, clusters, ids)
    rows = np.lexsort((ids, clusters, lowest[clusters]))
    ordered = clusters[rows]
    return rows, np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, [len(rows)]])


def _merged(frame: Frame, starts: Sequence[int], names: Sequence[str], config: MergeRecordsConfig) -> Frame:
    """One row for each part of the frame from one start to the next."""
    merged = frame.take(starts[:-1])
    several = [(at, range(start, end)) for at, (start, end) in enumerate(pairwise(starts)) if end - start > 1]
    made: dict[str, Sequence[Any]] = {}
    if several:
        filled = fullness(frame).tolist()
        for name in names:
            if name != config.cluster_field:
                rule = config.rules.get(name, config.default_rule)
                choose = _chooser(rule, frame, frame.fields(name), filled)
                survivors = merged.fields(name)
                for at, rows in several:
                    survivors[at] = choose(rows)
                made[name] = survivors
    if config.source_rows_field is not None:
        ids = frame.row_ids()
        made[config.source_rows_field] = [ids[start:end] for start, end in pairwise(starts)]
    if config.size_field is not None:
        made[config.size_field] = [end - start for start, end in pairwise(starts)]
    return merged.replace(made)


def _chooser(rule: Rule, frame: Frame, values: Sequence[Any], filled_fields: Sequence[int]) -> Callable[[range], Any]:
    """What gives the value that survives of some rows."""
    if rule.rule == "most_complete_row":
        return lambda rows: values[max(rows, key=filled_fields.__getitem__)]
    survivor = _dated(rule, frame) if rule.date_field is not None else _survivor(rule.rule)

    def choose(rows: range) -> Any:
        filled = [row for row in rows if values[row] is not ABSENT and not is_blank(values[row])]
        return survivor(values, filled) if filled else values[rows[0]]

    return choose


Survivor = Callable[[Sequence[Any], list[int]], Any]
"""Gives what survives of the values in these rows, none of which is blank; rows are in the order of row numbers."""


def _dated(rule: Rule, frame: Frame) -> Survivor:
    """`newest` and `oldest`: by the order of the dates' values; max and min take the first of equals."""
    assert rule.date_field is not None
    dates = [None if is_blank(value) else value for value in frame.values(rule.date_field)]
    places = ranks(dates).tolist()
    if rule.rule == "newest":
        return lambda values, rows: values[max(rows, key=places.__getitem__)]
    return lambda values, rows: values[min(rows, key=lambda row: (places[row] < 0, places[row]))]


def _survivor(rule: RuleName) -> Survivor:
    match rule:
        case "first":
            return lambda values, rows: values[rows[0]]
        case "last":
            return lambda values, rows: values[rows[-1]]
        case "longest":
            return lambda values, rows: max((values[row] for row in rows), key=_length)
        case "most_frequent":
            return _most_frequent
        case "sum":
            return _summed
        case "min":
            return lambda values, rows: min((values[row] for row in rows), key=order_key)
        case _:
            return lambda values, rows: max((values[row] for row in rows), key=order_key)


def _most_frequent(values: Sequence[Any], rows: list[int]) -> Any:
    found: dict[Hashable, tuple[int, Any]] = {}
    for row in rows:
        key = identity(values[row])
        times, first = found.get(key, (0, values[row]))
        found[key] = (times + 1, first)
    return max(found.values(), key=lambda one: one[0])[1]


def _summed(values: Sequence[Any], rows: list[int]) -> Any:
    total = ExactSum()
    for row in rows:
        total.add(values[row])
    return total.sum()


def _length(value: Any) -> int:
    """How long a value is written: a text's characters, or those of its JSON."""
    return len(value if isinstance(value, str) else json_text(value))


merge_records = Step(
    "merge_records",
    version="1",
    summary="Make one row of each cluster of rows, with a rule for each field of which value survives.",
    config_model=MergeRecordsConfig,
    body=Whole(_merge_records),
    holds="The whole batch in columns; 40 bytes a row; and the largest cluster as Python values.",
    examples=[
        Example(
            "Three rows of one company become one; a row without a cluster stays as it is",
            {
                "cluster_field": "entity",
                "rules": {
                    "name": {"rule": "most_frequent"},
                    "phone": {"rule": "newest", "date_field": "updated"},
                    "updated": {"rule": "max"},
                    "revenue": {"rule": "sum"},
                },
            },
            [
                {"entity": 7, "name": "Acme", "city": "Bonn", "phone": "1", "updated": "2026-01-01", "revenue": 0.1},
                {"entity": None, "name": "Hooli", "city": "", "phone": None, "updated": None, "revenue": 5},
                {"entity": 7, "name": "ACME Ltd", "city": None, "phone": "2", "updated": "2026-05-01", "revenue": 0.2},
                {"entity": 7, "name": "Acme", "city": "Köln", "phone": None, "updated": "2026-06-01", "revenue": "?"},
            ],
            [
                {
                    "entity": 7,
                    "name": "Acme",
                    "city": "Bonn",
                    "phone": "2",
                    "updated": "2026-06-01",
                    "revenue": 0.3,
                    "source_rows": [0, 2, 3],
                },
                {
                    "entity": None,
                    "name": "Hooli",
                    "city": "",
                    "phone": None,
                    "updated": None,
                    "revenue": 5,
                    "source_rows": [1],
                },
            ],
        )
    ],
)
