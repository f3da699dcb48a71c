"""diff_snapshot: what changed between an earlier run's output and this batch."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field, model_validator

from services.steps._keys import row_keys
from services.steps._rowwise import check_fields
from services.steps._values import identity
from services.steps.base import Context, Example, Reject, Result, Step, StepConfig, StepError, Whole
from services.steps.frame import CHUNK_ROWS, Frame, Record

Numbers = npt.NDArray[np.int64]


class DiffSnapshotConfig(StepConfig):
    """Which run to compare with, by which key, and what to write."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"run_id": "run_0190a1b2", "key": ["crm_id"], "compare_fields": ["name", "stage"]},
                {"run_id": "run_0190a1b2", "key": ["crm_id"], "include_unchanged": True, "before_field": None},
            ]
        }
    )

    run_id: str = Field(min_length=1, max_length=100)
    """The run whose output is the state before: an earlier one of the same company that has succeeded."""

    key: list[str] = Field(min_length=1, max_length=16)
    """The fields that tell which row is which, in the batch and in the earlier output. What is equal is told as by
    deduplicate."""

    compare_fields: list[str] | None = Field(default=None, min_length=1, max_length=1000)
    """The fields whose change counts; null: all fields of either, but the key. Null and a missing field are equal."""

    include_unchanged: bool = False
    """Whether rows go on of which nothing changed."""

    change_field: str = "change"
    """Where to write `added`, `removed`, `changed` or `unchanged`."""

    changed_fields_field: str = "changed_fields"
    """Where to write the list of the fields that changed; it is empty for rows that are not `changed`."""

    before_field: str | None = "before"
    """Where to write an object with the earlier values of the fields that changed; null for other rows. Null writes
    none."""

    @model_validator(mode="after")
    def _outputs_stay_apart(self) -> Self:
        outputs = [self.change_field, self.changed_fields_field, self.before_field]
        if any(times > 1 for times in Counter(outputs).values()):
            raise ValueError("two output fields have the same name")
        if taken := {*outputs} & {*self.key, *(self.compare_fields or ())}:
            raise ValueError(f"an output field would replace one that is compared: {', '.join(map(str, taken))}")
        return self


class _Before:
    """The earlier output: its rows by key, and the values of its fields, each different one as a number."""

    def __init__(self, frame: Frame, key: Sequence[str]) -> None:
        if len(frame):
            check_fields(frame.names, key)
        self.frame = frame
        encoded = row_keys(frame, key).dictionary_encode()
        self._keys = encoded.dictionary
        there = np.flatnonzero(encoded.is_valid().to_numpy(zero_copy_only=False))
        _, firsts = np.unique(encoded.indices.drop_null().to_numpy(), return_index=True)
        self._rows = there[firsts]  # the row of each key, in the order of the keys
        self.found = np.zeros(len(frame), bool)
        self.found[np.setdiff1d(np.arange(len(frame)), self._rows)] = True  # without a key, or a copy: not compared
        self.left_out = len(frame) - len(self._rows)
        self._fields: dict[str, tuple[dict[Hashable, int], Numbers]] = {}

    def rows_of(self, keys: pa.Array) -> Numbers:
        """The row with each key, -1 where there is none."""
        places = pc.index_in(keys, value_set=self._keys, skip_nulls=True)
        there = places.is_valid().to_numpy(zero_copy_only=False)
        rows = np.full(len(keys), -1, np.int64)
        rows[there] = self._rows[places.drop_null().to_numpy()]
        return rows

    def differs(self, frame: Frame, name: str, mine: Numbers, theirs: Numbers) -> npt.NDArray[np.bool_]:
        """Whether the values of a field differ between rows of the frame and rows of this."""
        if name not in self._fields:
            coded = self.frame.coded(name)
            numbers: dict[Hashable, int] = {}
            codes = [numbers.setdefault(identity(value), len(numbers)) for value in coded.values]
            self._fields[name] = (numbers, np.array(codes, np.int64)[np.asarray(coded.codes, np.int64)])
        numbers, values = self._fields[name]
        coded = frame.coded(name)
        # a value that the earlier output has nowhere is -1: another than all of its values
        codes = [numbers.get(identity(value), -1) for value in coded.values]
        now = np.array(codes, np.int64)[np.asarray(coded.codes, np.int64)]
        return np.not_equal(now[mine], values[theirs])


def _diff_snapshot(frames: Iterable[Frame], config: DiffSnapshotConfig, context: Context) -> Iterator[Result]:
    """Rows that were added, removed or changed: as they are now, and removed ones as they were; what changed beside.

    The batch's rows come in their order, then the removed ones in the order of the earlier output; they get new row
    numbers, from 0. Rows of the batch without a whole key are rejects (`blank_key`), and so is a second row with the
    same key (`duplicate_key`); of the earlier output such rows are left out, and the report says how many. The report
    counts each kind of change, and the changes of each field. Raises StepError `unknown_field`, `no_reference` where
    the earlier output is not at hand, `unusable_key` and `unusable_value` for values that nest too deeply to compare.
    """
    earlier = context.references.get(config.run_id)
    if earlier is None:
        raise StepError(
            f"the output of the run {config.run_id!r} was not handed to the step: it cannot be used here",
            code="no_reference",
        )
    before = _Before(earlier, config.key)
    counts: Counter[str] = Counter()
    by_field: Counter[str] = Counter()
    seen: set[bytes] = set()
    names: dict[str, None] = {}
    like, written = earlier, 0
    for frame in frames:
        like = frame
        if not len(frame):
            continue
        names |= dict.fromkeys(frame.names)
        check_fields(frame.names, config.key)
        keys = row_keys(frame, config.key)
        good, rejects = _usable(frame, keys, config, seen)
        made = list(_compared(frame, good, before.rows_of(keys)[good], before, config, counts, by_field))
        yield Result(like.of(made, range(written, written + len(made))), rejects)
        written += len(made)
    if names and config.compare_fields is not None:
        check_fields((*(names | dict.fromkeys(before.frame.names)),), config.compare_fields)
    removed = np.flatnonzero(~before.found)
    counts["removed"] = len(removed)
    report = {
        **{change: counts[change] for change in ("added", "removed", "changed", "unchanged")},
        "changed_fields": dict(sorted(by_field.items())),
        "left_out_of_earlier": before.left_out,
    }
    for start in range(0, len(removed), CHUNK_ROWS):
        old = before.frame.take(removed[start : start + CHUNK_ROWS].tolist()).records()
        made = [_marked(record, "removed", [], None, config) for record in old]
        yield Result(like.of(made, range(written, written + len(made))))
        written += len(made)
    yield Result(like.take([]), report=report)


