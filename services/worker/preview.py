"""Previews: a few rows through some steps, in the step processes, for somebody who waits. Nothing is recorded.

Any worker may be asked, and no task is behind it: the gateway asks over core NATS (events.preview), and one that dies
meanwhile leaves it without a sign of life. What a run would read besides its batch is read as for a run of the company;
what a step would learn is not kept, and a step with an effect is not executed.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from events import subjects
from events.administration import BlueprintStep
from events.batch import BatchStore, EncodedChunk, EncodedColumn, encoded_ids
from events.blobs import BlobStore
from events.errors import DataEngineError, InvalidInputError, RejectedError, UnavailableError, rejection_to_json
from events.keys import Owner
from events.log import EventLog
from events.logging import get_logger
from events.payload import Payload, decode_batch
from events.preview import (
    ALIVE_EVERY_S,
    SHOWN_MAX_BYTES,
    SHOWN_ROWS_MAX,
    STEP_TIMEOUT_S,
    TIMEOUT_S,
    PreviewError,
    PreviewMessage,
    PreviewRequest,
    PreviewRows,
    PreviewStep,
)
from events.subjects import BULK
from events.tasks import ended
from services.blueprint_check import problems_of, registry_of
from services.repository import Repository
from services.steps._rowwise import check_fields
from services.steps.base import Step, StepError
from services.steps.frame import ColumnFrame
from services.worker.chunk_code import frame_of
from services.worker.execution import Failure, failure_of
from services.worker.isolation import Place
from services.worker.references import TenantKeys, references_of
from services.worker.registry import Registry
from services.worker.remote import RemoteStep
from services.worker.slots import ON_BEHALF_OF, FairSlots
from services.worker.wire import ChunkResult, Frames, Task, chunk_frames

QUEUE = "previews"
WAITING_MAX = 64
"""Previews in this worker's hands, those that wait for their turn included."""
GRACE_S = 1.0
"""After the deadline, in which a step process's own time limit tells more than ours would."""
REFERENCE_ROWS_MAX = 100_000
"""Of a batch that a step reads besides its rows; a run reads any, and takes its time."""

