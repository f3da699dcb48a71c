"""One operation of a step on one chunk: load what it reads, have a step process do it, store what it makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from events.batch import BatchStore, ChunkRef, EncodedChunk, EncodedColumn, Manifest, encoded_ids
from events.blobs import BlobStore
from events.keys import Owner
from events.payload import Payload, decode_batch, digest_of
from services.steps.frame import ColumnFrame
from services.worker.execution import Failure
from services.worker.isolation import Place
from services.worker.wire import ChunkResult, Frames, Task, chunk_frames


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Bytes in the blob store."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StepCall:
    """A step with all that it is told, for every chunk of a batch the same.

    `reads` are the fields that it looks at, None: all of them. `references` are the batches that it reads besides its
    input, by name; None: there is nothing yet. `keeps`: what it keeps for later batches is wanted too. `timeout_s`
    bounds each operation.
    """

    org_id: str
    step_key: str
    config: dict[str, Any]
    names: tuple[str, ...] = ()
    reads: tuple[str, ...] | None = None
    references: Mapping[str, Payload | None] | None = None
    tenant_key: bytes = b""
    timeout_s: float = 60.0
    namespace: str = ""
    keeps: bool = False

    @property
    def owner(self) -> Owner:
        """Whose batch it is: what a namespace names."""
        return Owner(self.org_id, self.namespace.partition("/")[2])


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """What came of a chunk: rows and rejects, or a table for the combining operation."""

    output: Manifest | None = None
    rejects: Manifest | None = None
    table: BlobRef | None = None
    report: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""

        def of(manifest: Manifest | None) -> dict[str, Any] | None:
            return None if manifest is None else {"names": manifest.names, "chunk": manifest.chunks[0].plain()}

        table = {} if self.table is None else {"table": [self.table.digest, self.table.size_bytes]}
        return {"output": of(self.output), "rejects": of(self.rejects), "report": self.report, **table}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "ChunkDone":
        """The inverse of `plain`. Raises KeyError, TypeError, ValueError."""

        def manifest(part: Mapping[str, Any] | None) -> Manifest | None:
            return None if part is None else Manifest(tuple(part["names"]), (ChunkRef.of(part["chunk"]),))

        table = BlobRef(*plain["table"]) if "table" in plain else None
        return cls(manifest(plain["output"]), manifest(plain["rejects"]), table, plain["report"])


class ChunkExecutor:
    """Does operations on chunks where their step is executed: by the step processes of this worker, or elsewhere."""

    def __init__(self, blobs: BlobStore, processes: Place) -> None:
        self.blobs = blobs
        self.batches = BatchStore(blobs)
        self.processes = processes

    async def manifest(self, owner: Owner, payload: Payload) -> Manifest:
        """The manifest of a batch; records in JSON become one chunk. Raises UnavailableError, ValueError."""
        if payload.format == "batch":
            return await self.batches.manifest(owner, payload)
        frame = ColumnFrame.of_records(*decode_batch(await self.blobs.load(owner, payload)))
        columns = {name: EncodedColumn.of(column) for name, column in frame.columns.items()}
        first_id, ids = encoded_ids(frame.ids)
        refs = await self.batches.store(owner, columns)
        chunk = ChunkRef(len(frame), tuple(refs.values()), first_id, await self.batches.store_ids(owner, ids))
        return Manifest(tuple(refs), (chunk,))

    async def task(self, call: StepCall, op: str) -> Task:
        """The call as a step process is told it, with its references loaded."""
        references: dict[str, list[EncodedChunk]] = {}
        names: dict[str, tuple[str, ...]] = {}
        for run_id, payload in (call.references or {}).items():
            if payload is None:
                references[run_id], names[run_id] = [], ()
                continue
            manifest = await self.manifest(call.owner, payload)
            chunks = range(len(manifest.chunks))
            references[run_id] = [await self.batches.load(call.owner, manifest, number) for number in chunks]
            names[run_id] = manifest.names
        return Task(
            op, call.step_key, call.config, call.names, references, names, call.tenant_key, call.namespace, call.keeps
        )

    async def execute(
        self, call: StepCall, op: str, chunk: ChunkRef, verdict: BlobRef | None = None
    ) -> ChunkDone | Failure:
        """One operation on one chunk. Raises UnavailableError when the blob store does."""
        source = Manifest(call.names, (chunk,))
        loaded = await self.batches.load(call.owner, source, 0, call.reads)
        head, frames = (await self.task(call, op)).frames()
        if verdict is not None:
            frames.append(await self.blobs.get(call.owner, verdict.digest, verdict.size_bytes))
        chunk_head, more = chunk_frames(loaded)
        answers: list[tuple[dict[str, Any], Frames]] = []

        async def receive(message: dict[str, Any], frames: Frames) -> None:
            answers.append((message, frames))

        request = {**head, "chunk": chunk_head, "partial": call.reads is not None}
        failure = await self.processes.converse(request, [*frames, *more], call.timeout_s, receive=receive)
        if failure is not None:
            return failure
        message, frames = answers[0]
        if "table" in message:
            return ChunkDone(table=await self.keep_table(call.owner, frames[0]))
        return await self.keep(call.owner, ChunkResult.read(message["result"], frames), source)

    async def keep(self, owner: Owner, result: ChunkResult, source: Manifest | None = None) -> ChunkDone:
        """Store what a step made of a chunk; what it left as it was stays where it is."""
        refs: dict[str, Any] = await self.batches.store(owner, result.output.columns)
        if source is not None:
            known = dict(zip(source.names, source.chunks[0].columns, strict=True))
            refs |= {name: known[old] for name, old in result.kept.items()}
        columns = tuple(refs[name] for name in result.names)
        ids = await self.batches.store_ids(owner, result.output.ids)
        chunk = ChunkRef(result.output.rows, columns, result.output.first_id, ids)
        rejects = None if result.rejects is None else await self._keep_rejects(owner, result.rejects)
        return ChunkDone(Manifest(result.names, (chunk,)), rejects, report=result.report)

    async def keep_table(self, owner: Owner, data: bytes) -> BlobRef:
        """Store what an exchanging step gives or gets of a chunk."""
        digest = digest_of(data)
        await self.blobs.put(owner, digest, data)
        return BlobRef(digest, len(data))

    async def _keep_rejects(self, owner: Owner, rejects: EncodedChunk) -> Manifest:
        refs = await self.batches.store(owner, rejects.columns)
        ids = await self.batches.store_ids(owner, rejects.ids)
        return Manifest(tuple(refs), (ChunkRef(rejects.rows, tuple(refs.values()), rejects.first_id, ids),))


def chunk_digest(chunk: ChunkRef, names: Sequence[str]) -> str:
    """What tells a chunk's content and place from any other's."""
    return digest_of(Manifest(tuple(names), (chunk,)).encode())
