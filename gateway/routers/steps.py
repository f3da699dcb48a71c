"""The steps that blueprints can use; registered by workers, the same for every org."""

from typing import Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel

from gateway import answers, cursors
from gateway.calls import Authenticated, CallRoute
from gateway.models import TIME_EXAMPLE, Page, PageQuery, Position, Query, StepKey, Timestamp, example, shown
from projections.queries import administration
from projections.queries.reader import Row

router = APIRouter(prefix="/v1/steps", tags=["steps"], route_class=CallRoute)


class Step(BaseModel):
    """A registered step: what it does, and how it is configured."""

    model_config = shown(
        key="extract_domain",
        version="1",
        summary="Finds the registrable domain in a website or an email address.",
        config_schema={"type": "object", "properties": {"field": {"type": "string"}}, "required": ["field"]},
        has_effects=False,
        registered_at=TIME_EXAMPLE,
        position=3,
    )

    key: str
    version: str
    summary: str
    config_schema: dict[str, Any]
    has_effects: bool
    registered_at: Timestamp
    position: Position


class GetStep(Query):
    """Which step."""

    model_config = example(key="extract_domain")

    key: StepKey


class ListSteps(PageQuery):
    """Which steps: all of them, a page at a time."""

    model_config = example(limit=50)


@router.post("/list", response_model=Page[Step])
async def list_(body: ListSteps, call: Authenticated) -> Page[Step]:
    """Registered steps, the latest registration first."""
    await call.caught_up(body.min_position)
    rows = await administration.steps(call.gateway.reader, cursors.before(body.cursor), body.limit + 1)
    return answers.page(rows, body.limit, _step)


@router.post("/get", response_model=Step)
async def get(body: GetStep, call: Authenticated) -> Step:
    """One step, with the JSON Schema of its config."""
    await call.caught_up(body.min_position)
    return _step(answers.found(await administration.step(call.gateway.reader, body.key), "step", body.key))


def _step(row: Row) -> Step:
    fields = dict(row)
    return Step(key=fields.pop("step_key"), config_schema=orjson.loads(fields.pop("config_schema")), **fields)
