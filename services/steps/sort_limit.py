"""sort_limit: the batch in another order, or the first rows of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from services.steps._rowwise import check_fields
from services.steps._values import ranks
from services.steps.base import Context, Example, Result, Step, StepConfig, Whole
from services.steps.frame import CHUNK_ROWS, Frame, concatenated, gathered

SPARE_ROWS = 4 * CHUNK_ROWS
"""How many rows beyond those wanted are held before the rest is dropped."""


class SortKey(StepConfig):
    """A field to sort by."""

    field: str
    """The field. Values are in the order: numbers by value, texts by code point, false and true, lists, objects."""

    descending: bool = False
    """The largest value first."""

    nulls: Literal["first", "last"] = "last"
    """Where rows without a value come, whichever the direction."""


class SortLimitConfig(StepConfig):
    """What to sort by, and how many rows go on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"keys": [{"field": "employees", "descending": True}, {"field": "name"}], "limit": 100},
                {"keys": [{"field": "name", "nulls": "first"}], "offset": 2},
            ]
        }
    )

    keys: list[SortKey] = Field(min_length=1, max_length=16)
    """The fields to sort by, the most important one first. Rows that are equal in all of them are in the order of
    their row numbers."""

    limit: int | None = Field(default=None, ge=0)
    """At most so many rows go on; null: all of them."""

    offset: int = Field(default=0, ge=0)
    """So many of the first rows are left out."""


def _sort_limit(frames: Iterable[Frame], config: SortLimitConfig, _: Context) -> Iterator[Result]:
    """The rows in order, in chunks of 25,000, each with its row number; rows beyond the limit are no rejects.

    Texts are compared as they stand: normalise them first. Raises StepError `unknown_field`, and `unusable_value` for
    a list or an object that nests too deeply to compare.
    """
    wanted = None if config.limit is None else config.offset + config.limit
    held: list[Frame] = []
    names: dict[str, None] = {}
    held_rows = rows = 0
    for frame in frames:
        names |= dict.fromkeys(frame.names)
        rows += len(frame)
        held.append(frame)
        held_rows += len(frame)
        if wanted is not None and held_rows > 2 * wanted + SPARE_ROWS:
            held = [concatenated([frame.take(picks) for frame, picks in _parts(held, _order(held, config)[:wanted])])]
            held_rows = len(held[0])
    if not rows:
        return
    check_fields(tuple(names), (key.field for key in config.keys))
    order = _order(held, config)[config.offset : wanted]
    for start in range(0, max(len(order), 1), CHUNK_ROWS):
        yield Result(gathered(held, order[start : start + CHUNK_ROWS]))


def _order(frames: Sequence[Frame], config: SortLimitConfig) -> npt.NDArray[np.int64]:
    """The rows' places in all frames together, sorted."""
    columns: list[npt.NDArray[np.int64]] = [np.array([row for frame in frames for row in frame.row_ids()], np.int64)]
    for key in reversed(config.keys):
        places = _places(frames, key.field)
        missing = (places < 0).astype(np.int64)
        columns += [-places if key.descending else places, missing if key.nulls == "last" else -missing]
    return np.lexsort(columns)  # the last one counts most


def _places(frames: Sequence[Frame], name: str) -> npt.NDArray[np.int64]:
    """Each row's place among the field's values, -1 where there is none."""
    coded = [frame.coded(name) for frame in frames]
    places = ranks([value for part in coded for value in part.values])
    starts = np.cumsum([0, *(len(part.values) for part in coded)]).tolist()
    return np.concatenate(
        [places[start + np.asarray(part.codes, np.int64)] for start, part in zip(starts[:-1], coded, strict=True)]
    )


def _parts(frames: Sequence[Frame], rows: npt.NDArray[np.int64]) -> Iterator[tuple[Frame, list[int]]]:
    """Which rows of each frame are among these; in the order of the batch."""
    start = 0
    for frame in frames:
        mine = np.sort(rows[(rows >= start) & (rows < start + len(frame))]) - start
        start += len(frame)
        yield frame, mine.tolist()


sort_limit = Step(
    "sort_limit",
    version="1",
    summary="Sort the rows by some fields, and keep the first of them.",
    config_model=SortLimitConfig,
    body=Whole(_sort_limit),
    holds="The whole batch in columns; with a limit twice the rows wanted, and 100,000 more.",
    examples=[
        Example(
            "The four largest: a text comes after every number, so first when descending; what has no value comes last",
            {"keys": [{"field": "employees", "descending": True}], "limit": 4},
            [
                {"name": "Acme", "employees": 120},
                {"name": "Initech", "employees": None},
                {"name": "Globex", "employees": 4500.0},
                {"name": "Umbrella", "employees": "about 90"},
                {"name": "Hooli", "employees": 4500},
            ],
            [
                {"name": "Umbrella", "employees": "about 90"},
                {"name": "Globex", "employees": 4500.0},
                {"name": "Hooli", "employees": 4500},
                {"name": "Acme", "employees": 120},
            ],
        )
    ],
)
