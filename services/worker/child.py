"""An isolated step process: `python -m services.worker.child MEMORY_MAX_BYTES MODULE…`.

It reads requests and writes results as length-prefixed frames on its first two file descriptors, one at a time. What
a step does to this process (crash, hang, eat memory) is done to no other run.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

import orjson
import pyarrow as pa

from services.worker.chunk_code import Message, converse
from services.worker.execution import Failure, execute, pack
from services.worker.registry import load_steps

FRAME_HEAD = struct.Struct("<I")
NICENESS = 10
"""Steps yield to the loops that everybody waits for, when there are fewer processors than work (nice(2))."""


def read_frames(stream: BinaryIO) -> list[bytes] | None:
    """One message: a count, then that many frames. None at the end of the stream."""
    head = stream.read(FRAME_HEAD.size)
    if len(head) < FRAME_HEAD.size:
        return None
    frames = []
    for _ in range(FRAME_HEAD.unpack(head)[0]):
        size_bytes = FRAME_HEAD.unpack(stream.read(FRAME_HEAD.size))[0]
        frames.append(stream.read(size_bytes))
    return frames


def write_frames(stream: BinaryIO, frames: list[bytes]) -> None:
    """The inverse of `read_frames`."""
    stream.write(FRAME_HEAD.pack(len(frames)))
    for frame in frames:
        stream.write(FRAME_HEAD.pack(len(frame)))
        stream.write(frame)
    stream.flush()


def main(memory_max_bytes: int, modules: list[str]) -> None:
    """Serve steps until the worker closes the pipe."""
    requests = os.fdopen(os.dup(0), "rb")
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a step prints goes to stderr, never between the frames
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _die_with_parent()
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_max_bytes, memory_max_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pa.set_cpu_count(1)  # a worker has a process for each processor that it may use
    pa.set_io_thread_count(1)
    steps = load_steps(modules)
    write_frames(results, [b"ready"])

    def ask() -> Message | None:
        write_frames(results, [orjson.dumps({"next": True})])
        answer = read_frames(requests)
        if answer is None:
            sys.exit(0)  # the worker is gone
        head = orjson.loads(answer[0])
        return None if head.get("end") else (head, answer[1:])

    while (frames := read_frames(requests)) is not None:
        request = orjson.loads(frames[0])
        if "op" in request:
            for head, more in converse(steps, request, frames[1:], ask):
                write_frames(results, [orjson.dumps(head), *more])
            continue
        step = steps.get(request["step"])
        if step is None:
            result = pack(Failure("step_unknown", f"This worker does not serve {request['step']!r}.", retryable=True))
        else:
            result = pack(execute(step, frames[1], request["config"]))
        write_frames(results, list(result))


def _die_with_parent() -> None:
    """A step that hangs must not outlive a worker that was killed (prctl(2), PR_SET_PDEATHSIG, on Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
