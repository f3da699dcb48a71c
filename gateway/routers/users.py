"""The users of an org."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.administration import USER
from events.context import Actor, Role
from events.errors import NotFoundError, StateConflictError
from events.ids import derive_id
from events.secrets import INVITATION_PREFIX, verifier_of
from gateway import answers, cursors
from gateway.calls import Authenticated, Call, CallRoute, SessionOnly
from gateway.commands import digest_of
from gateway.issue import issue
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
from projections.queries import access, administration
from projections.queries.reader import Row

router = APIRouter(prefix="/v1/users", tags=["users"], route_class=CallRoute)


class User(BaseModel):
    """A user: somebody, or something, that may act. `identity` is the `sub` of its sessions, once one is linked."""

    model_config = shown(
        user_id=ID_EXAMPLE,
        company_id=OTHER_ID_EXAMPLE,
        email="ada@globex.example",
        name="Ada",
        role="member",
        identity=None,
        active=True,
        invitation_expires_at=None,
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
    invitation_expires_at: Timestamp | None
    created_at: Timestamp
    deactivated_at: Timestamp | None
    position: Position


class CreateUser(BaseModel):
    """A user to be, who acts by API tokens. An `org_admin` belongs to no company; every other role belongs to one."""

    model_config = example(email="ada@globex.example", name="Ada", role="member", company_id=OTHER_ID_EXAMPLE)

    email: Email
    name: Name | None = None
    role: Role
    company_id: Id | None = None


class InviteUser(CreateUser):
    """A user to be, who acts by sessions: those of whoever accepts the invitation."""

    model_config = example(email="ada@globex.example", role="member", company_id=OTHER_ID_EXAMPLE)

    expires_in_s: Annotated[int, Field(ge=60, le=30 * 86_400, description="Seconds to accept it in.")] = 7 * 86_400


class UserInvited(Done):
    """The new user's id and, this once, the invitation; null when the call repeats an earlier one."""

    model_config = shown(
        user_id=ID_EXAMPLE, invitation="dexi_3fGhK0aZ1bY2cX3dW4eV5fU6gT7hS8iR9jQ0kP1lO2m", position=9, repeated=False
    )

    user_id: Id
    invitation: Annotated[str | None, Field(description="Give it to the person; it is shown once.")]


class AcceptInvitation(BaseModel):
    """The invitation that the caller was given."""

    model_config = example(invitation="dexi_3fGhK0aZ1bY2cX3dW4eV5fU6gT7hS8iR9jQ0kP1lO2m")

    invitation: Annotated[str, Field(min_length=1, max_length=200)]


class InvitationAccepted(Done):
    """The user that the session acts as from now on."""

    model_config = shown(
        org_id=ID_EXAMPLE, user_id=ID_EXAMPLE, company_id=OTHER_ID_EXAMPLE, role="member", position=42, repeated=False
    )

    org_id: Id
    user_id: Id
    company_id: Id | None
    role: Role


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
    """Create a user that acts by API tokens, of the caller's role at most."""
    fields = _new_user(body, call)
    envelope = call.envelope(fields)
    user_id = envelope.new_id(USER)
    command = commands.CreateUser(**envelope.fields(), aggregate_id=user_id, **fields)
    return await answers.do(call, envelope, command, 201, user_id=user_id)


@router.post("/invite", status_code=201, response_model=UserInvited)
async def invite(body: InviteUser, call: Authenticated) -> Response:
    """Create a user that acts by sessions. Never deferred: the invitation could not be shown again."""
    fields = {**_new_user(body, call), "expires_in_s": body.expires_in_s}
    envelope = call.envelope(fields)
    user_id = envelope.new_id(USER)
    secret = await issue(call, INVITATION_PREFIX)
    command = commands.InviteUser(**envelope.fields(), aggregate_id=user_id, **fields, invitation_id=secret.secret_id)
    outcome = await call.gateway.commands.send_now(command)
    invitation = None if outcome.repeated else secret.text
    return answers.accepted(outcome, 201, user_id=user_id, invitation=invitation)


@router.post("/accept_invitation", response_model=InvitationAccepted)
async def accept_invitation(body: AcceptInvitation, call: SessionOnly) -> Response:
    """Become the invited user: the caller's sessions act as it from now on. Takes a session, not an API token."""
    gateway, identity = call.gateway, call.session.identity
    row = await access.open_invitation(gateway.reader, verifier_of(body.invitation))
    if row is None:
        raise NotFoundError("There is no such invitation, or it was accepted, or it has expired.")
    if any(user["org_id"] == row["org_id"] for user in await access.identity_callers(gateway.reader, identity)):
        raise StateConflictError("The session has a user in this org already.")
    command = commands.AcceptInvitation(
        command_id=derive_id(row["org_id"], "accept", row["invitation_id"], identity),
        org_id=row["org_id"],
        aggregate_id=row["user_id"],
        actor=Actor(method="jwt", user_id=row["user_id"], role=row["role"]),
        digest=digest_of({"invitation_id": row["invitation_id"], "identity": identity}),
        request_id=call.request_id,
        invitation_id=row["invitation_id"],
        identity=identity,
    )
    outcome = await gateway.commands.send_now(command)
    await gateway.signals.wait_position(outcome.position)
    ids = {name: row[name] for name in ("org_id", "user_id", "company_id", "role")}
    return answers.accepted(outcome, 200, **ids)


@router.post("/get", response_model=User)
async def get(body: OneUser, call: Authenticated) -> User:
    """One user."""
    scope = await call.caught_up(body.min_position)
    row = await administration.user(call.gateway.reader, scope, body.user_id)
    return _user(answers.found(row, "user", body.user_id))


@router.post("/list", response_model=Page[User])
async def list_(body: ListUsers, call: Authenticated) -> Page[User]:
    """Users, newest first; those that the caller may see."""
    scope = await call.caught_up(body.min_position)
    rows = await administration.users(
        call.gateway.reader,
        answers.narrowed(call, scope, body.company_id),
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
    if await administration.is_last_admin(call.gateway.reader, call.scope, body.user_id):
        raise StateConflictError("This is the org's last admin; nobody could let anybody in again.", code="last_admin")
    envelope = call.envelope(body)
    command = commands.DeactivateUser(**envelope.fields(), aggregate_id=body.user_id)
    return await answers.withdraw(call, envelope, command, user_id=body.user_id)


def _new_user(body: CreateUser, call: Call) -> dict[str, Any]:
    """What is asked for, within what the caller may give."""
    check_grant(call.auth, body.role)
    company_id = _company_of_new(body, call)
    return {"email": body.email, "name": body.name, "role": body.role, "company_id": company_id}


def _company_of_new(body: CreateUser, call: Call) -> str | None:
    if body.role == "org_admin":
        if body.company_id is not None:
            raise invalid("/company_id", "An org_admin belongs to no company.")
        return None
    return company_for(call.auth, body.company_id)


def _user(row: Row) -> User:
    return User.model_validate(dict(row))