_logger = get_logger("preview")


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows between two steps."""

    names: tuple[str, ...]
    chunk: EncodedChunk

    @classmethod
    def of(cls, frame: ColumnFrame) -> "Sample":
        """The rows of a frame."""
        return cls(tuple(frame.names), encoded(frame))


@dataclass(frozen=True, slots=True)
class Made:
    """What a step made of a sample."""

    sample: Sample
    rejects: EncodedChunk | None
    report: dict[str, Any] | None


class Previewer:
    """Answers for the steps that this worker serves, `at_once` previews at a time, the orgs in turn."""

    def __init__(
        self,
        connection: Client,
        registry: Registry,
        places: Place,
        tenant_keys: TenantKeys,
        at_once: int,
    ) -> None:
        self._nc = connection
        self._log = EventLog(connection)
        self._blobs = BlobStore(connection)
        self._registry = registry
        self._places = places
        self._tenant_keys = tenant_keys
        self._slots = FairSlots(at_once)
        self._working: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Listen to requests from now on."""
        self._subscription = await self._nc.subscribe(subjects.PREVIEW, queue=QUEUE, cb=self._hear)

    async def stop(self) -> None:
        """Take no more, and drop what is under way: whoever asked will ask another worker."""
        if self._subscription is not None and self._nc.is_connected:
            await self._subscription.unsubscribe()
        await ended(self._working)

    async def _hear(self, message: Msg) -> None:
        if len(self._working) >= WAITING_MAX:
            await self._send(message, PreviewMessage(kind="unavailable", message="The workers are busy with previews."))
            return
        task = asyncio.create_task(self._answer(message))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _answer(self, message: Msg) -> None:
        """Answer one request; every way out but a connection that is lost tells whoever asked."""
        alive = asyncio.create_task(self._keep_telling(message))
        last = PreviewMessage(kind="unavailable", message="The worker is leaving; ask again.")
        try:
            await self._preview(PreviewRequest.model_validate_json(message.data), message)
            last = PreviewMessage(kind="end")
        except ValidationError as error:
            _logger.warning("preview_not_understood", error=str(error))
            refusal = InvalidInputError("The request for a preview is not understood.")
            last = PreviewMessage(kind="refused", refused=rejection_to_json(refusal))
        except RejectedError as error:
            last = PreviewMessage(kind="refused", refused=rejection_to_json(error))
        except DataEngineError as error:
            last = PreviewMessage(kind="unavailable", message=error.message)
        except Exception as error:  # whoever asked must hear of it, and so must the operator
            _logger.error("preview_failed", error=repr(error), exc_info=error)
            last = PreviewMessage(kind="unavailable", message="The worker could not make the preview.")
        finally:
            alive.cancel()
            await self._send(message, last)

    async def _keep_telling(self, message: Msg) -> None:
        while True:
            await self._send(message, PreviewMessage(kind="alive"))
            await asyncio.sleep(ALIVE_EVERY_S)

    async def _send(self, message: Msg, answer: PreviewMessage) -> None:
        """A word that does not reach whoever asked is for nobody else."""
        try:
            await self._nc.publish(message.reply, answer.model_dump_json().encode())
        except (nats.errors.Error, OSError) as error:
            _logger.warning("preview_not_sent", error=repr(error))

    async def _preview(self, request: PreviewRequest, message: Msg) -> None:
        """The steps one after the other, each told as it is done. Raises RejectedError, UnavailableError."""
        deadline_s = time.monotonic() + TIMEOUT_S
        ON_BEHALF_OF.set(request.org_id)
        await self._check(request.steps)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._slots.acquire(request.org_id)
        except TimeoutError as error:
            raise UnavailableError("The workers are busy with previews; ask again.") from error
        try:
            sample: Sample | None = Sample.of(ColumnFrame.of_records(request.records, request.row_ids))
            stopped = ""
            for index, planned in enumerate(request.steps):
                if sample is None:
                    told = _not_executed(index, planned, (), "after_another", stopped)
                else:
                    told, sample = await self._step(request, index, planned, sample, deadline_s)
                    stopped = f"Step {index} ({planned.key}) gave it no rows."
                await self._send(message, PreviewMessage(kind="step", step=told))
        finally:
            self._slots.release(request.org_id)

    async def _check(self, steps: Sequence[BlueprintStep]) -> None:
        """Raises InvalidInputError with every fault, as the creation of such a blueprint would."""
        if problems := problems_of(steps, await registry_of(Repository(self._log), steps)):
            raise InvalidInputError("The steps are not valid.", problems)

    async def _step(
        self, request: PreviewRequest, index: int, planned: BlueprintStep, sample: Sample, deadline_s: float
    ) -> tuple[PreviewStep, Sample | None]:
        """One step; what to tell of it, and the rows for the next one, if there are any to tell of."""
        step, names = self._registry.get(planned.key), sample.names
        if step is None:
            text = "The worker that answered does not serve this step; another one may: ask again."
            return _not_executed(index, planned, names, "not_served", text), None
        if step.has_effects:
            text = "The step has an effect outside of its output, and a preview has none."
            return _not_executed(index, planned, names, "has_effects", text, step.version), None
        timeout_s = min(planned.retry.timeout_s, STEP_TIMEOUT_S, deadline_s - time.monotonic())
        if timeout_s <= 0:
            text = f"The steps before it took the {TIMEOUT_S:g} s that a preview may take."
            return _not_executed(index, planned, names, "preview_timeout", text, step.version), None
        began_s = time.perf_counter()
        made = await self._run(request, step, planned, sample, timeout_s, deadline_s)
        told = PreviewStep(
            index=index, key=planned.key, version=step.version, status="succeeded", fields=list(names),
            duration_us=round((time.perf_counter() - began_s) * 1e6),
        )  # fmt: skip
        if isinstance(made, Failure):
            error = PreviewError(code=made.code, message=made.message)
            return told.model_copy(update={"status": "failed", "error": error}), None
        share_bytes = SHOWN_MAX_BYTES // len(request.steps)
        output = await asyncio.to_thread(_shown, made.sample, share_bytes)
        rejects = None if made.rejects is None else await asyncio.to_thread(_rejects, made.rejects, share_bytes)
        return told.model_copy(update={"output": output, "rejects": rejects, "report": made.report}), made.sample

    async def _run(
        self,
        request: PreviewRequest,
        step: Step[Any],
        planned: BlueprintStep,
        sample: Sample,
        timeout_s: float,
        deadline_s: float,
    ) -> Made | Failure:
        """The step in a step process, or where it is served. What goes wrong with it is a Failure."""
        try:
            async with asyncio.timeout(deadline_s - time.monotonic() + GRACE_S):  # with the wait for a process
                task = await self._task(request, step, planned, sample)
                head, frames = task.frames()
                chunk, more = chunk_frames(sample.chunk)
                answers: list[tuple[dict[str, Any], Frames]] = []

                async def receive(message: dict[str, Any], frames: Frames) -> None:
                    answers.append((message, frames))

                request_head = {**head, "chunk": chunk, "partial": False}
                failure = await self._places.converse(
                    request_head, [*frames, *more], timeout_s, receive=receive, lane=BULK
                )
            if failure is not None:
                return failure
            result = ChunkResult.read(answers[0][0]["result"], answers[0][1])
            return Made(Sample(result.names, result.output), result.rejects, result.report)
        except TimeoutError:
            text = f"It was not done in the {TIMEOUT_S:g} s that a preview may take: no step process was free in time."
            return Failure("preview_timeout", text, retryable=True)
        except (StepError, ValidationError, ValueError) as error:
            return failure_of(step.key, error)

    async def _task(self, request: PreviewRequest, step: Step[Any], planned: BlueprintStep, sample: Sample) -> Task:
        """What the step is told, with all that it reads besides its rows. Raises StepError, ValidationError."""
        config = step.config_model.model_validate(planned.config)
        references: Mapping[str, Payload | None] = {}
        if not isinstance(step, RemoteStep):
            reads = step.reads(config)
            if reads is not None and sample.chunk.rows:
                check_fields(sample.names, reads)
            found = await references_of(self._log, request.org_id, request.company_id, step.references(config))
            references = found.payloads
        chunks: dict[str, list[EncodedChunk]] = {}
        names: dict[str, tuple[str, ...]] = {}
        for name, payload in references.items():
            names[name], chunks[name] = await self._reference(Owner(request.org_id, request.company_id), name, payload)
        return Task(
            "sample", step.key, dict(planned.config), sample.names, chunks, names,
            self._tenant_keys.of(request.org_id) if step.uses_tenant_key else b"",
            f"{request.org_id}/{request.company_id}",
        )  # fmt: skip

    async def _reference(
        self, owner: Owner, name: str, payload: Payload | None
    ) -> tuple[tuple[str, ...], list[EncodedChunk]]:
        """A batch that a step reads besides its rows; unlike for a run, nothing of it is stored anew."""
        if payload is None:
            return (), []
        if payload.rows > REFERENCE_ROWS_MAX:
            raise StepError(
                f"{name} has {payload.rows:,} rows; a preview reads {REFERENCE_ROWS_MAX:,} at most. A run reads any.",
                code="reference_too_large",
            )
        if payload.format == "json":
            frame = ColumnFrame.of_records(*decode_batch(await self._blobs.load(owner, payload)))
            return tuple(frame.names), [encoded(frame)]
        batches = BatchStore(self._blobs)
        manifest = await batches.manifest(owner, payload)
        numbers = range(len(manifest.chunks))
        return manifest.names, [await batches.load(owner, manifest, number) for number in numbers]


