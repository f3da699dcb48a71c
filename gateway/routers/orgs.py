"""The caller's own org."""

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from events import commands
from gateway import answers
from gateway.calls import Authenticated, CallRoute
from gateway.models import ID_EXAMPLE, TIME_EXAMPLE, Done, Empty, Id, Name, Position, Timestamp, example, shown
from projections.queries import administration

router = APIRouter(prefix="/v1/orgs", tags=["orgs"], route_class=CallRoute)


class Org(BaseModel):
    """An org: the tenant."""

    model_config = shown(org_id=ID_EXAMPLE, name="Acme", created_at=TIME_EXAMPLE, position=1)

    org_id: Id
    name: str
    created_at: Timestamp
    position: Position


class RenameOrg(BaseModel):
    """Another name for the caller's org."""

    model_config = example(name="Acme Holdings")

    name: Name


@router.post("/get", response_model=Org)
async def get(body: Empty, call: Authenticated) -> Org:
    """The caller's org."""
    await call.caught_up(body.min_position)
    row = await administration.org(call.gateway.reader, call.org_id)
    return Org.model_validate(dict(answers.found(row, "org", call.org_id)))


@router.post("/rename", response_model=Done)
async def rename(body: RenameOrg, call: Authenticated) -> Response:
    """Give the caller's org another name."""
    envelope = call.envelope(body)
    command = commands.RenameOrg(**envelope.fields(), aggregate_id=call.org_id, name=body.name)
    return await answers.do(call, envelope, command, 200)
