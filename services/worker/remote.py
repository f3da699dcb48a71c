"""Steps that workers in other languages serve: they announce them, and are asked over NATS (docs/protocol.md).

Such a worker is given records and gives records. All else (the run, the version check, blobs, retries) stays here, and
what it says is checked as foreign data is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import subjects
from events.administration import STEP
from events.context import PLATFORM_ORG
from events.errors import DataEngineError, InvalidInputError
from events.log import EventLog
from events.logging import get_logger
from events.payload import decode_batch
from events.subjects import BULK, QUICK, Lane
from services.repository import Repository
from services.steps.base import Record, Reject, Rows, Step, StepConfig, StepError, StepOutput, Whole, framed
from services.steps.frame import Frame, RecordFrame, concatenated
from services.worker.chunk_code import answer_of, frame_of
from services.worker.execution import Executed, Failure, bounded, encode, failure_of
from services.worker.foreign import (
    MESSAGE_MAX_BYTES,
    PROTOCOL,
    Announcement,
    RemoteStepError,
    output_of,
    parse,
    parts_of,
    request_of,
)
from services.worker.isolation import Place, Receive, StepProcesses, Supply
from services.worker.wire import Task, read_chunk

EVERY = "*"
"""In place of keys: whatever is announced."""
VERSION_PREFIX = "remote+"
"""Marks in the registry, and in step results, what a worker in another language did."""
SILENT_AFTER_S = 30.0
"""A version that was not announced for so long is no longer served: three announcements were missed."""

_logger = get_logger("remote")


class RemoteConfig(StepConfig):
    """Any object: what it must be is said by the schema that was announced."""

    model_config = StepConfig.model_config | {"extra": "allow"}


def _elsewhere(*_: Any) -> Any:
    raise StepError("This step is served by a remote worker and cannot be run here.", code="served_elsewhere")


@dataclass(frozen=True, slots=True)
class RemoteStep(Step[RemoteConfig]):
    """A step that was announced. Its body only says what it needs of a batch at once."""

    schema: Mapping[str, Any] = field(default_factory=dict)

    def config_schema(self) -> Mapping[str, Any]:
        """The schema as it was announced."""
        return self.schema

    @classmethod
    def of(cls, announced: Announcement) -> "RemoteStep":
        """The step of an announcement."""
        return cls(
            key=announced.key,
            version=VERSION_PREFIX + announced.version,
            summary=announced.summary,
            config_model=RemoteConfig,
            body=Whole(_elsewhere) if announced.whole else Rows(_elsewhere),
            has_effects=announced.has_effects,
            schema=announced.config_schema,
        )


@dataclass(slots=True)
class Served:
    """A step that was announced, by whom it is served now, and which versions it replaced."""

    announced: Announcement
    validator: jsonschema_rs.Validator
    heard_s: float
    replaced: set[str] = field(default_factory=set)


class RemoteSteps:
    """The steps that others serve for this worker: `allowed` keys, or EVERY.

    `serve` is called with each step that is announced for the first time, or in another version; it records the
    step, and has the worker take its tasks. `own` are the keys of the worker's own steps, which nobody may announce.
    """

    def __init__(
        self,
        connection: Client,
        log: EventLog,
        allowed: Collection[str],
        own: Collection[str],
        serve: Callable[[RemoteStep], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._log = log
        self._allowed = frozenset(allowed)
        self._own = frozenset(own)
        self._serve = serve
        self._served: dict[str, Served] = {}

    async def start(self) -> None:
        """Listen to announcements from now on, until the connection closes."""
        if self._allowed:
            await self._connection.subscribe(subjects.ANNOUNCE, cb=self._hear)

    def __contains__(self, step_key: str) -> bool:
        return step_key in self._served

    async def execute(
        self,
        step_key: str,
        records: bytes,
        config: Mapping[str, Any],
        timeout_s: float,
        lane: Lane = QUICK,  # noqa: ARG002 - as StepProcesses has it
    ) -> Executed | Failure:
        """Have a step run over one batch, bounded in time. What goes wrong is a Failure, as with StepProcesses."""
        try:
            frame = RecordFrame(*decode_batch(records))
            result = framed(frame, await self.run(step_key, frame.records(), config, timeout_s))
            return encode(StepOutput(result.frame.records(), result.rejects, result.frame.row_ids()))
        except StepError as error:
            return failure_of(step_key, error)

    async def converse(
        self,
        head: Mapping[str, Any],
        frames: Sequence[bytes],
        timeout_s: float,
        supply: Supply | None = None,
        receive: Receive | None = None,
        lane: Lane = BULK,  # noqa: ARG002 - as StepProcesses has it
    ) -> Failure | None:
        """Have a step do an operation on chunks: `rows`, `whole` or `sample` (services.worker.chunk_code)."""
        task, rest = Task.read(dict(head), frames)
        try:
            if head["op"] in ("rows", "sample"):
                frame = await asyncio.to_thread(_frame_of, task, head["chunk"], rest)
            else:
                assert supply is not None, "an operation over a whole batch is given it piece by piece"
                frame = await _whole_of(task, supply)
            output = await self.run(task.step_key, frame.records(), task.config, timeout_s)
            message, more = await asyncio.to_thread(lambda: answer_of(framed(frame, output)))
        except StepError as error:
            return failure_of(task.step_key, error)
        assert receive is not None, "there is an answer"
        await receive(message, more)
        return None

    async def run(
        self, step_key: str, records: Sequence[Record], config: Mapping[str, Any], timeout_s: float
    ) -> StepOutput:
        """The same over records. Raises StepError, whose `retryable` is true when the worker did not answer.

        A row-wise step is asked in parts; a step over whole batches once. Rows of the output are counted in `records`.
        """
        served = self._served.get(step_key)
        if served is None:
            raise RemoteStepError(f"Nobody announced {step_key!r}.", code="remote_unavailable", retryable=True)
        for fault in served.validator.iter_errors(config):
            raise StepError(f"The config of {step_key} does not fit: {fault.message}", code="config_invalid")
        whole = served.announced.whole
        parts = [[orjson.dumps(record) for record in records]] if whole else list(parts_of(records))
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        made = StepOutput([], [], [])
        start = 0
        for part in parts:
            body = await self._ask(served.announced, config, part, deadline_s, timeout_s)
            # an answer may take a while to read, and others wait for this loop
            output = await asyncio.to_thread(output_of, body, len(part), whole=whole)
            if output.rows is None:
                return output
            made.records.extend(output.records)
            made.rejects.extend(Reject(r.row + start, r.field, r.code, r.value) for r in output.rejects)
            assert made.rows is not None
            made.rows.extend(row + start for row in output.rows)
            start += len(part)
        return made

    async def _ask(
        self, step: Announcement, config: Mapping[str, Any], records: list[bytes], deadline_s: float, timeout_s: float
    ) -> bytes:
        left_s = max(deadline_s - asyncio.get_running_loop().time(), 0.001)
        request = request_of(step.key, step.version, config, records, max(1, int(left_s * 1000)))
        if len(request) > MESSAGE_MAX_BYTES:
            raise _too_large("batch" if step.whole else "row", len(request))
        try:
            answer = await self._connection.request(subjects.remote_step(step.key), request, timeout=left_s)
        except nats.errors.NoRespondersError as error:
            raise RemoteStepError(
                f"No remote worker serves {step.key!r} now.", code="remote_unavailable", retryable=True
            ) from error
        except TimeoutError as error:
            message = f"The remote worker did not answer within {timeout_s:g} s."
            raise RemoteStepError(message, code="step_timeout", retryable=True) from error
        except (nats.errors.Error, OSError) as error:
            message = f"The remote worker could not be asked: {error!r}"
            raise RemoteStepError(message, code="remote_unavailable", retryable=True) from error
        return answer.data

    async def _hear(self, message: Msg) -> None:
        """Take in an announcement, and say what became of it; one that others are for is left to them."""
        try:
            announced = parse(message.data, Announcement)
            if announced.key not in self._allowed and EVERY not in self._allowed:
                return
            await self._take_in(announced)
            answer: dict[str, Any] = {"protocol": PROTOCOL, "accepted": True}
        except InvalidInputError as error:
            answer = _refusal("announcement_invalid", error.message)
        except StepError as error:
            answer = _refusal(error.code, str(error), retryable=error.retryable)
        except (DataEngineError, nats.errors.Error, OSError) as error:
            _logger.warning("announcement_not_taken_in", error=repr(error))
            answer = _refusal("unavailable", "It could not be recorded now; announce again.", retryable=True)
        if message.reply:
            await message.respond(orjson.dumps(answer))

    async def _take_in(self, announced: Announcement) -> None:
        now_s = asyncio.get_running_loop().time()
        known = self._served.get(announced.key)
        if known is not None and known.announced == announced:
            known.heard_s = now_s
            return
        if known is not None and now_s - known.heard_s < SILENT_AFTER_S:
            _refuse_what_was_before(known, announced)
        await self._refuse_what_is_ours(announced.key)
        validator = jsonschema_rs.Draft202012Validator(announced.config_schema)
        replaced = (known.replaced | {known.announced.version}) - {announced.version} if known is not None else set()
        await self._serve(RemoteStep.of(announced))
        self._served[announced.key] = Served(announced, validator, now_s, replaced)
        _logger.info("remote_step", step=announced.key, version=announced.version)

    async def _refuse_what_is_ours(self, key: str) -> None:
        """A step of a module of ours stays one, unless the operator names its key."""
        taken = key in self._own
        if not taken and key not in self._allowed and key not in self._served:
            step = await Repository(self._log).fresh_thing(PLATFORM_ORG, STEP, key)
            taken = step.registration is not None and not step.registration.version.startswith(VERSION_PREFIX)
        if taken:
            raise StepError(f"The step {key!r} is served by a Python module; choose another key.", code="step_taken")


class Places:
    """Executes a step where it is served: in this worker's step processes, or by remote workers."""

    def __init__(self, processes: StepProcesses, remote: RemoteSteps) -> None:
        self._processes = processes
        self._remote = remote

    def _of(self, step_key: str) -> Place:
        return self._remote if step_key in self._remote else self._processes

    async def execute(
        self, step_key: str, records: bytes, config: Mapping[str, Any], timeout_s: float, lane: Lane = QUICK
    ) -> Executed | Failure:
        """Run one step over one batch, bounded in time."""
        return await self._of(step_key).execute(step_key, records, config, timeout_s, lane)

    async def converse(
        self,
        head: Mapping[str, Any],
        frames: Sequence[bytes],
        timeout_s: float,
        supply: Supply | None = None,
        receive: Receive | None = None,
        lane: Lane = BULK,
    ) -> Failure | None:
        """Ask for an operation on chunks; None when it is done."""
        return await self._of(head["step"]).converse(head, frames, timeout_s, supply, receive, lane)


