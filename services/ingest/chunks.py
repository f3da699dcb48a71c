"""What all formats share: conversion of chunks, the account of what was read, and the report."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from events.columns import ABSENT, Column, column_of
from services.ingest.config import ReadFileConfig
from services.ingest.kinds import FieldSchema, cast_to
from services.steps._rowwise import Fault
from services.steps.base import Reject, Result
from services.steps.frame import ColumnFrame

RAW_MAX_CHARS = 1_000

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records as they stand in the file: columns, their ordinals (row ids), where each stands; and what is no record.

    `places` are what rejects call `row`: the line where a record begins, or its row in the sheet; from 1.
    """

    columns: Mapping[str, Column]
    ordinals: Numbers
    places: Numbers
    rejects: list[Reject] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """What was read: names, kinds and counts, for the report."""

    config: ReadFileConfig
    schema: dict[str, FieldSchema] = field(default_factory=dict)
    rows: int = 0
    rejects: int = 0

    def finish(self, chunk: Chunk) -> Result:
        """Convert the columns that the config names; rows that do not convert become rejects."""
        faults: dict[int, Reject] = {}
        columns = dict(chunk.columns)
        for name in sorted(self.config.columns.keys() & columns.keys()):
            columns[name] = self._cast(name, columns[name], chunk.places, faults)
        frame = ColumnFrame(columns, pa.array(chunk.ordinals, pa.int64()))
        if faults:
            frame = frame.take([row for row in range(len(frame)) if row not in faults])
        rejects = sorted([*chunk.rejects, *faults.values()], key=lambda reject: reject.row)
        for name, column in frame.columns.items():
            self.schema.setdefault(name, FieldSchema(self.rows, self.rows)).see(column)
        self.rows += len(frame)
        for name in self.schema.keys() - frame.columns.keys():  # a field that no row of this chunk has
            self.schema[name].rows = self.rows
            self.schema[name].nulls += len(frame)
        self.rejects += len(rejects)
        return Result(frame, rejects)

    def _cast(self, name: str, column: Column, places: Numbers, faults: dict[int, Reject]) -> Column:
        cast = cast_to(self.config.columns[name])
        coded = ColumnFrame({name: column}, pa.array(places)).coded(name)
        results = [cast(value) for value in coded.values]
        faulty = {code: result for code, result in enumerate(results) if isinstance(result, Fault)}
        if faulty:
            for row, code in enumerate(coded.code_list()):
                if code in faulty and row not in faults:
                    value = bounded(coded.values[code])
                    faults[row] = Reject(int(places[row]), name, faulty[code].code, value)
            results = [None if isinstance(result, Fault) else result for result in results]
        if column.sparse:  # a row that has no such field is not one where it is null
            cells = zip(column.fields(), coded.code_list(), strict=True)
            return column_of([ABSENT if value is ABSENT else results[code] for value, code in cells])
        return column_of(results).take(pa.array(coded.codes, pa.int64()))


def bounded(value: Any) -> Any:
    """A value for a reject: text, or JSON text of what is nested, of at most RAW_MAX_CHARS characters."""
    if isinstance(value, list | dict):
        value = orjson.dumps(value).decode()
    return value[:RAW_MAX_CHARS] if isinstance(value, str) else value


def raw_text(data: bytes) -> str:
    """What a reject shows of bytes; those that are no UTF-8 as `\\xNN`."""
    return data[: 4 * RAW_MAX_CHARS].decode("utf-8", "backslashreplace")[:RAW_MAX_CHARS]


def reported(results: Iterable[Result], report: Callable[[], Mapping[str, Any]]) -> Iterator[Result]:
    """The results, the last of them with the report, which is made when all were seen."""
    held: Result | None = None
    for result in results:
        if held is not None:
            yield held
        held = result
    if held is not None:
        yield replace(held, report=report())
