"""What row-wise steps share: the `on_error` policy, the check of field names, and the memory of a chunk's values."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from services.steps.base import Record, Reject, StepConfig, StepError, StepOutput

V = TypeVar("V")

NAMES_SHOWN = 20

_short = Repr()
_short.maxstring = _short.maxother = 80


class RowwiseConfig(StepConfig):
    """The config of a step that looks at one row at a time."""

    on_error: Literal["null", "reject", "fail"] = "null"
    """What becomes of a value that the step cannot handle: `null` writes null in its place, `reject` moves the whole
    row to the rejects (row, field, code, raw value), `fail` fails the step."""


@dataclass(frozen=True, slots=True)
class Fault:
    """In place of a result: why a value could not be handled."""

    code: str


class RowFault(NamedTuple):
    """A fault with its place in the row, and the raw value."""

    field: str
    code: str
    value: Any


Changed = tuple[Record, RowFault | None]
"""A new row, with null where a value could not be handled, and the first fault found in it."""


class Memo(dict[str, V], Generic[V]):
    """A function's results by argument, so that each distinct string of a chunk is worked on once.

    Lives as long as one call of a step, so that its size is bounded by the chunk's.
    """

    def __init__(self, function: Callable[[str], V]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, key: str) -> V:
        value = self[key] = self._function(key)
        return value


def require_fields(records: Sequence[Record], names: Iterable[str]) -> None:
    """Raise StepError `unknown_field` when a name is a field of no record; an empty batch has nothing to check."""
    missing = set(names)
    for record in records:
        if not missing:
            return
        missing.difference_update(record)
    if not missing or not records:
        return
    present = sorted({name for record in records for name in record})
    more = f" and {len(present) - NAMES_SHOWN} more" if len(present) > NAMES_SHOWN else ""
    raise StepError(
        f"no record has the field {_listed(sorted(missing))}; there are: {_listed(present) or 'none'}{more}",
        code="unknown_field",
    )


def run_rows(records: Sequence[Record], on_error: str, change: Callable[[Record], Changed]) -> StepOutput:
    """Apply `change` to each row, and `on_error` to each row that it finds a fault in.

    Raises StepError with the fault's code when `on_error` is `fail`.
    """
    kept: list[Record] = []
    rejects: list[Reject] = []
    for row, record in enumerate(records):
        changed, fault = change(record)
        if fault is None or on_error == "null":
            kept.append(changed)
        elif on_error == "reject":
            rejects.append(Reject(row, fault.field, fault.code, fault.value))
        else:
            raise StepError(
                f"row {row}, field {_short.repr(fault.field)}: {fault.code}: {_short.repr(fault.value)}",
                code=fault.code,
            )
    return StepOutput(kept, rejects)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_short.repr(name) for name in names[:NAMES_SHOWN])
