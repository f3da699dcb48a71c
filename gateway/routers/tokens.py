"""API tokens. A secret is shown once, when it is made; of it only the hash is kept, and that in no event."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.administration import TOKEN, USER
from events.context import Role
from events.errors import PermissionError_
from events.secrets import TOKEN_PREFIX, Secret
from gateway import answers, cursors
from gateway.calls import Authenticated, Call, CallRoute
from gateway.issue import issue
from gateway.models import (
    ID_EXAMPLE,
    OTHER_ID_EXAMPLE,
    TIME_EXAMPLE,
    Done,
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
from gateway.visibility import must_see
from projections.queries import administration
from projections.queries.reader import Row

YEAR_S = 366 * 86_400
EXAMPLE = "dex_3fGhK0aZ1bY2cX3dW4eV5fU6gT7hS8iR9jQ0kP1lO2m"

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], route_class=CallRoute)


class Token(BaseModel):
    """An API token: it acts as its user, within its own role and company. `hint` is its beginning.

    `role` is null for a token that may all that its user may; `last_used_at` is right to a minute or so.
    """

    model_config = shown(
        token_id=ID_EXAMPLE,
        user_id=OTHER_ID_EXAMPLE,
        company_id=OTHER_ID_EXAMPLE,
        role="member",
        name="crm sync",
        hint="dex_3fGh",
        active=True,
        expires_at=TIME_EXAMPLE,
        last_used_at=None,
        created_at=TIME_EXAMPLE,
        rotated_at=None,
        revoked_at=None,
        position=11,
    )

    token_id: Id
    user_id: Id
    company_id: Id | None
    role: Role | None
    name: str
    hint: str
    active: bool
    expires_at: Timestamp | None
    last_used_at: Timestamp | None
    created_at: Timestamp
    rotated_at: Timestamp | None
    revoked_at: Timestamp | None
    position: Position


ExpiresInS = Annotated[
    int | None, Field(ge=60, le=10 * YEAR_S, description="Seconds until the token ends by itself; null: it does not.")
]


class CreateToken(BaseModel):
    """A token to be. `role` and `company_id` narrow what its user may; left out, it may the same."""

    model_config = example(user_id=OTHER_ID_EXAMPLE, name="crm sync", role="member", expires_in_s=7_776_000)

    user_id: Id
    name: Name
    role: Role | None = None
    company_id: Id | None = None
    expires_in_s: ExpiresInS = None


class TokenCreated(Done):
    """The new token's id and, this once, the token itself; null when the call repeats an earlier one."""

    model_config = shown(
        token_id=ID_EXAMPLE,
        token=EXAMPLE,
        hint="dex_3fGh",
        position=11,
        repeated=False,
    )

    token_id: Id
    token: Annotated[str | None, Field(description="The secret. Keep it now; it is shown once.")]
    hint: str | None


class RotateToken(BaseModel):
    """Which token gets a new secret, and how long the present one stays valid beside it."""

    model_config = example(token_id=ID_EXAMPLE, overlap_s=3600)

    token_id: Id
    overlap_s: Annotated[int, Field(ge=0, le=30 * 86_400, description="Seconds for which both are valid.")] = 86_400
    expires_in_s: ExpiresInS = None


class TokenRotated(TokenCreated):
    """The token's new secret, this once. With `overlap_s: 0`, `in_force` says whether the old one is out of use."""

    model_config = shown(
        token_id=ID_EXAMPLE, token=EXAMPLE, hint="dex_3fGh", position=42, repeated=False, in_force=True
    )

    in_force: bool


class OneToken(Query):
    """Which token."""

    model_config = example(token_id=ID_EXAMPLE)

    token_id: Id


class RevokeToken(BaseModel):
    """Which token."""

    model_config = example(token_id=ID_EXAMPLE)

    token_id: Id


class TokenRevoked(Withdrawn):
    """The token is used no more."""

    model_config = shown(token_id=ID_EXAMPLE, position=42, repeated=False, in_force=True)

    token_id: Id


