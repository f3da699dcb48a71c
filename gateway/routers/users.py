"""The users of an org."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.administration import USER
from events.context import Role
from gateway import answers, cursors
from gateway.calls import Authenticated, Call, CallRoute
from gateway.models import (
    ID_EXAMPLE,
    OTHER_ID_EXAMPLE,
    TIME_EXAMPLE,
    Done,
    Email,
    Id,
    Name,
    Page,
    PageQuery,
    Position,
    Query,
    Timestamp,
    Withdrawn,
    example,
    shown,
)
from gateway.permissions import check_grant
from gateway.problems import invalid
from gateway.visibility import company_for, must_see
from projections.queries import administration
from projections.queries.reader import Row

router = APIRouter(prefix="/v1/users", tags=["users"], route_class=CallRoute)


class User(BaseModel):
    """A user: somebody, or something, that may act."""

    model_config = shown(
        user_id=ID_EXAMPLE,
        company_id=OTHER_ID_EXAMPLE,
        email="ada@globex.example",
        name="Ada",
        role="member",
        identity=None,
        active=True,
        created_at=TIME_EXAMPLE,
        deactivated_at=None,
        position=9,
    )

    user_id: Id
    company_id: Id | None
    email: str
    name: str | None
    role: Role
    identity: str | None
    active: bool
    created_at: Timestamp
    deactivated_at: Timestamp | None
    position: Position


class CreateUser(BaseModel):
    """A user to be. An `org_admin` belongs to no company; every other role belongs to one."""

    model_config = example(email="ada@globex.example", name="Ada", role="member", company_id=OTHER_ID_EXAMPLE)

    email: Email
    name: Name | None = None
    role: Role
    company_id: Id | None = None
    identity: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="The `sub` of the user's sessions; none for a user with API tokens only.",
        ),
    ] = None


class UserCreated(Done):
    """The new user's id."""

    model_config = shown(user_id=ID_EXAMPLE, position=9, repeated=False)

    user_id: Id


class OneUser(Query):
    """Which user."""

    model_config = example(user_id=ID_EXAMPLE)

    user_id: Id


class DeactivateUser(BaseModel):
    """Which user."""

    model_config = example(user_id=ID_EXAMPLE)

    user_id: Id


class UserDeactivated(Withdrawn):
    """The user acts no more."""

    model_config = shown(user_id=ID_EXAMPLE, position=42, repeated=False, in_force=True)

    user_id: Id


class ListUsers(PageQuery):
    """Which users."""

    model_config = example(company_id=OTHER_ID_EXAMPLE, role="member", active=True)

    company_id: Id | None = None
    role: Role | None = None
    active: bool | None = None


@router.post("/create", status_code=201, response_model=UserCreated)
async def create(body: CreateUser, call: Authenticated) -> Response:
    """Create a user, of the caller's role at most."""
    check_grant(call.auth, body.role)
    company_id = _company_of_new(body, call)
    envelope = call.envelope({**body.model_dump(), "company_id": company_id})
    user_id = envelope.new_id(USER)
    command = commands.CreateUser(
        **envelope.fields(),
        aggregate_id=user_id,
        email=body.email,
        name=body.name,
        role=body.role,
        company_id=company_id,
        identity=body.identity,
    )
    return await answers.do(call, envelope, command, 201, user_id=user_id)


@router.post("/get", response_model=User)
async def get(body: OneUser, call: Authenticated) -> User:
    """One user."""
    await call.caught_up(body.min_position)
    row = await administration.user(call.gateway.reader, call.org_id, call.within, body.user_id)
    return _user(answers.found(row, "user", body.user_id))


@router.post("/list", response_model=Page[User])
async def list_(body: ListUsers, call: Authenticated) -> Page[User]:
    """Users, newest first; those that the caller may see."""
    await call.caught_up(body.min_position)
    rows = await administration.users(
        call.gateway.reader,
        call.org_id,
        answers.narrowed(call, body.company_id),
        cursors.before(body.cursor),
        body.limit + 1,
        body.role,
        body.active,
    )
    return answers.page(rows, body.limit, _user)


@router.post("/deactivate", response_model=UserDeactivated)
async def deactivate(body: DeactivateUser, call: Authenticated) -> Response:
    """Deactivate a user: its tokens and sessions may act no more once this has answered with `in_force`."""
    await must_see(call, USER, body.user_id)
    envelope = call.envelope(body)
    command = commands.DeactivateUser(**envelope.fields(), aggregate_id=body.user_id)
    return await answers.withdraw(call, envelope, command, user_id=body.user_id)


def _company_of_new(body: CreateUser, call: Call) -> str | None:
    if body.role == "org_admin":
        if body.company_id is not None:
            raise invalid("/company_id", "An org_admin belongs to no company.")
        return None
    return company_for(call.auth, body.company_id)


def _user(row: Row) -> User:
    return User.model_validate(dict(row))
