"""How much memory each process of a system ever held: its peak resident set, as the kernel keeps it."""

import threading
from collections.abc import Mapping
from pathlib import Path

import psutil

EVERY_S = 0.25
"""A process that lives shorter than this may be missed; the peak of one that is seen is the kernel's, and is not."""


class MemoryMeter:
    """Watches named processes and all that they start; use as a context manager, then read `peak_mb`.

    The peak is that of the process's whole life (VmHWM of proc(5)); where there is no /proc, the highest that was seen.
    """

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._roots = dict(processes)
        self._peaks: dict[tuple[str, int], int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryMeter":
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look once more, and end."""
        self._over.set()
        self._thread.join()
        self._look()

    def peak_mb(self) -> dict[str, float]:
        """The highest peak by name, MiB; the processes that a named one started are `name child`."""
        highest: dict[str, int] = {}
        for (name, _), peak in self._peaks.items():
            highest[name] = max(highest.get(name, 0), peak)
        return {name: round(peak / 2**20, 1) for name, peak in sorted(highest.items())}

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        for name, pid in self._roots.items():
            try:
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    key = (name if process.pid == pid else f"{name} child", process.pid)
                    self._peaks[key] = max(self._peaks.get(key, 0), peak_bytes(process))
            except psutil.NoSuchProcess:
                continue  # it ended meanwhile; what was seen of it stands


def peak_bytes(process: psutil.Process) -> int:
    """The highest resident set of a process so far. Raises psutil.NoSuchProcess."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass  # no /proc, or the process has ended: psutil tells which
    return int(process.memory_info().rss)