def encoded(frame: ColumnFrame) -> EncodedChunk:
    """A frame in bytes."""
    first_id, ids = encoded_ids(frame.ids)
    columns = {name: EncodedColumn.of(column) for name, column in frame.columns.items()}
    return EncodedChunk(len(frame), columns, first_id, ids)


def _not_executed(
    index: int, planned: BlueprintStep, names: Sequence[str], code: str, text: str, version: str | None = None
) -> PreviewStep:
    return PreviewStep(
        index=index, key=planned.key, version=version, status="not_executed", fields=list(names),
        error=PreviewError(code=code, message=text),
    )  # fmt: skip


def _shown(sample: Sample, max_bytes: int) -> PreviewRows:
    """The first rows, as many as there is room for."""
    frame = frame_of(sample.chunk, sample.names).slice(0, SHOWN_ROWS_MAX)
    records = _first(frame.records(), max_bytes)
    return PreviewRows(rows=sample.chunk.rows, row_ids=frame.row_ids()[: len(records)], records=records)


def _rejects(chunk: EncodedChunk, max_bytes: int) -> list[dict[str, Any]]:
    frame = frame_of(chunk, tuple(chunk.columns)).slice(0, SHOWN_ROWS_MAX)
    return _first(frame.records(), max_bytes)


def _first(records: Sequence[Any], max_bytes: int) -> list[dict[str, Any]]:
    """As many as fit."""
    found: list[dict[str, Any]] = []
    for record in records:
        max_bytes -= len(orjson.dumps(record))
        if max_bytes < 0:
            break
        found.append(record)
    return found
