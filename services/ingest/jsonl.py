"""JSON lines: an object a line; what comes in comes out as it was."""

from collections.abc import Iterator
from itertools import chain

import numpy as np

from events.columns import ABSENT, Column, column_of
from events.errors import InvalidInputError
from events.strictjson import parse
from services.ingest.chunks import Chunk, raw_text
from services.ingest.config import CHUNK_BYTES, CHUNK_ROWS, ReadFileConfig
from services.steps.base import Reject, StepError
from services.steps.frame import Record

CELL_BYTES = 8
"""What a field costs that a record has not, so that many different fields end a chunk sooner."""


class JsonLines:
    """Reads one file. By I-JSON's rules (`events.strictjson`), as records that come in a request are."""

    def __init__(self, blocks: Iterator[bytes], config: ReadFileConfig) -> None:
        self._blocks = blocks
        self._config = config
        self._names: dict[str, None] = {}

    def chunks(self) -> Iterator[Chunk]:
        """All records, in chunks; at least one. Raises StepError `too_many_columns`, `unknown_field`."""
        records: list[Record] = []
        ordinals: list[int] = []
        places: list[int] = []
        rejects: list[Reject] = []
        size_bytes, made = 0, False
        for ordinal, (place, line) in enumerate(self._lines()):
            value = self._parsed(line)
            if isinstance(value, str):
                rejects.append(Reject(place, None, value, raw_text(line)))
            else:
                records.append(value)
                ordinals.append(ordinal)
                places.append(place)
                self._see(value, place)
            size_bytes += len(line) + CELL_BYTES * len(self._names)
            if len(records) + len(rejects) >= CHUNK_ROWS or size_bytes >= CHUNK_BYTES:
                yield self._chunk(records, ordinals, places, rejects)
                records, ordinals, places, rejects = [], [], [], []
                size_bytes, made = 0, True
        if records or rejects or not made:
            yield self._chunk(records, ordinals, places, rejects)
        if self._names:
            self._config.require(list(self._names))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line that is not blank, with its number. Of one that is too long, a little more than may be."""
        held: list[bytes] = []
        held_bytes, number, bound = 0, 1, self._config.max_record_bytes
        for block in chain(self._blocks, [b""]):
            pieces = block.split(b"\n") if block else [b"", b""]
            for at, piece in enumerate(pieces):
                if held_bytes <= bound:
                    held.append(piece[: bound + 1])
                    held_bytes += len(held[-1])
                if at == len(pieces) - 1:
                    break  # the line may go on in the next block
                line = b"".join(held)
                held, held_bytes = [], 0
                if line.strip():
                    yield number, line
                number += 1

    def _parsed(self, line: bytes) -> Record | str:
        """The object of a line, or the code of what is wrong with it."""
        if len(line) > self._config.max_record_bytes:
            return "record_too_long"
        try:
            value = parse(line)
        except InvalidInputError:
            try:
                line.decode()
            except UnicodeDecodeError:
                return "undecodable"
            return "invalid_json"
        return value if type(value) is dict else "not_object"

    def _see(self, record: Record, place: int) -> None:
        if record.keys() <= self._names.keys():
            return
        self._names |= dict.fromkeys(record)
        if len(self._names) > self._config.max_columns:
            raise StepError(
                f"Up to line {place}, the records have {len(self._names)} different fields; at most "
                f"{self._config.max_columns} (max_columns).",
                code="too_many_columns",
            )

    def _chunk(self, records: list[Record], ordinals: list[int], places: list[int], rejects: list[Reject]) -> Chunk:
        here = {name for record in records for name in record}
        columns: dict[str, Column] = {
            name: column_of([record.get(name, ABSENT) for record in records]) for name in self._names if name in here
        }
        return Chunk(columns, np.array(ordinals, np.int64), np.array(places, np.int64), rejects)
