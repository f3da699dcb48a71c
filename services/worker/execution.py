"""Executing one step over encoded records: bytes in, bytes out, every failure a value. The same in every process."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import pyarrow as pa
from pydantic import ValidationError

from events.payload import decode_batch, encode_records
from services.steps.base import Step, StepError, StepOutput

MESSAGE_MAX_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Executed:
    """What a step made: encoded records and rejects (None when there is none), with their counts."""

    output: bytes
    output_rows: int
    rejects: bytes | None = None
    rejects_rows: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step made nothing."""

    code: str
    message: str
    retryable: bool


def execute(step: Step[Any], records: bytes, config: Mapping[str, Any]) -> Executed | Failure:
    """Run a step. Never raises for what a step can do wrong: that is a Failure."""
    try:
        rows, ids = decode_batch(records)
        return encode(step.execute(rows, config, ids=ids))
    except Exception as error:  # noqa: BLE001 - a step is foreign code: whatever it raises is its result
        return failure_of(step.key, error)


def failure_of(step_key: str, error: Exception) -> Failure:
    """What a step raised, in words."""
    match error:
        case ValidationError():
            return Failure("config_invalid", bounded(f"The config of {step_key} does not fit: {_faults(error)}"), False)
        case StepError():
            return Failure(error.code, bounded(str(error)), error.retryable)
        case MemoryError() | pa.ArrowMemoryError():
            return Failure("out_of_memory", "The step needed more memory than it may have.", retryable=False)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Failure("step_exception", bounded(f"{error!r} in {where.name}, line {where.lineno}"), retryable=True)


def _faults(error: ValidationError) -> str:
    """What is wrong with a config, and where in it; without the library's links, which mean nothing to the reader."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    places = [("/".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")) for fault in found]
    return "; ".join(f"{place}: {message}" if place else message for place, message in places)


def encode(output: StepOutput) -> Executed:
    """What a step returned, as bytes. Raises StepError for what JSON cannot hold."""
    if not all(type(record) is dict for record in output.records):
        raise StepError("The step returned something other than a list of objects.", code="bad_output")
    try:
        encoded = encode_records(output.records, output.rows)
        rejects = orjson.dumps([asdict(reject) for reject in output.rejects]) if output.rejects else None
    except TypeError as error:
        raise StepError(f"The step returned a value that JSON cannot hold: {error}", code="bad_output") from error
    return Executed(encoded, len(output.records), rejects, len(output.rejects))


def bounded(message: str) -> str:
    """Error texts quote data: bounded, and free of what Postgres cannot store."""
    return message.replace("\x00", "\\0").encode("utf-8", "replace").decode()[:MESSAGE_MAX_CHARS]


def pack(result: Executed | Failure) -> Sequence[bytes]:
    """The frames by which a step process hands a result to its worker."""
    if isinstance(result, Failure):
        return [orjson.dumps({"failure": asdict(result)})]
    head = {"output_rows": result.output_rows, "rejects_rows": result.rejects_rows}
    return [orjson.dumps(head), result.output, *([result.rejects] if result.rejects is not None else [])]


def unpack(frames: Sequence[bytes]) -> Executed | Failure:
    """The inverse of `pack`."""
    head: dict[str, Any] = orjson.loads(frames[0])
    if "failure" in head:
        return Failure(**head["failure"])
    rejects = frames[2] if len(frames) > 2 else None
    return Executed(frames[1], head["output_rows"], rejects, head["rejects_rows"])
