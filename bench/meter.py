"""What a benchmark reads off the machine: wall time, processor time, and the disk's own counters (Linux)."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SECTOR_BYTES = 512


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


@dataclass(slots=True)
class Meter:
    """A measured window; use as a context manager, then `fields(operations)`."""

    seconds: float = 0.0
    cpu_percent: float | None = None
    written_bytes: int | None = None
    flushes: int | None = None
    _before: tuple[Any, ...] = field(default=(), repr=False)

    def __enter__(self) -> "Meter":
        """Begin."""
        self._before = (time.perf_counter(), _cpu(), _disk())
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        began, cpu, disk = self._before
        self.seconds = time.perf_counter() - began
        now = _cpu()
        if cpu is not None and now is not None and now[1] > cpu[1]:
            self.cpu_percent = round(100 * (now[0] - cpu[0]) / (now[1] - cpu[1]), 1)
        after = _disk()
        if disk is not None and after is not None:
            self.written_bytes, self.flushes = after[0] - disk[0], after[1] - disk[1]

    def fields(self, operations: int) -> dict[str, Any]:
        """The window's figures, those of the disk for each operation."""
        return {
            "wall_s": round(self.seconds, 3),
            "cpu_pct_of_machine": self.cpu_percent,
            "cores": os.cpu_count(),
            "disk_kB_per_run": None if self.written_bytes is None else round(self.written_bytes / 1024 / operations, 2),
            "flushes_per_run": None if self.flushes is None else round(self.flushes / operations, 2),
        }


def _cpu() -> tuple[int, int] | None:
    """Busy and all processor ticks of the machine (proc(5), /proc/stat)."""
    try:
        ticks = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _disk() -> tuple[int, int] | None:
    """Bytes written and flushes of all whole disks (/proc/diskstats, Documentation/admin-guide/iostats.rst)."""
    written = flushes = 0
    try:
        for line in Path("/proc/diskstats").read_text().splitlines():
            fields = line.split()
            name = fields[2]
            if len(fields) > 18 and Path("/sys/block", name).exists() and not name.startswith(("loop", "ram")):
                written += int(fields[9]) * _SECTOR_BYTES
                flushes += int(fields[18])
    except OSError:
        return None
    return written, flushes


def processor_ms(sessions: Mapping[str, int]) -> dict[str, float]:
    """Processor milliseconds used so far by each named process, its session and its children; and by this process."""
    by_session = {session: name for name, session in sessions.items()}
    used = dict.fromkeys(sessions, 0.0)
    tick_ms = 1000 / os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        name = by_session.get(int(fields[3])) or by_session.get(int(fields[1]))
        if name is not None:
            used[name] += (int(fields[11]) + int(fields[12])) * tick_ms
    return {**used, "client": time.process_time() * 1000}
