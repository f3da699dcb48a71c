"""The types that the endpoints' models share. Requests are strict: no unknown field, no "1" for 1, all bounded."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.cursors import POSITION_MAX

ID_EXAMPLE = "0b9f2a4e-5a0f-5c3e-9d53-0d3e6f6c7a11"
OTHER_ID_EXAMPLE = "7c5b1f0a-93a8-5d0c-8e0e-5f6a0f1d2b22"
TIME_EXAMPLE = "2026-01-31T12:00:00.123456Z"
CURSOR_EXAMPLE = "cDQy"

LIMIT_EXAMPLE: dict[str, Any] = {
    "type": "/problems/too-many-requests",
    "title": "Too much for now",
    "status": 429,
    "code": "limit_org_open_runs",
    "request_id": ID_EXAMPLE,
    "detail": "The limit org_open_runs of 10000 is met and nothing was done; ask again in 1 s.",
    "limit": 10000,
    "retry_after_s": 1,
}

PAGE_DEFAULT, PAGE_MAX = 50, 200


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is blank")
    return text


Id = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        description="An id, as this service gave it out.",
    ),
]
Name = Annotated[
    str,
    Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$", description="A short text on one line."),
    AfterValidator(_not_blank),
]
Text = Annotated[
    str,
    Field(min_length=1, max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]+$", description="A text."),
]
Email = Annotated[
    str,
    Field(max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f-\x9f]+@[^@\s\x00-\x1f\x7f-\x9f]+\.[^@\s\x00-\x1f\x7f-\x9f]+$"),
]
StepKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="The key of a registered step.")]
Position = Annotated[int, Field(ge=0, le=POSITION_MAX, description="A position in the log.")]
Timestamp = Annotated[datetime, Field(description="RFC 3339, in UTC.")]


def example(**fields: Any) -> ConfigDict:
    """The configuration of a request's model, with its example."""
    return ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra={"examples": [fields]})


def shown(**fields: Any) -> ConfigDict:
    """The configuration of an answer's model, with its example."""
    return ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [fields]})


class Query(BaseModel):
    """What every query takes."""

    model_config = example()

    min_position: Annotated[
        Position | None,
        Field(description="Wait, at most 5 s, until the read models have reached this position; else 503."),
    ] = None


class PageQuery(Query):
    """What every list takes: newest first, a page at a time."""

    model_config = example(limit=50)

    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[
        str | None, Field(max_length=64, description="`next_cursor` of the page before; none for the first page.")
    ] = None


class Empty(Query):
    """A query that needs nothing."""

    model_config = example(min_position=42)


Item = TypeVar("Item", bound=BaseModel)


class Page(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: list[Item]
    next_cursor: str | None


class Done(BaseModel):
    """A command's answer: where in the log its decision is, and whether an earlier call had made it already."""

    model_config = shown(position=42, repeated=False)

    position: Position
    repeated: bool


class Withdrawn(Done):
    """The answer to a withdrawal of access. `in_force` is false when the read models took too long to follow: it is
    recorded, and takes effect in a moment.
    """

    model_config = shown(position=42, repeated=False, in_force=True)

    in_force: bool


class DeferredAnswer(BaseModel):
    """202: the command is on disk and will be done later. Repeat the call with this key for its answer."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "status": "deferred",
                    "command_id": ID_EXAMPLE,
                    "idempotency_key": "order-17",
                    "detail": "No command service answers now. The command is kept and will be done; repeat the call "
                    "with the same Idempotency-Key to get its answer.",
                    "company_id": OTHER_ID_EXAMPLE,
                }
            ]
        },
    )

    status: str
    command_id: Id
    idempotency_key: str
    detail: str


class Fault(BaseModel):
    """One fault of the input."""

    model_config = shown(path="/records/3", message="Input should be a valid dictionary")

    path: Annotated[str, Field(description="A JSON Pointer into the body (RFC 6901).")]
    message: str


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json). `code` is stable."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/invalid-input",
                    "title": "The input is not valid",
                    "status": 422,
                    "code": "invalid_input",
                    "request_id": ID_EXAMPLE,
                    "detail": "The body has 1 fault; `errors` lists them.",
                    "errors": [{"path": "/records/3", "message": "Input should be a valid dictionary"}],
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    code: str
    request_id: str | None
    detail: str | None = None
    errors: list[Fault] = []


class Progress(BaseModel):
    """How many chunks of a large batch are done; the total is null while nobody knows it."""

    model_config = shown(chunks_done=12, chunks_total=40)

    chunks_done: int
    chunks_total: int | None
