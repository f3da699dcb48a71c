"""The caller's own org."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, TypeAdapter
from starlette.responses import Response

from events import commands
from events.administration import SignInRule
from gateway import answers
from gateway.calls import Authenticated, CallRoute
from gateway.models import (
    ID_EXAMPLE,
    OTHER_ID_EXAMPLE,
    TIME_EXAMPLE,
    Done,
    Empty,
    Id,
    Name,
    Position,
    Timestamp,
    Withdrawn,
    example,
    shown,
)
from gateway.problems import invalid
from projections.queries import administration

RULES_MAX = 20
RULE_EXAMPLE = {
    "name": "staff",
    "claim": "app_metadata.org",
    "match": "equals",
    "value": "acme",
    "role": "member",
    "company_id": OTHER_ID_EXAMPLE,
}

router = APIRouter(prefix="/v1/orgs", tags=["orgs"], route_class=CallRoute)

_RULES = TypeAdapter(list[SignInRule])


class Org(BaseModel):
    """An org: the tenant. Its sign-in rules are shown to its admins; null for others."""

    model_config = shown(
        org_id=ID_EXAMPLE,
        name="Acme",
        members_may_work=True,
        sign_in_rules=[RULE_EXAMPLE],
        created_at=TIME_EXAMPLE,
        position=1,
    )

    org_id: Id
    name: str
    members_may_work: bool
    sign_in_rules: list[SignInRule] | None
    created_at: Timestamp
    position: Position


class RenameOrg(BaseModel):
    """Another name for the caller's org."""

    model_config = example(name="Acme Holdings")

    name: Name


class ConfigureOrg(BaseModel):
    """Settings of the caller's org; what is left out stays as it is."""

    model_config = example(members_may_work=False)

    members_may_work: Annotated[
        bool | None, Field(description="Whether members may submit, start, retry and cancel in their company.")
    ] = None
    sign_in_rules: Annotated[
        list[SignInRule] | None,
        Field(max_length=RULES_MAX, description="Which sessions become users by themselves; the first match counts."),
    ] = None


@router.post("/get", response_model=Org)
async def get(body: Empty, call: Authenticated) -> Org:
    """The caller's org."""
    scope = await call.caught_up(body.min_position)
    row = dict(answers.found(await administration.org(call.gateway.reader, scope), "org", call.org_id))
    row["sign_in_rules"] = _RULES.validate_json(row["sign_in_rules"]) if call.auth.role == "org_admin" else None
    return Org.model_validate(row)


@router.post("/rename", response_model=Done)
async def rename(body: RenameOrg, call: Authenticated) -> Response:
    """Give the caller's org another name."""
    envelope = call.envelope(body)
    command = commands.RenameOrg(**envelope.fields(), aggregate_id=call.org_id, name=body.name)
    return await answers.do(call, envelope, command, 200)


@router.post("/configure", response_model=Withdrawn)
async def configure(body: ConfigureOrg, call: Authenticated) -> Response:
    """Change what members may do, and which sessions are let in; in force everywhere once this has answered so."""
    names = [rule.name for rule in body.sign_in_rules or ()]
    if len(set(names)) < len(names):
        raise invalid("/sign_in_rules", "Two rules have the same name.")
    envelope = call.envelope(body)
    command = commands.ConfigureOrg(
        **envelope.fields(),
        aggregate_id=call.org_id,
        members_may_work=body.members_may_work,
        sign_in_rules=None if body.sign_in_rules is None else tuple(body.sign_in_rules),
    )
    return await answers.withdraw(call, envelope, command)