def _frame_of(task: Task, head: dict[str, Any], frames: Sequence[bytes]) -> Frame:
    return frame_of(read_chunk(head, frames), task.names)


async def _whole_of(task: Task, supply: Supply) -> Frame:
    """A whole batch, if it is small enough for a request; no more of it is loaded than that."""
    parts: list[Frame] = []
    size_bytes = 0
    while (piece := await supply()) is not None:
        parts.append(await asyncio.to_thread(_frame_of, task, piece[0]["chunk"], piece[1]))
        size_bytes += len(await asyncio.to_thread(orjson.dumps, parts[-1].records()))
        if size_bytes > MESSAGE_MAX_BYTES:
            raise _too_large("batch", size_bytes)
    return concatenated(parts)


def _too_large(what: str, size_bytes: int) -> StepError:
    message = (
        f"A {what} with its config is a request of {size_bytes} bytes or more; a remote worker is sent at most "
        f"{MESSAGE_MAX_BYTES}."
    )
    return StepError(message, code=f"{what}_too_large")


def _refuse_what_was_before(served: Served, announced: Announcement) -> None:
    """Two that announce in turn must not replace each other for ever: each time is an event in the log."""
    if announced.version in served.replaced:
        message = f"Version {served.announced.version!r} has taken the place of {announced.version!r}."
        raise RemoteStepError(message, code="version_replaced", retryable=True)
    if announced.version == served.announced.version:
        message = f"Version {announced.version!r} is announced with another summary or schema: give yours a new one."
        raise RemoteStepError(message, code="version_differs", retryable=True)


def _refusal(code: str, message: str, *, retryable: bool = False) -> dict[str, Any]:
    return {"protocol": PROTOCOL, "error": {"code": code, "message": bounded(message), "retryable": retryable}}
