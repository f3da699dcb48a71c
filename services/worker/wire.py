"""Chunks between a worker and its step processes: a JSON head that says what follows, then bytes.

The same for requests and results; `services.worker.child` reads and writes the frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from events.batch import EncodedChunk, EncodedColumn

Frames = list[bytes]


def chunk_frames(chunk: EncodedChunk) -> tuple[dict[str, Any], Frames]:
    """A chunk as a head and frames."""
    head = {
        "rows": chunk.rows,
        "first": chunk.first_id,
        "ids": chunk.ids is not None,
        "columns": [[name, column.kind, column.sparse] for name, column in chunk.columns.items()],
    }
    frames = [column.data for column in chunk.columns.values()]
    return head, [*frames, chunk.ids.data] if chunk.ids is not None else frames


def frames_of_chunk(head: dict[str, Any]) -> int:
    """How many frames follow a chunk's head."""
    return len(head["columns"]) + bool(head["ids"])


def read_chunk(head: dict[str, Any], frames: Sequence[bytes]) -> EncodedChunk:
    """The inverse of `chunk_frames`."""
    columns = {
        name: EncodedColumn(kind, sparse, data)
        for (name, kind, sparse), data in zip(head["columns"], frames, strict=False)
    }
    ids = EncodedColumn("integer", False, frames[len(columns)]) if head["ids"] else None
    return EncodedChunk(head["rows"], columns, head["first"], ids)


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a step made of a chunk, or one of the chunks it made.

    `names` are the fields in order. `kept` says which of them are fields of the input, unchanged: name → its name
    there; `output` has the others. `rejects` has the fields row, field, code and value.
    """

    names: tuple[str, ...]
    kept: dict[str, str]
    output: EncodedChunk
    rejects: EncodedChunk | None = None
    report: dict[str, Any] | None = None

    def frames(self) -> tuple[dict[str, Any], Frames]:
        """As a head and frames."""
        output, frames = chunk_frames(self.output)
        rejects, more = (None, []) if self.rejects is None else chunk_frames(self.rejects)
        head = {"names": self.names, "kept": self.kept, "output": output, "rejects": rejects, "report": self.report}
        return head, [*frames, *more]

    @classmethod
    def read(cls, head: dict[str, Any], frames: Sequence[bytes]) -> "ChunkResult":
        """The inverse of `frames`."""
        output = read_chunk(head["output"], frames)
        rest = frames[frames_of_chunk(head["output"]) :]
        rejects = None if head["rejects"] is None else read_chunk(head["rejects"], rest)
        return cls(tuple(head["names"]), head["kept"], output, rejects, head["report"])


@dataclass(frozen=True, slots=True)
class Task:
    """What a step process is asked: an operation of a step, and the chunks that it reads besides its input.

    `names` are all fields of the batch, of which the chunks may bring some only. `keeps`: what the step keeps for later
    batches is wanted too.
    """

    op: str
    step_key: str
    config: dict[str, Any]
    names: tuple[str, ...] = ()
    references: dict[str, list[EncodedChunk]] = field(default_factory=dict)
    reference_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tenant_key: bytes = b""
    namespace: str = ""
    keeps: bool = False

    def frames(self) -> tuple[dict[str, Any], Frames]:
        """As a head and frames."""
        heads: list[list[Any]] = []
        frames: Frames = [self.tenant_key]
        for run_id, chunks in self.references.items():
            packed = [chunk_frames(chunk) for chunk in chunks]
            heads.append([run_id, self.reference_names[run_id], [head for head, _ in packed]])
            frames += [frame for _, more in packed for frame in more]
        head = {
            "op": self.op, "step": self.step_key, "config": self.config, "names": self.names, "references": heads,
            "namespace": self.namespace, "keeps": self.keeps,
        }  # fmt: skip
        return head, frames

    @classmethod
    def read(cls, head: dict[str, Any], frames: Sequence[bytes]) -> tuple["Task", Sequence[bytes]]:
        """The inverse of `frames`, and the frames that are left."""
        tenant_key, rest = frames[0], frames[1:]
        references: dict[str, list[EncodedChunk]] = {}
        names: dict[str, tuple[str, ...]] = {}
        for run_id, fields, heads in head["references"]:
            names[run_id], references[run_id] = tuple(fields), []
            for chunk in heads:
                references[run_id].append(read_chunk(chunk, rest))
                rest = rest[frames_of_chunk(chunk) :]
        task = cls(
            head["op"], head["step"], head["config"], tuple(head["names"]), references, names, tenant_key,
            head["namespace"], head["keeps"],
        )  # fmt: skip
        return task, rest
