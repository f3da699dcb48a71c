"""Blueprints: the ordered steps, with their configs, that an org's runs follow."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.administration import BLUEPRINT, BlueprintStep
from events.errors import InvalidInputError
from gateway import answers, cursors
from gateway.calls import Authenticated, CallRoute
from gateway.models import (
    ID_EXAMPLE,
    TIME_EXAMPLE,
    Done,
    Id,
    Name,
    Page,
    PageQuery,
    Position,
    Query,
    StepKey,
    Text,
    Timestamp,
    example,
    shown,
)
from gateway.problems import pointer
from projections.queries import administration
from projections.queries.reader import Row

STEPS_MAX = 50
STEPS_MAX_BYTES = 1024 * 1024
PROBLEMS_MAX = 100

STEP_EXAMPLE = {
    "key": "extract_domain",
    "config": {"field": "website"},
    "retry": {"attempts": 3, "backoff_s": 1.0, "timeout_s": 60.0},
}

router = APIRouter(prefix="/v1/blueprints", tags=["blueprints"], route_class=CallRoute)


class Retry(BaseModel):
    """How a step is tried again after an error that may pass."""

    model_config = example(attempts=3, backoff_s=1.0, timeout_s=60.0)

    attempts: Annotated[int, Field(ge=1, le=20, description="Executions at most, the first included.")] = 3
    backoff_s: Annotated[
        float, Field(ge=0, le=3600, description="Seconds before the second attempt; doubled for each further one.")
    ] = 1.0
    timeout_s: Annotated[float, Field(gt=0, le=3600, description="Seconds that one attempt may take.")] = 60.0


class StepOfBlueprint(BaseModel):
    """One step: which, how configured, how tried again."""

    model_config = example(**STEP_EXAMPLE)

    key: StepKey
    config: Annotated[dict[str, Any], Field(description="Checked against the step's config schema.")] = Field(
        default_factory=dict
    )
    retry: Retry = Retry()


class Blueprint(BaseModel):
    """A blueprint. It never changes; it can be archived."""

    model_config = shown(
        blueprint_id=ID_EXAMPLE,
        name="clean companies",
        description=None,
        steps=[STEP_EXAMPLE],
        archived=False,
        created_at=TIME_EXAMPLE,
        archived_at=None,
        position=12,
    )

    blueprint_id: Id
    name: str
    description: str | None
    steps: list[BlueprintStep]
    archived: bool
    created_at: Timestamp
    archived_at: Timestamp | None
    position: Position


class CreateBlueprint(BaseModel):
    """A blueprint to be."""

    model_config = example(name="clean companies", steps=[STEP_EXAMPLE])

    name: Name
    description: Text | None = None
    steps: Annotated[list[StepOfBlueprint], Field(min_length=1, max_length=STEPS_MAX)]


class BlueprintCreated(Done):
    """The new blueprint's id."""

    model_config = shown(blueprint_id=ID_EXAMPLE, position=12, repeated=False)

    blueprint_id: Id


class GetBlueprint(Query):
    """Which blueprint."""

    model_config = example(blueprint_id=ID_EXAMPLE)

    blueprint_id: Id


class ArchiveBlueprint(BaseModel):
    """Which blueprint."""

    model_config = example(blueprint_id=ID_EXAMPLE)

    blueprint_id: Id


class ListBlueprints(PageQuery):
    """Which blueprints."""

    model_config = example(archived=False)

    archived: bool | None = None


@router.post("/create", status_code=201, response_model=BlueprintCreated)
async def create(body: CreateBlueprint, call: Authenticated) -> Response:
    """Create a blueprint. Every fault of every step's config is told at once, with its path."""
    check_steps(body.steps)
    envelope = call.envelope(body)
    blueprint_id = envelope.new_id(BLUEPRINT)
    command = commands.CreateBlueprint(
        **envelope.fields(),
        aggregate_id=blueprint_id,
        name=body.name,
        description=body.description,
        steps=tuple(BlueprintStep.model_validate(step.model_dump()) for step in body.steps),
    )
    return await answers.do(call, envelope, command, 201, blueprint_id=blueprint_id)


@router.post("/get", response_model=Blueprint)
async def get(body: GetBlueprint, call: Authenticated) -> Blueprint:
    """One blueprint."""
    scope = await call.caught_up(body.min_position)
    row = await administration.blueprint(call.gateway.reader, scope, body.blueprint_id)
    return _blueprint(answers.found(row, "blueprint", body.blueprint_id))


@router.post("/list", response_model=Page[Blueprint])
async def list_(body: ListBlueprints, call: Authenticated) -> Page[Blueprint]:
    """Blueprints, newest first."""
    scope = await call.caught_up(body.min_position)
    rows = await administration.blueprints(
        call.gateway.reader, scope, cursors.before(body.cursor), body.limit + 1, body.archived
    )
    return answers.page(rows, body.limit, _blueprint)


@router.post("/archive", response_model=Done)
async def archive(body: ArchiveBlueprint, call: Authenticated) -> Response:
    """Archive a blueprint: it starts no further runs."""
    envelope = call.envelope(body)
    command = commands.ArchiveBlueprint(**envelope.fields(), aggregate_id=body.blueprint_id)
    return await answers.do(call, envelope, command, 200)


def check_steps(given: Sequence[StepOfBlueprint]) -> None:
    """What Postgres could not store, or nobody should have to: NUL in any text, and configs without measure."""
    steps = [step.config for step in given]
    if len(orjson.dumps(steps)) > STEPS_MAX_BYTES:
        raise InvalidInputError(f"The configs of the steps are larger than {STEPS_MAX_BYTES} bytes together.")
    problems = [
        {"path": pointer(("steps", index, "config", *path)), "message": "The text holds a NUL character."}
        for index, config in enumerate(steps)
        for path in _nul_paths(config)
    ]
    if problems:
        raise InvalidInputError("A config holds a NUL character.", problems[:PROBLEMS_MAX])


def _nul_paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, str):
        if "\0" in value:
            yield path
    elif isinstance(value, dict):
        for name, child in value.items():
            if "\0" in name:
                yield (*path, name)
            yield from _nul_paths(child, (*path, name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _nul_paths(child, (*path, index))


def _blueprint(row: Row) -> Blueprint:
    fields = dict(row)
    return Blueprint(steps=orjson.loads(fields.pop("steps")), **fields)
