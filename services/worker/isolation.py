"""A pool of isolated step processes: a step that crashes, hangs or eats memory fails alone, with its reason."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol, TypeVar

import orjson

from events.logging import get_logger
from events.subjects import BULK, QUICK, Lane
from services.worker.child import FRAME_HEAD
from services.worker.execution import Executed, Failure, unpack
from services.worker.slots import FairSlots

START_TIMEOUT_S = 30.0
ENDING_TIMEOUT_S = 2.0
PIPE_LIMIT_BYTES = 1024 * 1024

Piece = tuple[Mapping[str, Any], Sequence[bytes]]
"""A head and the frames it announces."""
Supply = Callable[[], Awaitable[Piece | None]]
Receive = Callable[[dict[str, Any], list[bytes]], Awaitable[None]]
T = TypeVar("T")

_logger = get_logger("isolation")


class Place(Protocol):
    """Where steps are executed: in processes of ours, or by remote workers."""

    async def execute(
        self, step_key: str, records: bytes, config: Mapping[str, Any], timeout_s: float, lane: Lane = QUICK
    ) -> Executed | Failure:
        """Run one step over one batch, bounded in time."""
        ...

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
        ...


class StepProcesses:
    """Up to `size` step processes of one org, started when they are first needed and kept for the next batch.

    One more is for quick tasks, which so never wait until a bulk batch is done. And one more of each kind is there for
    other orgs: whoever fills all that one org may have with steps that go on and on holds up nobody else.
    """

    def __init__(self, size: int, modules: Sequence[str], memory_max_bytes: int) -> None:
        self._slots = {BULK: FairSlots(size + 1, size), QUICK: FairSlots(size + 3, size + 1)}
        self._command = [sys.executable, "-m", "services.worker.child", str(memory_max_bytes), *modules]
        self._idle: list[asyncio.subprocess.Process] = []
        self._kept = size + 1
        self._size = size
        self._asked = 0

    @property
    def idle(self) -> int:
        """How many of the `size` nobody asks for now, those who wait included."""
        return max(0, self._size - self._asked)

    async def execute(
        self, step_key: str, records: bytes, config: Mapping[str, Any], timeout_s: float, lane: Lane = QUICK
    ) -> Executed | Failure:
        """Run one step over one batch, bounded in time. Cancelling this kills the process that is at it."""

        async def ask(process: asyncio.subprocess.Process) -> Executed | Failure:
            async with asyncio.timeout(timeout_s):
                await _write(process, [orjson.dumps({"step": step_key, "config": config}), records])
                return unpack(await _read(process))

        return await self._with_process(ask, timeout_s, lane)

    async def converse(
        self,
        head: Mapping[str, Any],
        frames: Sequence[bytes],
        timeout_s: float,
        supply: Supply | None = None,
        receive: Receive | None = None,
        lane: Lane = BULK,
    ) -> Failure | None:
        """Ask for an operation on chunks (services.worker.chunk_code); None when it is done.

        `supply` gives the next piece of the input, None at its end; `receive` takes each message of the answer. The
        step is stopped when it takes longer than `timeout_s` from one message to the next. Cancelling this kills the
        process that is at it.
        """

        async def talk(process: asyncio.subprocess.Process) -> Failure | None:
            await _write(process, [orjson.dumps(head), *frames])
            while True:
                async with asyncio.timeout(timeout_s):
                    answer, *more = await _read(process)
                message: dict[str, Any] = orjson.loads(answer)
                if "next" in message:
                    assert supply is not None, "an operation on one chunk asks for no more"
                    piece = await supply()
                    head_of_piece = {"end": True} if piece is None else piece[0]
                    await _write(process, [orjson.dumps(head_of_piece), *(piece[1] if piece else ())])
                elif "failure" in message:
                    return Failure(**message["failure"])
                elif "done" in message:
                    return None
                elif receive is not None:
                    await receive(message, more)

        return await self._with_process(talk, timeout_s, lane)

    async def _with_process(
        self, talk: Callable[[asyncio.subprocess.Process], Awaitable[T]], timeout_s: float, lane: Lane
    ) -> T | Failure:
        self._asked += 1
        try:
            async with AsyncExitStack() as slots:
                for limit in (BULK, QUICK) if lane == BULK else (QUICK,):  # bulk has `size` of all there are
                    await slots.enter_async_context(self._slots[limit])
                return await self._talk(talk, timeout_s)
        finally:
            self._asked -= 1

    async def _talk(self, talk: Callable[[asyncio.subprocess.Process], Awaitable[T]], timeout_s: float) -> T | Failure:
        process: asyncio.subprocess.Process | None = None
        try:
            process = await self._take()
            answer = await talk(process)
        except TimeoutError:
            if process is None:
                return Failure("step_crashed", "The step's process did not start in time.", retryable=True)
            await _kill(process)
            return Failure("step_timeout", f"The step took longer than {timeout_s:g} s and was stopped.", True)
        except (asyncio.IncompleteReadError, ConnectionError):
            if process is None:
                return Failure("step_crashed", "The step's process ended before it could start.", retryable=True)
            return Failure("step_crashed", await _ended(process), retryable=True)
        except BaseException:
            if process is not None:
                await _kill(process)
            raise
        if len(self._idle) < self._kept:
            self._idle.append(process)
        else:
            await _kill(process)
        return answer

    async def close(self) -> None:
        """Stop the processes that are idle; the busy ones belong to whoever executes."""
        await asyncio.gather(*(_kill(process) for process in self._idle))
        self._idle.clear()

    async def _take(self) -> asyncio.subprocess.Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, limit=PIPE_LIMIT_BYTES, env=_without_our_settings()
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await _read(process)
        except BaseException:
            await _kill(process)
            raise
        return process


def _without_our_settings() -> dict[str, str]:
    """The worker's environment for a step: it has no business with the URLs, and so the passwords, of our servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DATA_ENGINE_")}


async def _write(process: asyncio.subprocess.Process, frames: Sequence[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(FRAME_HEAD.pack(len(frames)))
    for frame in frames:
        process.stdin.write(FRAME_HEAD.pack(len(frame)))
        process.stdin.write(frame)
    await process.stdin.drain()


async def _read(process: asyncio.subprocess.Process) -> list[bytes]:
    stdout = process.stdout
    assert stdout is not None
    count = FRAME_HEAD.unpack(await stdout.readexactly(FRAME_HEAD.size))[0]
    frames = []
    for _ in range(count):
        size_bytes = FRAME_HEAD.unpack(await stdout.readexactly(FRAME_HEAD.size))[0]
        frames.append(await stdout.readexactly(size_bytes))
    return frames


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _ended(process: asyncio.subprocess.Process) -> str:
    """How a process ended that closed its pipe; one that lives on is killed."""
    try:
        async with asyncio.timeout(ENDING_TIMEOUT_S):
            return _death(await process.wait())
    except TimeoutError:
        await _kill(process)
        return "The step closed its process's pipe."


def _death(return_code: int) -> str:
    """How a step process ended, in words."""
    if return_code >= 0:
        return f"The step ended its process with exit code {return_code}."
    name = signal.Signals(-return_code).name
    hint = " (out of memory, or killed by somebody)" if name == "SIGKILL" else ""
    return f"The step's process was killed by {name}{hint}."
