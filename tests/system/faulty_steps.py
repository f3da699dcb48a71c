"""Steps that behave as steps in the wild do: they crash, hang, eat memory, fail for a while, or take their time."""

import ctypes
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from services.steps.base import Record, RetryableStepError, StepConfig, StepError, StepOutput, step


class NoConfig(StepConfig):
    """Nothing to set."""


class Seconds(StepConfig):
    """How long it takes."""

    seconds: float = 1.0
    """Seconds."""


class Failures(StepConfig):
    """How often it fails before it succeeds."""

    marker: str
    """A file that counts the attempts."""
    failures: int = 1
    """Failing attempts."""
    seconds: float = 0.0
    """How long each takes."""


@step("test_count", version="1", summary="Adds one to every n.", config=NoConfig)
def count(records: Sequence[Record], config: NoConfig) -> StepOutput:
    return StepOutput([{**record, "n": record.get("n", 0) + 1} for record in records])


@step("test_crash", version="1", summary="Ends its process with a segmentation fault.", config=NoConfig)
def crash(records: Sequence[Record], config: NoConfig) -> StepOutput:
    ctypes.string_at(0)
    return StepOutput(list(records))


@step("test_hang", version="1", summary="Never ends.", config=NoConfig)
def hang(records: Sequence[Record], config: NoConfig) -> StepOutput:
    while True:
        time.sleep(0.01)


@step("test_slow", version="1", summary="Takes its time, and has an effect.", config=Seconds, has_effects=True)
def slow(records: Sequence[Record], config: Seconds) -> StepOutput:
    time.sleep(config.seconds)
    return StepOutput(list(records))


@step("test_greedy", version="1", summary="Wants all memory.", config=NoConfig, has_effects=True)
def greedy(records: Sequence[Record], config: NoConfig) -> StepOutput:
    hoard = [bytearray(256 * 1024 * 1024) for _ in range(1000)]
    return StepOutput([{"hoard": len(hoard)}])


@step("test_flaky", version="1", summary="Fails some times, then succeeds.", config=Failures)
def flaky(records: Sequence[Record], config: Failures) -> StepOutput:
    marker = Path(config.marker)
    attempts = len(marker.read_bytes()) if marker.exists() else 0
    marker.write_bytes(b"x" * (attempts + 1))
    time.sleep(config.seconds)
    if attempts < config.failures:
        raise RetryableStepError("the service is busy", code="busy")
    return StepOutput(list(records))


@step("test_reject_all", version="1", summary="Refuses every batch.", config=NoConfig)
def refuse(records: Sequence[Record], config: NoConfig) -> StepOutput:
    raise StepError("not this \x00 batch", code="refused")


@step("test_garbage", version="1", summary="Returns what is no record.", config=NoConfig)
def garbage(records: Sequence[Record], config: NoConfig) -> StepOutput:
    return StepOutput([object()])


@step("test_nonce", version="1", summary="Is not deterministic.", config=NoConfig)
def nonce(records: Sequence[Record], config: NoConfig) -> StepOutput:
    return StepOutput([{**record, "nonce": uuid.uuid4().hex} for record in records])


@step("test_quote", version="1", summary="Quotes what it was given when it fails.", config=NoConfig)
def quote(records: Sequence[Record], config: NoConfig) -> StepOutput:
    raise ValueError(f"cannot do anything with {records[0]}")


STEPS = (quote, nonce, count, crash, hang, slow, greedy, flaky, refuse, garbage)
