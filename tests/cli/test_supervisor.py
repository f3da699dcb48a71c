"""The supervisor with real processes: order, readiness, crashes, stops, and what it tells others."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cli import supervisor as module
from cli.supervisor import ProcessFailedError, ProcessSpec, Supervisor

ROOT = Path(__file__).parents[2]
WAITS = "import signal; print('hello', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"

# a supervisor of its own process, so that it can be killed
SUPERVISED = """
import asyncio, sys
from pathlib import Path
from cli.supervisor import ProcessSpec, Supervisor

async def main(home):
    supervisor = Supervisor(home / "state.json", lambda name, what: None)
    for name in ("one", "two"):
        log_path = home / f"{name}.log"

        async def ready(log_path=log_path):
            assert "hello" in log_path.read_text()

        argv = [sys.executable, "-c", "import signal; print('hello', flush=True); signal.pause()"]
        await supervisor.start(ProcessSpec(name, argv, log_path, ready=ready))
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1])))
"""


class Story:
    """What a supervisor told, to be awaited."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def __call__(self, name: str, what: str) -> None:
        self.told.append((name, what))
        self._queue.put_nowait((name, what))

    async def next(self, name: str, beginning: str) -> str:
        """The next thing told of `name` that begins so."""
        async with asyncio.timeout(30):
            while True:
                who, what = await self._queue.get()
                if who == name and what.startswith(beginning):
                    return what


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
async def supervisor(tmp_path: Path, story: Story) -> AsyncIterator[Supervisor]:
    made = Supervisor(tmp_path / "run" / "state.json", story)
    yield made
    await made.stop()


def spec(folder: Path, name: str, code: str, *, says: str = "", stop_timeout_s: float = 20.0) -> ProcessSpec:
    """A Python program; ready when its log has what it `says`."""
    log_path = folder / f"{name}.log"

    async def ready() -> None:
        assert says in log_path.read_text()

    return ProcessSpec(name, [sys.executable, "-c", code], log_path, ready=ready, stop_timeout_s=stop_timeout_s)


async def test_a_started_process_is_ready_and_the_state_tells_of_it(
    tmp_path: Path, supervisor: Supervisor, story: Story
) -> None:
    supervisor.note({"gateway_url": "http://127.0.0.1:1"})
    await supervisor.start(spec(tmp_path, "one", WAITS, says="hello"))
    path = tmp_path / "run" / "state.json"
    state = json.loads(path.read_text())
    assert state["supervisor_pid"] == os.getpid()
    assert state["gateway_url"] == "http://127.0.0.1:1"
    assert state["processes"]["one"]["pid"] == supervisor.processes["one"].pid
    assert state["processes"]["one"]["restarts"] == 0
    assert state["processes"]["one"]["started_at"].endswith("+00:00")
    assert path.stat().st_mode & 0o777 == 0o600  # the URLs have passwords
    assert story.told == [("one", "ready")]


@pytest.mark.parametrize("abruptly", [False, True])
async def test_stop_ends_all_the_servers_last_and_removes_the_state(
    tmp_path: Path, supervisor: Supervisor, story: Story, abruptly: bool
) -> None:
    for name in ("one", "two", "three"):
        made = spec(tmp_path, name, WAITS, says="hello")
        await supervisor.start(replace(made, is_server=name == "two"))
    processes = [psutil.Process(running.pid) for running in supervisor.processes.values()]
    await supervisor.stop(abruptly=abruptly)
    assert sorted(story.told[3:5]) == [("one", "stopped"), ("three", "stopped")]
    assert story.told[5:] == [("two", "stopped")]
    assert not any(process.is_running() for process in processes)
    assert list((tmp_path / "run").iterdir()) == []


async def test_what_does_not_hear_sigterm_is_killed_after_its_time(tmp_path: Path, supervisor: Supervisor) -> None:
    await supervisor.start(spec(tmp_path, "deaf", STUBBORN, says="deaf", stop_timeout_s=0.2))
    running = supervisor.processes["deaf"]
    await supervisor.stop()
    assert running.process.returncode == -signal.SIGKILL


