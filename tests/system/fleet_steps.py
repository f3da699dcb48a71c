"""A step whose chunks tell where they are done."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from services.steps.base import Record, StepConfig, StepOutput, step


class Told(StepConfig):
    """Where to tell, and how long a chunk takes."""

    told: str
    """A file; each chunk appends a line: the worker's process, the step's process, the chunk's first row."""
    seconds: float = 0.0
    """How long each chunk takes."""
    hold: str = ""
    """As long as there is this file, chunks do not end,"""
    held_from: int = 0
    """if their first row is this one or a later one."""


@step("test_fleet", version="1", summary="Adds one to every n, and tells where it does.", config=Told)
def fleet(records: Sequence[Record], config: Told) -> StepOutput:
    with Path(config.told).open("a") as file:
        file.write(f"{os.getppid()} {os.getpid()} {records[0]['n']}\n")
    time.sleep(config.seconds)
    while config.hold and int(records[0]["n"]) >= config.held_from and Path(config.hold).exists():
        time.sleep(0.02)
    return StepOutput([{"n": int(record["n"]) + 1} for record in records])


STEPS = (fleet,)
