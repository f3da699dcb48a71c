"""aggregate: one row for each group, with counts, sums and other metrics that are exact."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, model_validator

from services.steps._metrics import CountDistinct, Metric, metric_of
from services.steps._rowwise import check_fields
from services.steps._values import identity
from services.steps.base import Context, Example, Result, Step, StepConfig, StepError, Whole
from services.steps.frame import CHUNK_ROWS, Frame, RecordFrame, distinct_rows

GROUPS_MAX = 2_000_000
DISTINCT_MAX = 2_000_000


class MetricConfig(StepConfig):
    """One number, or other value, to work out for each group."""

    function: Literal["count", "count_distinct", "sum", "min", "max", "mean", "first", "last"]
    """`count`: rows, or those with a value in `field`. `count_distinct`: different values. `sum` and `mean`: of
    integers, numbers and text such as `12.50`, exact and rounded once at the end; what is no number is left out, and
    the report says how much that was. A sum is an integer if all numbers of the batch are, text if one of them is
    text, and a number if not; a mean is a number. `min` and `max`: numbers come before texts, texts before false and
    true. `first` and `last`: in the order of the batch."""

    field: str | None = None
    """The field that is looked at; rows in which it is null do not count. Null is for `count` alone: all rows."""

    into: str = Field(min_length=1)
    """The output field."""

    @model_validator(mode="after")
    def _has_a_field(self) -> Self:
        if self.field is None and self.function != "count":
            raise ValueError(f"the metric {self.into!r} needs a field: only count does without")
        return self


class AggregateConfig(StepConfig):
    """The groups, and what to tell of each."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "group_by": ["country"],
                    "metrics": [
                        {"function": "count", "into": "companies"},
                        {"function": "count_distinct", "field": "industry", "into": "industries"},
                        {"function": "sum", "field": "revenue", "into": "revenue"},
                        {"function": "mean", "field": "revenue", "into": "mean_revenue"},
                        {"function": "min", "field": "founded", "into": "oldest"},
                        {"function": "max", "field": "founded", "into": "youngest"},
                        {"function": "first", "field": "name", "into": "first_name"},
                        {"function": "last", "field": "name", "into": "last_name"},
                    ],
                }
            ]
        }
    )

    group_by: list[str] = Field(default=[], max_length=16)
    """The fields whose values make a group. Null makes a group of its own. None: the batch is one group."""

    metrics: list[MetricConfig] = Field(default=[], max_length=100)
    """What to work out for each group."""

    max_groups: Annotated[int, Field(ge=1, le=GROUPS_MAX)] = 250_000
    """The step fails with `too_many_groups` when there are more."""

    @model_validator(mode="after")
    def _outputs_stay_apart(self) -> Self:
        names = [*self.group_by, *(metric.into for metric in self.metrics)]
        if not names:
            raise ValueError("group_by or metrics is needed")
        if len(set(names)) < len(names):
            raise ValueError("two output fields have the same name")
        return self


class _Groups:
    """The groups so far, in the order of their first rows."""

    def __init__(self, names: Sequence[str], max_groups: int) -> None:
        self._names = names
        self._max_groups = max_groups
        self._numbers: dict[tuple[Hashable, ...], int] = {}
        self.labels: list[tuple[Any, ...]] = []

    def of(self, frame: Frame) -> npt.NDArray[np.int64]:
        """The number of each row's group. Raises StepError `too_many_groups`."""
        if not self._names:
            self.labels = self.labels or [()]
            return np.zeros(len(frame), np.int64)
        combinations = distinct_rows(frame, self._names)
        numbers = [self._number(values) for values in combinations.values]
        return np.array(numbers, np.int64)[np.asarray(combinations.codes, np.int64)]

    def _number(self, values: tuple[Any, ...]) -> int:
        key = tuple(map(identity, values))
        number = self._numbers.setdefault(key, len(self._numbers))
        if number == len(self.labels):
            if number == self._max_groups:
                raise StepError(
                    f"there are more than {self._max_groups} groups by {', '.join(map(repr, self._names))}; group by "
                    "fields with fewer values, or raise max_groups",
                    code="too_many_groups",
                )
            self.labels.append(values)
        return number


