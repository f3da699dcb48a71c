"""A small supervisor: starts processes, starts a crashed one again, stops them all, servers after what needs them.

Its children die with it, even on SIGKILL (cli.launch). It tells others of what it runs in `run/state.json`.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from events.errors import DataEngineError

READY_TIMEOUT_S = 60.0
READY_RETRY_S = 0.05
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
STABLE_AFTER_S = 20.0
LOG_TAIL_BYTES = 64 * 1024
LOG_TAIL_LINES = 15
LAST_WORDS_MAX_CHARS = 1000

LAUNCH = (sys.executable, "-S", str(Path(__file__).with_name("launch.py")), str(os.getpid()))
"""The start of a command line whose program ends with this process; for this process only, not for its forks."""

OnEvent = Callable[[str, str], None]


class ProcessFailedError(DataEngineError):
    """A process did not become ready; the message has the end of its log."""

    code = "process_failed"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to run one process. `ready` returns when it serves, and raises while it does not yet.

    The others need what `is_server`: it is stopped after them.
    """

    name: str
    argv: Sequence[str]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    unroot: Path | None = None
    is_server: bool = False
    ready: Callable[[], Awaitable[None]] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 20.0


@dataclass(slots=True)
class Running:
    """One process as it runs now."""

    spec: ProcessSpec
    process: asyncio.subprocess.Process
    log_begins_at: int
    """Where its log file was as it began: what is before was written by earlier ones."""
    started_s: float
    restarts: int = 0
    started_at: str = field(default_factory=lambda: _now())

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid


class Supervisor:
    """Runs processes until `stop`. `on_event(name, what)` is told what happens to them."""

    def __init__(self, state_path: Path, on_event: OnEvent) -> None:
        self.processes: dict[str, Running] = {}
        self._extra: dict[str, Any] = {}
        self._state_path = state_path
        self._on_event = on_event
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    async def start(self, spec: ProcessSpec) -> None:
        """Start a process and wait until it is ready; keep it running from then on. Raises ProcessFailedError."""
        running = Running(spec, *await _launch(spec), time.monotonic())
        self.processes[spec.name] = running
        try:
            await _until_ready(running)
        except BaseException:
            await _end(running)
            self.processes.pop(spec.name, None)
            raise
        self._keepers[spec.name] = asyncio.create_task(self._keep(running))
        self._on_event(spec.name, "ready")
        self._write_state()

    def note(self, facts: dict[str, Any]) -> None:
        """Write these facts into the state's file too, for as long as this runs."""
        self._extra = facts
        self._write_state()

    async def stop(self, *, abruptly: bool = False) -> None:
        """Stop all processes, then the servers, each with its signal and then, after its time, with SIGKILL.

        With `abruptly`, SIGKILL comes at once in the place of SIGTERM: for what nobody needs any more, such as a test's
        system. Postgres, whose signal is another, is fast by itself, and would leave shared memory behind.
        """
        self._stopping = True
        for are_servers in (False, True):
            names = [name for name, running in self.processes.items() if running.spec.is_server is are_servers]
            await asyncio.gather(*(self._stop_one(name, abruptly) for name in names))
        self._state_path.unlink(missing_ok=True)

    async def _stop_one(self, name: str, abruptly: bool) -> None:
        keeper = self._keepers.pop(name, None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        running = self.processes.get(name)
        if running is not None:  # else it ended while it started
            if abruptly and running.spec.stop_signal is signal.SIGTERM:
                _kill(running)
            await _end(running)
            self._on_event(name, "stopped")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process, as a test of what happens then."""
        os.killpg(self.processes[name].pid, number)

    async def _keep(self, running: Running) -> None:
        """Start the process again whenever it ends, with growing pauses while it does not last."""
        backoff_s = 0.0
        while True:
            code = await running.process.wait()
            if self._stopping:
                return
            lasted_s = time.monotonic() - running.started_s
            backoff_s = 0.0 if lasted_s > STABLE_AFTER_S else min(BACKOFF_MAX_S, backoff_s * 2 or BACKOFF_FIRST_S)
            why = f" in {backoff_s:g} s. {_last_words(running)}" if code > 0 else ""
            self._on_event(running.spec.name, f"ended with {code}; starting it again{why}")
            await asyncio.sleep(backoff_s)  # a pause, so that a process that cannot start does not spin
            running.started_s = time.monotonic()
            running.restarts += 1
            await self._start_again(running)

    async def _start_again(self, running: Running) -> None:
        """Whatever goes wrong is reported, never raised: a keeper that ended would leave its process dead for good."""
        try:
            running.process, running.log_begins_at = await _launch(running.spec)
            running.started_at = _now()
            self._write_state()
            await _until_ready(running)
        except (OSError, ProcessFailedError) as error:
            self._on_event(running.spec.name, str(error))
        else:
            self._on_event(running.spec.name, "ready")

    def _write_state(self) -> None:
        state = {
            "supervisor_pid": os.getpid(),
            "processes": {
                name: {"pid": running.pid, "started_at": running.started_at, "restarts": running.restarts}
                for name, running in self.processes.items()
            },
            **self._extra,
        }
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._state_path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(state, file, indent=1)
        fresh.replace(self._state_path)


async def _launch(spec: ProcessSpec) -> tuple[asyncio.subprocess.Process, int]:
    """The process, and how long its log was before."""
    spec.log_path.parent.mkdir(parents=True, exist_ok=True)
    as_whom = ["--unroot", str(spec.unroot)] if spec.unroot is not None else []
    with spec.log_path.open("ab") as log:
        begins_at = log.tell()
        process = await asyncio.create_subprocess_exec(
            *LAUNCH,
            *as_whom,
            *spec.argv,
            env={**os.environ, **spec.env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        return process, begins_at


async def _until_ready(running: Running) -> None:
    """Ask until the process is ready. Raises ProcessFailedError when it ends first, or takes too long."""
    if running.spec.ready is None:
        return
    deadline = time.monotonic() + READY_TIMEOUT_S
    reason: Exception | None = None
    while running.process.returncode is None and time.monotonic() < deadline:
        try:
            async with asyncio.timeout(5):
                await running.spec.ready()
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready, and in the end we say why
            reason = error
            await asyncio.sleep(READY_RETRY_S)  # the bounded interval between two questions
    ended = running.process.returncode
    what = f"ended with {ended}" if ended is not None else f"is not ready after {READY_TIMEOUT_S:g} s ({reason!r})"
    raise ProcessFailedError(f"{running.spec.name} {what}. The end of {running.spec.log_path}:\n{_tail(running)}")


async def _end(running: Running) -> None:
    with contextlib.suppress(ProcessLookupError):
        running.process.send_signal(running.spec.stop_signal)
    try:
        async with asyncio.timeout(running.spec.stop_timeout_s):
            await running.process.wait()
    except TimeoutError:
        _kill(running)
        await running.process.wait()


def _kill(running: Running) -> None:
    """The process and its children; nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _tail(running: Running) -> str:
    """The last lines that the process wrote."""
    with running.spec.log_path.open("rb") as log:
        log.seek(max(running.log_begins_at, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])


def _last_words(running: Running) -> str:
    """Why a process ended itself, as far as the last line that it wrote says so, and where the rest is."""
    lines = _tail(running).splitlines()
    said = f"The last line it wrote: {lines[-1][:LAST_WORDS_MAX_CHARS]}" if lines else "It wrote nothing"
    return f"{said} ({running.spec.log_path})"
