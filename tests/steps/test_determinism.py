"""The same bytes in every process, at any number of threads, wherever a chunk ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.steps.catalogue import STEPS

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "digests.py"


@pytest.fixture(scope="module")
def digests() -> list[dict[str, list[str]]]:
    """What fresh processes print: with 1, 2 and 4 threads, and with other orders of sets."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), threads],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        for threads, seed in (("1", "1"), ("2", "2"), ("4", "3"))
    ]
    found = []
    for process in processes:
        out, errors = process.communicate(timeout=150)
        assert process.returncode == 0, errors
        found.append(json.loads(out))
    return found


def test_every_process_gives_the_same_bytes(digests: list[dict[str, list[str]]]) -> None:
    first, *others = digests
    assert set(first) == {step.key for step in STEPS}
    for other in others:
        assert other == first


def test_different_steps_and_bytes_have_different_digests(digests: list[dict[str, list[str]]]) -> None:
    found = [digest for pair in digests[0].values() for digest in pair]
    assert len(set(found)) == len(found)
