"""Ends the worker when a step on its own loop overruns: a thread, because the loop itself is what hangs.

The supervisor starts the worker anew, and the tasks that it held are delivered again, isolated, where the time limit
is kept by killing the step's process and the run is told so.
"""

import os
import sys
import threading
import time

GRACE_S = 1.0
EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""


class Watchdog:
    """Call with a limit in seconds when a step begins, and with None when it has ended."""

    def __init__(self) -> None:
        self._deadline: float | None = None
        self._wake = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def __call__(self, timeout_s: float | None) -> None:
        """Begin or end a watched moment; cheap, since it is called for every step."""
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s + GRACE_S

    def _watch(self) -> None:
        while not self._wake.wait(GRACE_S):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                sys.stdout.write('{"event":"step_overrun","level":"error","component":"watchdog"}\n')
                sys.stdout.flush()
                os._exit(EXIT_CODE)

    def close(self) -> None:
        """End the thread."""
        self._wake.set()
