"""What row-wise steps share: the `on_error` policy, the check of field names, and work on distinct values only."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, Literal, NamedTuple

from services.steps.base import Reject, Result, StepConfig, StepError
from services.steps.frame import Coded, Frame, Record, distinct_rows

NAMES_SHOWN = 20

_short = Repr()
_short.maxstring = _short.maxother = 80

OnError = Literal["null", "reject", "fail"]


class RowwiseConfig(StepConfig):
    """The config of a step that looks at one row at a time."""

    on_error: OnError = "null"
    """What becomes of a value that the step cannot handle: `null` writes null in its place, `reject` moves the whole
    row to the rejects (row, field, code, raw value), `fail` fails the step."""


@dataclass(frozen=True, slots=True)
class Fault:
    """In place of a result: why a value could not be handled. `at` is the place of the field at fault among several."""

    code: str
    at: int = 0


class RowFault(NamedTuple):
    """A fault with its place in the row, and the raw value."""

    field: str | None
    code: str
    value: Any


Changed = tuple[Record, RowFault | None]
"""A new row, with null where a value could not be handled, and the first fault found in it."""


class Rowwise:
    """Works on a frame's fields, keeps account of what could not be handled, and gives the result under `on_error`.

    A function is called once for each distinct value, and must depend on nothing else.
    """

    def __init__(self, frame: Frame, on_error: OnError) -> None:
        self._frame = frame
        self._on_error = on_error
        self._made: dict[str, Sequence[Any] | Coded] = {}
        self._faults: dict[int, RowFault] = {}  # by row, the first of each

    def map(self, source: str, function: Callable[[Any], Any], into: str | None = None) -> None:
        """Write `function(value)` of a field into another (or itself); a Fault it returns is null there."""
        coded = self._frame.coded(source)
        results = [function(value) for value in coded.values]
        self._keep((into or source,), (source,), [(value,) for value in coded.values], coded, results, many=False)

    def map_many(self, sources: Sequence[str], function: Callable[..., Any], into: Sequence[str]) -> None:
        """Write the tuple `function(*values)` of some fields into others; a Fault it returns is null in all of them."""
        coded = distinct_rows(self._frame, sources)
        results = [function(*values) for values in coded.values]
        self._keep(into, sources, coded.values, coded, results, many=True)

    def first_of(self, sources: Sequence[str], functions: Sequence[Callable[[Any], Any]], into: str) -> None:
        """Write the first of the fields' results that is neither None nor a Fault; if none is, the first Fault is kept.

        A field is looked at in the rows alone that those before it gave nothing for.
        """
        found: list[Any] = [None] * len(self._frame)
        faults: dict[int, RowFault] = {}
        pending: Sequence[int] = range(len(found))
        for name, function in zip(sources, functions, strict=True):
            coded = self._frame.coded(name)
            codes, results, left = coded.code_list(), dict[int, Any](), list[int]()
            for row in pending:
                code = codes[row]
                if code not in results:
                    results[code] = function(coded.values[code])
                result = results[code]
                if result is not None and not isinstance(result, Fault):
                    found[row] = result
                    continue
                left.append(row)
                if result is not None and row not in faults:
                    faults[row] = RowFault(name, result.code, coded.values[code])
            pending = left
        if self._on_error != "null":
            for row in pending:
                if row in faults:
                    self._faults.setdefault(row, faults[row])
        self._made[into] = found

    def result(self, report: Mapping[str, Any] | None = None) -> Result:
        """The frame with what was written, and the rejects. Raises StepError when `on_error` is `fail`."""
        frame = self._frame.replace(self._made)
        if not self._faults or self._on_error == "null":
            return Result(frame, [], report)
        ids = self._frame.row_ids()
        if self._on_error == "fail":
            row = min(self._faults)
            raise failed(ids[row], self._faults[row])
        rejects = [Reject(ids[row], *self._faults[row]) for row in sorted(self._faults)]
        return Result(frame.take([row for row in range(len(frame)) if row not in self._faults]), rejects, report)

    def _keep(
        self,
        into: Sequence[str],
        sources: Sequence[str],
        values: list[Any],
        coded: Coded,
        results: list[Any],
        *,
        many: bool,
    ) -> None:
        faulty = {code: result for code, result in enumerate(results) if isinstance(result, Fault)}
        if faulty and self._on_error != "null":
            for row, code in enumerate(coded.code_list()):
                if code in faulty and row not in self._faults:
                    fault = faulty[code]
                    self._faults[row] = RowFault(sources[fault.at], fault.code, values[code][fault.at])
        for at, name in enumerate(into):
            if faulty:
                column = [None if isinstance(r, Fault) else r[at] if many else r for r in results]
            else:
                column = [r[at] for r in results] if many else results
            self._made[name] = Coded(column, coded.codes)


def require_fields(frame: Frame, names: Iterable[str]) -> None:
    """Raise StepError `unknown_field` when the batch has no such field; an empty batch has nothing to check."""
    if len(frame):
        check_fields(frame.names, names)


def check_fields(present: Sequence[str], names: Iterable[str]) -> None:
    """Raise StepError `unknown_field` when one of `names` is not among the fields that there are, and tell those."""
    missing = sorted(set(names) - set(present))
    if not missing:
        return
    more = f" and {len(present) - NAMES_SHOWN} more" if len(present) > NAMES_SHOWN else ""
    raise StepError(
        f"no record has the field {_listed(missing)}; there are: {_listed(sorted(present)) or 'none'}{more}",
        code="unknown_field",
    )


def run_rows(frame: Frame, on_error: OnError, change: Callable[[Record], Changed]) -> Result:
    """Apply `change` to whole rows one by one, and `on_error` to each that it finds a fault in.

    For steps that make another row of a row; those that work on fields are better served by Rowwise. Raises StepError
    with the fault's code when `on_error` is `fail`.
    """
    kept: list[Record] = []
    kept_ids: list[int] = []
    rejects: list[Reject] = []
    for row, record in zip(frame.row_ids(), frame.records(), strict=True):
        changed, fault = change(record)
        if fault is None or on_error == "null":
            kept.append(changed)
            kept_ids.append(row)
        elif on_error == "reject":
            rejects.append(Reject(row, fault.field, fault.code, fault.value))
        else:
            raise failed(row, fault)
    return Result(frame.of(kept, kept_ids), rejects)


def failed(row: int, fault: RowFault) -> StepError:
    """The error of a step whose `on_error` is `fail`."""
    return StepError(
        f"row {row}, field {_short.repr(fault.field)}: {fault.code}: {_short.repr(fault.value)}", code=fault.code
    )


def reads_unless_rejecting(fields: Callable[[Any], Sequence[str]]) -> Callable[[Any], Sequence[str] | None]:
    """`Step.reads` of a row-wise step: its fields, or whole rows when it may reject some."""
    return lambda config: None if config.on_error == "reject" else fields(config)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_short.repr(name) for name in names[:NAMES_SHOWN])
