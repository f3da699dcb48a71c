"""Collects the records of delimited text into chunks: runs cut up by Arrow, and records that were read one by one."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from events.columns import Column
from services.ingest.chunks import Chunk, Numbers, raw_text
from services.ingest.config import CHUNK_BYTES, CHUNK_ROWS
from services.steps.base import Reject


class ChunkBuilder:
    """One chunk at a time. A record that is rejected takes an ordinal too, so that the others' never shift."""

    def __init__(self, names: Sequence[str], null_tokens: Sequence[str]) -> None:
        self._names = list(names)
        self._null_tokens = frozenset(null_tokens)
        self._ordinal = 0
        self._clear()

    def _clear(self) -> None:
        self._records = 0
        self._size_bytes = 0
        self._pieces: list[list[pa.Array]] = []
        self._ordinals: list[Numbers] = []
        self._places: list[Numbers] = []
        self._rejects: list[Reject] = []
        self._rows: list[list[bytes]] = []
        self._row_numbers: list[tuple[int, int]] = []

    @property
    def full(self) -> bool:
        """Whether the chunk is to be taken before more is added."""
        return self._records >= CHUNK_ROWS or self._size_bytes >= CHUNK_BYTES

    def room(self, sizes: Numbers) -> int:
        """How many of records of these sizes (bytes) go into this chunk; at least one."""
        by_size = int(np.searchsorted(np.cumsum(sizes), CHUNK_BYTES - self._size_bytes)) + 1
        return min(CHUNK_ROWS - self._records, by_size, len(sizes))

    def add_run(self, fields: list[pa.Array], lines: Numbers, sizes: Numbers) -> None:
        """Records, a column for each name."""
        self._flush()
        self._pieces.append(fields)
        self._ordinals.append(np.arange(self._ordinal, self._ordinal + len(sizes), dtype=np.int64))
        self._places.append(lines)
        self._count(len(sizes), int(sizes.sum()))

    def add(self, fields: list[bytes], line: int, size_bytes: int) -> None:
        """One record, with a field for each name."""
        self._rows.append(fields)
        self._row_numbers.append((self._ordinal, line))
        self._count(1, size_bytes)

    def reject(self, line: int, code: str, raw: bytes) -> None:
        """One record, or line, that is none."""
        self._rejects.append(Reject(line, None, code, raw_text(raw.rstrip(b"\r\n"))))
        self._count(1, min(len(raw), 4096))

    def take(self) -> Chunk:
        """The chunk, and begin the next one."""
        self._flush()
        columns: Mapping[str, Column] = {
            name: Column(
                "string", pa.concat_arrays([piece[at] for piece in self._pieces] or [pa.nulls(0, pa.string())])
            )
            for at, name in enumerate(self._names)
        }
        none = np.zeros(0, np.int64)
        ordinals = np.concatenate([none, *self._ordinals])
        places = np.concatenate([none, *self._places])
        chunk = Chunk(columns, ordinals, places, self._rejects)
        self._clear()
        return chunk

    def _count(self, records: int, size_bytes: int) -> None:
        self._ordinal += records
        self._records += records
        self._size_bytes += size_bytes

    def _flush(self) -> None:
        """Make a piece of the records that came one by one."""
        if not self._rows:
            return
        tokens = self._null_tokens
        columns = [[cell.decode() for cell in column] for column in zip(*self._rows, strict=True)]
        self._pieces.append(
            [pa.array([None if cell in tokens else cell for cell in column], pa.string()) for column in columns]
        )
        numbers = np.array(self._row_numbers, np.int64)
        self._ordinals.append(numbers[:, 0])
        self._places.append(numbers[:, 1])
        self._rows, self._row_numbers = [], []
