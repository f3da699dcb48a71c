"""What travels between a worker and one in another language (docs/protocol.md), checked as foreign data is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import jsonschema_rs
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from events import strictjson
from events.errors import InvalidInputError
from services.steps.base import Record, Reject, StepError, StepOutput

PROTOCOL = 1
MESSAGE_MAX_BYTES = 4 * 1024 * 1024
PART_MAX_BYTES = 1024 * 1024
"""Records of one request to a row-wise step: with room for an answer that is longer."""
SCHEMA_MAX_BYTES = 64 * 1024
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
RowIndex = Annotated[int, Field(ge=0)]


class _Foreign(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


M = TypeVar("M", bound=_Foreign)


class Announcement(_Foreign):
    """A worker serves this version of a step."""

    protocol: Literal[1]
    key: Key
    version: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,100}$")]
    summary: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
    config_schema: dict[str, Any]
    whole: bool = False
    has_effects: bool = False

    @field_validator("config_schema")
    @classmethod
    def _is_a_schema_of_its_own(cls, schema: dict[str, Any]) -> dict[str, Any]:
        """Everybody who checks a config reads it: it is small, valid, and has nobody fetch a thing."""
        encoded = orjson.dumps(schema)
        if len(encoded) > SCHEMA_MAX_BYTES:
            raise ValueError(f"it has {len(encoded)} bytes and may have {SCHEMA_MAX_BYTES}")
        if b"\\u0000" in encoded:
            raise ValueError("it holds the character U+0000, which Postgres cannot store")
        if schema.get("$schema", DIALECT) != DIALECT:
            raise ValueError(f"its $schema must be {DIALECT}, or be left out")
        if schema.get("type") != "object":
            raise ValueError('a config is an object: its "type" must be "object"')
        for reference in _references(schema):
            if not isinstance(reference, str) or not reference.startswith("#"):
                raise ValueError(f"the reference {str(reference)[:100]!r} must begin with #: nothing is fetched")
        try:
            jsonschema_rs.meta.validate({**schema, "$schema": DIALECT})
            jsonschema_rs.Draft202012Validator(schema)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise ValueError(f"it is no JSON Schema (2020-12): {str(error)[:300]}") from error
        return schema


def _references(value: Any) -> Iterator[Any]:
    """What a schema refers to, at any depth. Also an `$id`, which would give local references another meaning."""
    if isinstance(value, dict):
        yield from (value[name] for name in ("$ref", "$dynamicRef", "$id") if name in value)
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


class ForeignReject(_Foreign):
    """A row of the request that did not go on, by its index."""

    row: RowIndex
    field: Annotated[str, Field(max_length=1000)] | None = None
    code: Key
    value: Any = None


class ForeignError(_Foreign):
    """Why a step made nothing."""

    code: Key
    message: Annotated[str, Field(max_length=10_000)]
    retryable: bool = False


class Answer(_Foreign):
    """What a worker made of the records that it was asked about: records and rejects, or an error."""

    records: list[dict[str, Any]] | None = None
    rejects: list[ForeignReject] = []
    rows: list[RowIndex] | None = None
    error: ForeignError | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "Answer":
        if (self.records is None) == (self.error is None):
            raise ValueError('there must be either "records" or "error"')
        if self.error is not None and (self.rejects or self.rows is not None):
            raise ValueError('"rejects" and "rows" go with "records"')
        return self


class RemoteStepError(StepError):
    """A step in another language failed, or could not be asked; what failed is tried again if `retryable`."""

    def __init__(self, message: str, *, code: str, retryable: bool = False) -> None:
        super().__init__(message, code=code)
        self.retryable = retryable


def parse(body: bytes, model: type[M]) -> M:
    """A foreign message. Raises InvalidInputError, which says what is wrong and where."""
    if len(body) > MESSAGE_MAX_BYTES:
        raise InvalidInputError(f"The message has {len(body)} bytes and may have {MESSAGE_MAX_BYTES}.")
    value = strictjson.parse(body)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the message'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_context=False, include_input=False)[:5]
        ]
        raise InvalidInputError("; ".join(faults)) from error


def request_of(key: str, version: str, config: Mapping[str, Any], records: Sequence[bytes], deadline_ms: int) -> bytes:
    """The request for a step over records that are encoded already."""
    head = {"protocol": PROTOCOL, "step": key, "version": version, "config": config, "deadline_ms": deadline_ms}
    return orjson.dumps(head)[:-1] + b',"records":[' + b",".join(records) + b"]}"


def parts_of(records: Sequence[Record], part_max_bytes: int = PART_MAX_BYTES) -> Iterator[list[bytes]]:
    """The records, encoded, in requests of at most `part_max_bytes`, but each has one at least; one for no records."""
    part: list[bytes] = []
    size_bytes = 0
    for record in records:
        encoded = orjson.dumps(record)
        if part and size_bytes + len(encoded) > part_max_bytes:
            yield part
            part, size_bytes = [], 0
        part.append(encoded)
        size_bytes += len(encoded) + 1
    if part or not records:
        yield part


def output_of(body: bytes, asked_rows: int, *, whole: bool) -> StepOutput:
    """The answer about `asked_rows` records. Raises StepError with the worker's error, or `bad_answer`."""
    try:
        answer = parse(body, Answer)
    except InvalidInputError as error:
        raise _bad(error.message) from error
    if answer.error is not None:
        raise RemoteStepError(answer.error.message, code=answer.error.code, retryable=answer.error.retryable)
    assert answer.records is not None
    beyond = next((row for row in _rows_named(answer) if row >= asked_rows), None)
    if beyond is not None:
        raise _bad(f"it names row {beyond} of a request with {asked_rows}; they count from 0")
    rejects = [Reject(reject.row, reject.field, reject.code, reject.value) for reject in answer.rejects]
    return StepOutput(answer.records, rejects, _origins(answer, asked_rows, whole=whole))


def _rows_named(answer: Answer) -> Iterator[int]:
    yield from (reject.row for reject in answer.rejects)
    yield from answer.rows or ()


def _origins(answer: Answer, asked_rows: int, *, whole: bool) -> list[int] | None:
    """Which row of the request each record was made of; of a step over whole batches it may be untold."""
    made = len(answer.records or ())
    if answer.rows is not None:
        if len(answer.rows) != made:
            raise _bad(f'"rows" has {len(answer.rows)} entries, "records" {made}: one for each is needed')
        return answer.rows
    rejected = {reject.row for reject in answer.rejects}
    if made == asked_rows - len(rejected):
        return [row for row in range(asked_rows) if row not in rejected]
    if made == asked_rows:
        return list(range(asked_rows))
    if whole:
        return None
    raise _bad(
        f"{asked_rows} records were asked about, {len(rejected)} of them were rejected and {made} returned: then "
        '"rows" must tell of which row each was made'
    )


def _bad(what: str) -> StepError:
    return StepError(f"The remote worker's answer cannot be used: {what}.", code="bad_answer")
