"""A step over a large batch: its chunks side by side, its barriers at one place, its progress told, its result reused.

The worker that holds the step's task directs: it says what is to be done with which chunk, and records one result for
the step. A chunk that fails is tried again alone. Each chunk's outcome is memoised, so that whoever takes over from a
worker that died does only what was not done.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from events.batch import ChunkRef, Manifest, merged
from events.errors import UnavailableError
from events.keys import Owner
from events.payload import Payload
from events.upload import load_parts
from services.domain.outcome import Done, Fault
from services.steps._rowwise import check_fields
from services.steps.base import Exchange, Source, Step, StepError
from services.worker.chunk_jobs import BlobRef, ChunkDone, ChunkExecutor, StepCall, chunk_digest
from services.worker.entity_sets import KnownChanged
from services.worker.execution import Failure, failure_of
from services.worker.fleet import Execute, Fleet
from services.worker.isolation import Piece
from services.worker.memo import Memo, memo_key
from services.worker.references import context_digests
from services.worker.spread import Progress, Spread, StepFailed, Tell
from services.worker.wire import ChunkResult, Frames, chunk_frames

IO_AHEAD = 2
"""Chunks that are loaded or stored while the step processes are all at work."""

LEARN_ATTEMPTS = 20
"""Others may have taught the same set meanwhile; then the batch is matched against what is known by now."""

Applied = ChunkDone | Failure
Learn = Callable[[Mapping[str, Payload]], Awaitable[Mapping[str, Any]]]
"""Keeps what a step learnt for later batches, by name; what there is to report of it. Raises KnownChanged."""


@dataclass(frozen=True, slots=True)
class BatchStep:
    """A step of a run that is due over a large batch."""

    org_id: str
    company_id: str
    index: int
    attempt: int
    attempts: int
    step: Step[Any]
    config: dict[str, Any]
    source: Payload
    timeout_s: float
    references: Mapping[str, Payload | None]
    tenant_key: bytes
    may_reuse: bool
    memoise: bool = True
    learn: Learn | None = None

    @property
    def namespace(self) -> str:
        """Whose ids a step makes."""
        return f"{self.org_id}/{self.company_id}"

    @property
    def owner(self) -> Owner:
        """Whose batch it is."""
        return Owner(self.org_id, self.company_id)


@dataclass(frozen=True, slots=True)
class Combined:
    """What the middle operation of a barrier gave: a verdict for each chunk, the report, what is kept, by name."""

    verdicts: list[BlobRef]
    report: dict[str, Any] | None
    kept: dict[str, list[Manifest]]


class BatchRunner:
    """Executes steps over large batches; with the help of a `fleet`, where there is one."""

    def __init__(self, executor: ChunkExecutor, memo: Memo, processes: int, fleet: Fleet | None = None) -> None:
        self._executor = executor
        self._memo = memo
        self._spread = Spread(executor.execute, processes + IO_AHEAD, fleet)

    async def run(self, due: BatchStep, tell: Tell) -> Done | Fault:
        """Execute a step; its outcome, stored. Raises Superseded, UnavailableError."""
        started_at, began_s = datetime.now(UTC), time.perf_counter()

        def fault(failure: Failure) -> Fault:
            duration_us = round((time.perf_counter() - began_s) * 1e6)
            return Fault(
                due.index, due.attempt, failure.code, failure.message, failure.retryable, due.step.version,
                started_at, duration_us,
            )  # fmt: skip

        try:
            done = await self._execute(due, tell)
            assert done.output is not None
            output = await self._executor.batches.keep(due.owner, done.output)
            rejects = None if done.rejects is None else await self._executor.batches.keep(due.owner, done.rejects)
        except StepFailed as error:
            return fault(error.failure)
        except (StepError, ValidationError, ValueError) as error:
            return fault(failure_of(due.step.key, error))
        duration_us = round((time.perf_counter() - began_s) * 1e6)
        return Done(due.index, due.attempt, due.step.version, started_at, duration_us, output, rejects, done.report)

    async def _execute(self, due: BatchStep, tell: Tell) -> ChunkDone:
        step = due.step
        if due.source.format == "file":
            return await self._read_file(due, tell)
        config = step.config_model.model_validate(due.config)
        manifest = await self._executor.manifest(due.owner, due.source)
        reads = step.reads(config)
        if reads is not None and manifest.rows:
            check_fields(manifest.names, reads)
        call = self._call(due, manifest.names, None if reads is None else tuple(reads))
        match step.kind:
            case "rows":
                return await self._rows(due, call, manifest, tell)
            case "exchange":
                return await self._exchange(due, call, manifest, tell)
            case "whole":
                return await self._stream(call, "whole", _chunks(self._executor, call, manifest), tell)
        raise StepError(f"{step.key} reads an uploaded file, not records.", code="needs_file")

    async def _read_file(self, due: BatchStep, tell: Tell) -> ChunkDone:
        if not isinstance(due.step.body, Source):
            raise StepError(f"{due.step.key} reads records, not an uploaded file.", code="not_records")
        parts = load_parts(self._executor.blobs, due.owner, due.source)
        pieces = (({"part": True}, [part]) async for part in parts)
        return await self._stream(self._call(due, (), None), "source", pieces, tell)

    def _call(self, due: BatchStep, names: tuple[str, ...], reads: tuple[str, ...] | None) -> StepCall:
        return StepCall(
            due.org_id, due.step.key, due.config, names, reads, due.references, due.tenant_key, due.timeout_s,
            due.namespace, due.learn is not None,
        )  # fmt: skip

    async def _rows(self, due: BatchStep, call: StepCall, manifest: Manifest, tell: Tell) -> ChunkDone:
        async def one(chunk: ChunkRef, _: int, execute: Execute) -> ChunkDone | Failure:
            key = memo_key(
                due.step,
                due.config,
                [chunk_digest(chunk, manifest.names), *context_digests(due.references, due.tenant_key)],
            )
            entry = await self._memo.find(due.org_id, due.company_id, key) if due.may_reuse else None
            if entry is not None:
                return ChunkDone.of(entry)
            done = await execute(call, "rows", chunk, None)
            if isinstance(done, ChunkDone) and due.memoise:
                await self._memo.keep(due.org_id, due.company_id, key, done.plain())
            return done

        return _gathered(
            await self._spread.each(due.step, manifest.chunks, one, due.attempts, Progress(tell, len(manifest.chunks)))
        )

    async def _exchange(self, due: BatchStep, call: StepCall, manifest: Manifest, tell: Tell) -> ChunkDone:
        progress = Progress(tell, 2 * len(manifest.chunks))

        assert isinstance(due.step.body, Exchange)
        extracts = due.step.body.extracts(due.step.config_model.model_validate(due.config))
        by_chunk = replace(call, references=None)  # what it reads besides the batch is for the one place only
        extracting = replace(by_chunk, reads=None if extracts is None else tuple(extracts))

        async def extract(chunk: ChunkRef, _: int, execute: Execute) -> ChunkDone | Failure:
            return await execute(extracting, "extract", chunk, None)

        extracted = await self._spread.each(due.step, manifest.chunks, extract, due.attempts, progress)
        tables = [done.table for done in extracted if done.table is not None]
        for _ in range(LEARN_ATTEMPTS):
            combined = await self._combine(call, tables)
            if len(combined.verdicts) != len(manifest.chunks):
                raise StepError("The step did not give a verdict for each chunk.", code="bad_output")

            async def apply(
                chunk: ChunkRef, number: int, execute: Execute, verdicts: list[BlobRef] = combined.verdicts
            ) -> Applied:
                return await execute(by_chunk, "apply", chunk, verdicts[number])

            done = _gathered(await self._spread.each(due.step, manifest.chunks, apply, due.attempts, progress))
            try:
                return replace(done, report=await self._learnt(due, combined))
            except KnownChanged as changed:
                call = replace(call, references=changed.references)
        raise UnavailableError("Others change what this step learns from too fast; it is tried again.")

    async def _learnt(self, due: BatchStep, combined: Combined) -> dict[str, Any] | None:
        """Keep what the step learnt; its report. Raises KnownChanged."""
        if due.learn is None or not combined.kept:
            return combined.report
        batches = self._executor.batches
        kept = {name: await batches.keep(due.owner, merged(parts)) for name, parts in combined.kept.items()}
        return {**(combined.report or {}), **await due.learn(kept)}

    async def _combine(self, call: StepCall, tables: Sequence[BlobRef]) -> Combined:
        """The one part of a barrier that needs something of every chunk."""
        rest = deque(tables)
        combined = Combined([], None, {})
        reports: list[dict[str, Any]] = []

        async def supply() -> Piece | None:
            if not rest:
                return None
            table = rest.popleft()
            return {"table": True}, [await self._executor.blobs.get(call.owner, table.digest, table.size_bytes)]

        async def receive(message: dict[str, Any], frames: Frames) -> None:
            if "table" in message:
                combined.verdicts.append(await self._executor.keep_table(call.owner, frames[0]))
            elif "kept" in message:
                made = await self._executor.keep(call.owner, ChunkResult.read(message["result"], frames))
                assert made.output is not None
                combined.kept.setdefault(message["kept"], []).append(made.output)
            elif message["report"] is not None:
                reports.append(message["report"])

        head, frames = (await self._executor.task(call, "combine")).frames()
        failure = await self._executor.processes.converse(head, frames, call.timeout_s, supply, receive)
        if failure is not None:
            raise StepFailed(failure)
        return replace(combined, report=reports[-1] if reports else None)

    async def _stream(self, call: StepCall, op: str, pieces: AsyncIterator[Piece], tell: Tell) -> ChunkDone:
        """An operation that takes its input piece by piece, and gives chunks of its own."""
        made: list[ChunkDone] = []
        progress = Progress(tell, None)

        async def supply() -> Piece | None:
            return await anext(pieces, None)

        async def receive(message: dict[str, Any], frames: Frames) -> None:
            made.append(await self._executor.keep(call.owner, ChunkResult.read(message["result"], frames)))
            await progress.one_more()

        head, frames = (await self._executor.task(call, op)).frames()
        failure = await self._executor.processes.converse(head, frames, call.timeout_s, supply, receive)
        if failure is not None:
            raise StepFailed(failure)
        return _gathered(made)


async def _chunks(executor: ChunkExecutor, call: StepCall, manifest: Manifest) -> AsyncIterator[Piece]:
    for number in range(len(manifest.chunks)):
        head, frames = chunk_frames(await executor.batches.load(call.owner, manifest, number, call.reads))
        yield {"chunk": head}, frames


def _gathered(parts: Sequence[ChunkDone]) -> ChunkDone:
    outputs = [part.output for part in parts if part.output is not None]
    rejects = [part.rejects for part in parts if part.rejects is not None]
    reports = [part.report for part in parts if part.report is not None]
    output = merged(outputs)
    filled = tuple(chunk for chunk in output.chunks if chunk.rows) or output.chunks[:1]
    return ChunkDone(
        Manifest(output.names, filled), merged(rejects) if rejects else None, report=reports[-1] if reports else None
    )