def _usable(frame: Frame, keys: pa.Array, config: DiffSnapshotConfig, seen: set[bytes]) -> tuple[Numbers, list[Reject]]:
    """The rows with a key that no row before has, and rejects for the others."""
    good, rejects = [], []
    ids = frame.row_ids()
    raw = frame.values(config.key[0])
    for row, key in enumerate(keys.to_pylist()):
        if key is None or key in seen:
            code = "blank_key" if key is None else "duplicate_key"
            rejects.append(Reject(ids[row], config.key[0], code, raw[row]))
        else:
            seen.add(key)
            good.append(row)
    return np.array(good, np.int64), rejects


def _compared(
    frame: Frame,
    good: Numbers,
    theirs: Numbers,
    before: _Before,
    config: DiffSnapshotConfig,
    counts: Counter[str],
    by_field: Counter[str],
) -> Iterator[Record]:
    """The rows of a chunk that go on, with what changed; counts what there is to count. `theirs`: the earlier rows of
    the good ones, -1 where there is none."""
    before.found[theirs[theirs >= 0]] = True
    known = np.flatnonzero(theirs >= 0)
    changed: dict[int, list[str]] = {}
    for name in _compared_fields(frame, before.frame, config):
        for place in known[before.differs(frame, name, good[known], theirs[known])].tolist():
            changed.setdefault(place, []).append(name)
            by_field[name] += 1
    counts["added"] += len(good) - len(known)
    counts["changed"] += len(changed)
    counts["unchanged"] += len(known) - len(changed)
    wanted = [at for at in range(len(good)) if config.include_unchanged or at in changed or theirs[at] < 0]
    new = frame.take(good[wanted].tolist()).records()
    olds = iter(before.frame.take([int(theirs[at]) for at in wanted if at in changed]).records())
    for at, record in zip(wanted, new, strict=True):
        if at in changed:
            old = next(olds)
            yield _marked(record, "changed", changed[at], {name: old.get(name) for name in changed[at]}, config)
        else:
            yield _marked(record, "added" if theirs[at] < 0 else "unchanged", [], None, config)


def _compared_fields(frame: Frame, earlier: Frame, config: DiffSnapshotConfig) -> list[str]:
    if config.compare_fields is not None:
        return config.compare_fields
    written = (config.change_field, config.changed_fields_field, config.before_field)
    # an earlier output may be a comparison itself: what it wrote is not compared
    return sorted({*frame.names, *earlier.names} - {*config.key, *(name for name in written if name is not None)})


def _marked(
    record: Record, change: str, fields: list[str], old: dict[str, Any] | None, config: DiffSnapshotConfig
) -> Record:
    marked = {**record, config.change_field: change, config.changed_fields_field: fields}
    if config.before_field is not None:
        marked[config.before_field] = old
    return marked


diff_snapshot = Step(
    "diff_snapshot",
    version="1",
    summary="Compare the batch with an earlier run's output by key: rows added, removed, changed by field.",
    config_model=DiffSnapshotConfig,
    body=Whole(_diff_snapshot),
    references=lambda config: (config.run_id,),
    holds="The earlier output in columns; 8 bytes a row and field of it, and each different value; each row's key.",
    examples=[
        Example(
            "A deal that was won, one that is new, and one that is gone",
            {"run_id": "run_0190a1b2", "key": ["id"]},
            [
                {"id": "d1", "stage": "won", "amount": 900},
                {"id": "d2", "stage": "open", "amount": 50.0},
                {"id": "d4", "stage": "open", "amount": 70},
                {"id": None, "stage": "open", "amount": 1},
            ],
            [
                {
                    "id": "d1",
                    "stage": "won",
                    "amount": 900,
                    "change": "changed",
                    "changed_fields": ["amount", "stage"],
                    "before": {"amount": 800, "stage": "open"},
                },
                {
                    "id": "d4",
                    "stage": "open",
                    "amount": 70,
                    "change": "added",
                    "changed_fields": [],
                    "before": None,
                },
                {
                    "id": "d3",
                    "stage": "lost",
                    "amount": None,
                    "change": "removed",
                    "changed_fields": [],
                    "before": None,
                },
            ],
            [Reject(3, "id", "blank_key", None)],
            references={
                "run_0190a1b2": [
                    {"id": "d1", "stage": "open", "amount": 800},
                    {"id": "d2", "stage": "open", "amount": 50},
                    {"id": "d3", "stage": "lost", "amount": None},
                ]
            },
        )
    ],
)