async def test_a_process_that_ends_at_its_start_is_an_error_with_the_end_of_its_log(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    code = "import sys; [print('line', n) for n in range(100)]; sys.exit('no such port')"
    with pytest.raises(ProcessFailedError) as failed:
        await supervisor.start(spec(tmp_path, "broken", code, says="never"))
    assert "broken ended with 1" in failed.value.message
    assert "no such port" in failed.value.message
    assert "line 99" in failed.value.message
    assert "line 10\n" not in failed.value.message
    assert supervisor.processes == {}


async def test_a_process_that_refuses_to_go_on_is_told_of_with_its_reason_and_ever_longer_pauses(
    tmp_path: Path, supervisor: Supervisor, story: Story
) -> None:
    """As an archiver that found the log rewound: it starts, looks, says why, and ends."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = f"print('hello', flush=True); open({str(gate)!r}).read(); raise SystemExit('the log was rewound')"
    await supervisor.start(spec(tmp_path, "one", code, says="hello"))
    for pause in ("0.1", "0.2", "0.4"):
        with gate.open("w"):
            pass
        told = await story.next("one", "ended")
        where = f"({tmp_path / 'one.log'})"
        assert told == (
            f"ended with 1; starting it again in {pause} s. The last line it wrote: the log was rewound {where}"
        )
        await story.next("one", "ready")


async def test_a_process_that_never_becomes_ready_is_ended_and_the_error_says_why(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READY_TIMEOUT_S", 0.5)
    before = set(psutil.Process().children())
    with pytest.raises(ProcessFailedError, match=r"is not ready after 0\.5 s \(AssertionError"):
        await supervisor.start(spec(tmp_path, "slow", WAITS, says="never"))
    assert set(psutil.Process().children()) <= before


async def test_a_crashed_process_is_started_again_and_again(
    tmp_path: Path, supervisor: Supervisor, story: Story
) -> None:
    await supervisor.start(spec(tmp_path, "one", WAITS, says="hello"))
    await story.next("one", "ready")
    pids = {supervisor.processes["one"].pid}
    for restarts in (1, 2, 3):
        supervisor.kill("one")
        assert await story.next("one", "ended") == "ended with -9; starting it again"
        await story.next("one", "ready")
        pids.add(supervisor.processes["one"].pid)
        state = json.loads((tmp_path / "run" / "state.json").read_text())
        assert state["processes"]["one"]["restarts"] == restarts
        assert state["processes"]["one"]["pid"] == supervisor.processes["one"].pid
    assert len(pids) == 4


async def test_a_process_that_crashes_at_each_start_is_tried_for_ever_and_stops_cleanly(
    tmp_path: Path, supervisor: Supervisor, story: Story
) -> None:
    flag = tmp_path / "broken"
    code = f"import pathlib, sys; pathlib.Path({str(flag)!r}).exists() and sys.exit('no disk'); {WAITS}"
    await supervisor.start(spec(tmp_path, "one", code, says="hello"))
    flag.touch()
    supervisor.kill("one")
    for _ in range(3):
        await story.next("one", "ended with 1")
    flag.unlink()
    await story.next("one", "ready")
    await supervisor.stop()
    assert story.told[-1] == ("one", "stopped")


async def test_a_program_that_cannot_be_launched_any_more_is_reported_and_kept(
    tmp_path: Path, supervisor: Supervisor, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    await supervisor.start(spec(tmp_path, "one", WAITS, says="hello"))
    await story.next("one", "ready")
    with monkeypatch.context() as patched:
        patched.setattr(module, "LAUNCH", (str(tmp_path / "gone"),))
        supervisor.kill("one")
        assert "gone" in await story.next("one", "[Errno 2]")
    await story.next("one", "ready")


async def test_a_failed_start_leaves_the_others_running(tmp_path: Path, supervisor: Supervisor) -> None:
    await supervisor.start(spec(tmp_path, "one", WAITS, says="hello"))
    with pytest.raises(ProcessFailedError):
        await supervisor.start(spec(tmp_path, "two", "raise SystemExit(3)", says="never"))
    assert list(supervisor.processes) == ["one"]
    assert supervisor.processes["one"].process.returncode is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "up\n"
    children = psutil.Process(killed.pid).children(recursive=True)
    assert len(children) == 2
    killed.kill()
    killed.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