class ListTokens(PageQuery):
    """Which tokens."""

    model_config = example(user_id=OTHER_ID_EXAMPLE, active=True)

    user_id: Id | None = None
    active: bool | None = None


@router.post("/create", status_code=201, response_model=TokenCreated)
async def create(body: CreateToken, call: Authenticated) -> Response:
    """Make a token for a user. Never deferred: its secret could not be shown again."""
    await must_see(call, USER, body.user_id)
    if body.role is not None:
        check_grant(call.auth, body.role)
    envelope = call.envelope(body)
    token_id = envelope.new_id(TOKEN)
    secret = await issue(call, TOKEN_PREFIX)
    command = commands.CreateToken(
        **envelope.fields(),
        aggregate_id=token_id,
        name=body.name,
        user_id=body.user_id,
        hint=secret.hint,
        secret_id=secret.secret_id,
        role=body.role,
        company_id=body.company_id,
        expires_in_s=body.expires_in_s,
    )
    outcome = await call.gateway.commands.send_now(command)
    return answers.accepted(outcome, 201, token_id=token_id, **_shown_once(secret, repeated=outcome.repeated))


@router.post("/rotate", response_model=TokenRotated)
async def rotate(body: RotateToken, call: Authenticated) -> Response:
    """Give a token a new secret. Never deferred: it could not be shown again."""
    await must_see(call, TOKEN, body.token_id)
    await _must_hold(call, body.token_id)
    envelope = call.envelope(body)
    secret = await issue(call, TOKEN_PREFIX)
    command = commands.RotateToken(
        **envelope.fields(),
        aggregate_id=body.token_id,
        hint=secret.hint,
        secret_id=secret.secret_id,
        overlap_s=body.overlap_s,
        expires_in_s=body.expires_in_s,
    )
    outcome = await call.gateway.commands.send_now(command)
    in_force = await answers.in_force(call, outcome.position)
    fields = _shown_once(secret, repeated=outcome.repeated)
    return answers.accepted(outcome, 200, token_id=body.token_id, **fields, in_force=in_force)


@router.post("/get", response_model=Token)
async def get(body: OneToken, call: Authenticated) -> Token:
    """One token; never its secret."""
    scope = await call.caught_up(body.min_position)
    row = await administration.token(call.gateway.reader, scope, body.token_id)
    return _token(answers.found(row, "token", body.token_id))


@router.post("/list", response_model=Page[Token])
async def list_(body: ListTokens, call: Authenticated) -> Page[Token]:
    """Tokens, newest first; those of users that the caller may see."""
    scope = await call.caught_up(body.min_position)
    rows = await administration.tokens(
        call.gateway.reader,
        scope,
        cursors.before(body.cursor),
        body.limit + 1,
        body.user_id,
        body.active,
    )
    return answers.page(rows, body.limit, _token)


@router.post("/revoke", response_model=TokenRevoked)
async def revoke(body: RevokeToken, call: Authenticated) -> Response:
    """Revoke a token: it may be used no more once this has answered with `in_force`."""
    await must_see(call, TOKEN, body.token_id)
    envelope = call.envelope(body)
    command = commands.RevokeToken(**envelope.fields(), aggregate_id=body.token_id)
    return await answers.withdraw(call, envelope, command, token_id=body.token_id)


async def _must_hold(call: Call, token_id: str) -> None:
    """A caller of one company gets no secret that acts as a user of the whole org, also for its own company."""
    if call.within is None:
        return
    row = await administration.token(call.gateway.reader, call.scope, token_id)
    if row is not None and await administration.user(call.gateway.reader, call.scope, row["user_id"]) is None:
        raise PermissionError_("The token acts as a user of the whole org; the org's admins rotate it.")


def _shown_once(secret: Secret, *, repeated: bool) -> dict[str, str | None]:
    return {"token": None, "hint": None} if repeated else {"token": secret.text, "hint": secret.hint}


def _token(row: Row) -> Token:
    return Token.model_validate(dict(row))
