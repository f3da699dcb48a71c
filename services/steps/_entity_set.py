"""A set of entities as it is kept from one batch to the next: a frame with a row for each record, the oldest first."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from services.steps._comparing import texts
from services.steps._entities import Known
from services.steps._rowwise import check_fields
from services.steps.frame import ColumnFrame, Frame

VALUE: Final = "value:"
"""Before the name of a compared field, in what is extracted and in what is kept."""

_KEPT: Final = ("entity", "parent", "parent_score", "parent_evidence")


def read_set(frame: Frame, names: Sequence[str], rules: str) -> Known:
    """The records of a kept set. `rules` names those of today: links that others found hold no more.

    Raises StepError `unknown_field` when the set was kept without a field that is compared today.
    """
    if len(frame):
        check_fields([name.removeprefix(VALUE) for name in frame.names if name.startswith(VALUE)], names)
    return Known(
        keys=frame.values("key"),
        entities=frame.values("entity"),
        parents=frame.values("parent"),
        scores=frame.values("parent_score"),
        evidence=frame.values("parent_evidence"),
        columns={name: texts(frame.values(VALUE + name)) for name in names},
        current=set(frame.values("matched_by")) <= {rules},
    )


def next_set(known: Known, parts: Sequence[pa.Table], verdicts: Sequence[pa.Table], rules: str) -> tuple[Frame, Frame]:
    """The set with a batch in it, and the moves: the records whose entity is another than before.

    A verdict has a row for each of its part's, and may have more, for known records that are not in the batch.
    """
    before = dict(zip(known.keys, known.entities, strict=True))
    kept = zip(known.entities, known.parents, known.scores, known.evidence, *known.columns.values(), strict=True)
    state: dict[str, tuple[Any, ...]] = dict(zip(known.keys, kept, strict=True))
    for part, verdict in zip(parts, verdicts, strict=True):
        values = list(zip(*(part[VALUE + name].to_pylist() for name in known.columns), strict=True))
        links = zip(*(verdict[name].to_pylist() for name in ("key", *_KEPT)), strict=True)
        for row, (key, entity, parent, score, why) in enumerate(links):
            if key is not None:
                evidence = None if why is None else json.loads(why)
                own = values[row] if row < len(part) else state[key][len(_KEPT) :]
                state[key] = (entity, parent, score, evidence, *own)
    names = (*_KEPT, *(VALUE + name for name in known.columns))
    columns: dict[str, list[Any]] = {"key": list(state)}
    columns |= {name: [record[at] for record in state.values()] for at, name in enumerate(names)}
    columns["matched_by"] = [rules] * len(state)
    return _frame(columns), _moves(before, dict(zip(columns["key"], columns["entity"], strict=True)))


def _moves(before: Mapping[str, str], after: Mapping[str, str]) -> Frame:
    """Each record with both its entities and their sizes; the one before is null for a new record."""
    sizes_before, sizes_after = _sizes(before), _sizes(after)
    moved = [(key, before.get(key), entity) for key, entity in after.items() if before.get(key) != entity]
    return _frame(
        {
            "key": [key for key, _, _ in moved],
            "before": [source for _, source, _ in moved],
            "after": [target for _, _, target in moved],
            "before_size": [0 if source is None else sizes_before[source] for _, source, _ in moved],
            "after_size": [sizes_after[target] for _, _, target in moved],
        }
    )


def _sizes(entities: Mapping[str, str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for entity in entities.values():
        sizes[entity] = sizes.get(entity, 0) + 1
    return sizes


def _frame(columns: Mapping[str, Sequence[Any]]) -> Frame:
    rows = len(next(iter(columns.values())))
    return ColumnFrame({}, pa.array(range(rows), pa.int64())).replace(columns)
