"""deduplicate: one row for each group of rows that agree on a key."""

import json
import math
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from services.steps._rowwise import require_fields
from services.steps.base import Record, StepConfig, StepError, StepOutput, step


class DeduplicateConfig(StepConfig):
    """When two rows are the same, and which of them stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"keys": [["email"], ["name", "phone"]], "keep": "most_complete", "count_field": "copies"}],
        }
    )

    keys: list[Annotated[list[str], Field(min_length=1, max_length=16)]] = Field(min_length=1, max_length=16)
    """Key sets. Two rows are the same when all the fields of any one set are equal and not blank; being the same
    carries over: if A is B and B is C, then A is C. Text is compared as it stands, so normalise it first."""

    keep: Literal["first", "last", "most_complete"] = "first"
    """Which row of a group stays: the first, the last, or the one with the most fields that are not blank (among
    equals, the first)."""

    count_field: str | None = None
    """A field to write the number of rows of the group into, 1 for a row that has no copy; null writes none. A field
    of that name is replaced."""


@step(
    "deduplicate",
    version="1",
    summary="Keep one row of each group of rows that agree on a key.",
    config=DeduplicateConfig,
)
def deduplicate(records: Sequence[Record], config: DeduplicateConfig) -> StepOutput:
    """Keep one row a group, in input order. Removed rows are not rejects.

    Null, the empty text and text of whitespace only are blank: they never make two rows the same. Numbers compare by
    value (1 is 1.0, but not true), lists and objects by their JSON text with sorted names. Raises StepError
    `unknown_field`, and `unusable_key` when a key's value nests too deeply to compare.
    """
    require_fields(records, (name for names in config.keys for name in names))
    groups: dict[int, list[int]] = {}
    for row, root in enumerate(_roots(records, config.keys)):
        groups.setdefault(root, []).append(row)
    sizes = {_kept(records, rows, config.keep): len(rows) for rows in groups.values()}
    if config.count_field is None:
        return StepOutput([records[row] for row in sorted(sizes)])
    return StepOutput([{**records[row], config.count_field: sizes[row]} for row in sorted(sizes)])


def _roots(records: Sequence[Record], keys: Sequence[Sequence[str]]) -> list[int]:
    """For each row the first row of its group, by union-find with path halving; the smaller index is the root."""
    parents = list(range(len(records)))

    def find(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for names in keys:
        first_with: dict[Hashable, int] = {}
        for row, record in enumerate(records):
            key = _key(record, names)
            if key is None:
                continue
            earlier = find(first_with.setdefault(key, row))
            later = find(row)
            parents[max(earlier, later)] = min(earlier, later)
    return [find(row) for row in range(len(records))]


def _key(record: Record, names: Sequence[str]) -> Hashable | None:
    """What equal rows have in common, or None when one of the fields is blank."""
    parts = []
    for name in names:
        part = _comparable(record.get(name))
        if part is None:
            return None
        parts.append(part)
    return parts[0] if len(parts) == 1 else tuple(parts)


def _comparable(value: Any) -> Hashable | None:
    if _is_blank(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return ("bool", value)  # Python counts True as equal to 1
    if isinstance(value, int | float):
        return value
    try:
        return ("json", json.dumps(value, sort_keys=True))
    except (RecursionError, ValueError) as error:
        raise StepError("a key's value cannot be compared: it nests too deeply", code="unusable_key") from error


def _is_blank(value: Any) -> bool:
    if isinstance(value, str):
        return not value or value.isspace()
    # Python's json reads NaN, which is equal to nothing.
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kept(records: Sequence[Record], rows: Sequence[int], keep: str) -> int:
    if keep == "first":
        return rows[0]
    if keep == "last":
        return rows[-1]
    return max(rows, key=lambda row: (sum(not _is_blank(value) for value in records[row].values()), -row))