def _aggregate(frames: Iterable[Frame], config: AggregateConfig, _: Context) -> Iterator[Result]:
    """One row a group, in the order of the groups' first rows, with row numbers from 0; an empty batch has none.

    Values are equal as in deduplicate: 1 is 1.0, but not true, and texts as they stand; a group shows the value of its
    first row. Nothing depends on how the batch is cut, nor on the order in which numbers are added. A metric of a group
    without any value is null, a count 0. The report tells the number of groups, and for `sum` and `mean` how many
    values were no numbers. Raises StepError `unknown_field`, `too_many_groups`, `too_many_values` (more than 2,000,000
    different values to count), `number_too_large` (a sum beyond 64 bits), `unusable_value` (nested too deeply).
    """
    groups = _Groups(config.group_by, config.max_groups)
    metrics = [metric_of(metric.function, metric.field) for metric in config.metrics]
    names: dict[str, None] = {}
    like: Frame = RecordFrame([])
    rows = 0
    for frame in frames:
        names |= dict.fromkeys(frame.names)
        rows += len(frame)
        like = frame
        if not len(frame):
            continue
        numbers = groups.of(frame)
        for metric in metrics:
            metric.add(frame, numbers, len(groups.labels))
        if sum(metric.size for metric in metrics if isinstance(metric, CountDistinct)) > DISTINCT_MAX:
            text = f"there are more than {DISTINCT_MAX} different values to count; count fields with fewer"
            raise StepError(text, code="too_many_values")
    if not rows:
        return
    check_fields(tuple(names), (name for name in (*config.group_by, *(m.field for m in metrics)) if name is not None))
    report = _report(config, metrics, len(groups.labels))
    columns = [metric.results() for metric in metrics]
    outputs = (*config.group_by, *(metric.into for metric in config.metrics))
    for start in range(0, len(groups.labels), CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, len(groups.labels))
        cells = zip(*(column[start:stop] for column in columns), strict=True) if columns else [()] * (stop - start)
        records = [
            dict(zip(outputs, (*label, *row), strict=True))
            for label, row in zip(groups.labels[start:stop], cells, strict=True)
        ]
        yield Result(like.of(records, range(start, stop)), report=report)


def _report(config: AggregateConfig, metrics: Sequence[Metric], groups: int) -> dict[str, Any]:
    left_out = {m.into: found.left_out for m, found in zip(config.metrics, metrics, strict=True) if found.left_out}
    return {"groups": groups, "no_numbers": left_out}


aggregate = Step(
    "aggregate",
    version="1",
    summary="One row for each group of rows, with counts, sums and other metrics, all exact.",
    config_model=AggregateConfig,
    body=Whole(_aggregate),
    holds="One value a group and metric; 16 bytes and a set's entry for each value that count_distinct counts.",
    examples=[
        Example(
            "Deals by country: amounts add up as decimals, and what is no number is left out",
            {
                "group_by": ["country"],
                "metrics": [
                    {"function": "count", "into": "deals"},
                    {"function": "sum", "field": "amount", "into": "amount"},
                    {"function": "max", "field": "closed", "into": "last_closed"},
                    {"function": "count_distinct", "field": "owner", "into": "owners"},
                ],
            },
            [
                {"country": "DE", "amount": 0.1, "closed": "2026-03-01", "owner": "ann"},
                {"country": "FR", "amount": 20, "closed": None, "owner": "bo"},
                {"country": "DE", "amount": 0.2, "closed": "2026-01-15", "owner": "ann"},
                {"country": "DE", "amount": "n/a", "closed": "2026-02-01", "owner": "eve"},
                {"country": None, "amount": None, "closed": None, "owner": None},
            ],
            [
                {"country": "DE", "deals": 3, "amount": 0.3, "last_closed": "2026-03-01", "owners": 2},
                {"country": "FR", "deals": 1, "amount": 20.0, "last_closed": None, "owners": 1},
                {"country": None, "deals": 1, "amount": None, "last_closed": None, "owners": 0},
            ],
        )
    ],
)
