"""API tokens. The secret is shown once, when the token is made, and is stored nowhere."""

import secrets
import string
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.administration import TOKEN, USER
from gateway import answers, cursors
from gateway.auth import TOKEN_PREFIX, verifier_of
from gateway.calls import Authenticated, CallRoute
from gateway.commands import Deferred
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
from gateway.visibility import must_see
from projections.queries import administration
from projections.queries.reader import Row

SECRET_CHARS = 43
HINT_CHARS = 8
_ALPHABET = string.digits + string.ascii_letters

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], route_class=CallRoute)


class Token(BaseModel):
    """An API token; `hint` is its beginning."""

    model_config = shown(
        token_id=ID_EXAMPLE,
        user_id=OTHER_ID_EXAMPLE,
        name="crm sync",
        hint="dex_3fGh",
        active=True,
        created_at=TIME_EXAMPLE,
        revoked_at=None,
        position=11,
    )

    token_id: Id
    user_id: Id
    name: str
    hint: str
    active: bool
    created_at: Timestamp
    revoked_at: Timestamp | None
    position: Position


class CreateToken(BaseModel):
    """A token to be."""

    model_config = example(user_id=OTHER_ID_EXAMPLE, name="crm sync")

    user_id: Id
    name: Name


class TokenCreated(Done):
    """The new token's id and, this once, the token itself; null when the call repeats an earlier one."""

    model_config = shown(
        token_id=ID_EXAMPLE,
        token="dex_3fGhK0aZ1bY2cX3dW4eV5fU6gT7hS8iR9jQ0kP1lO2m",
        hint="dex_3fGh",
        position=11,
        repeated=False,
    )

    token_id: Id
    token: Annotated[str | None, Field(description="The secret. Keep it now; it is shown once.")]
    hint: str | None


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
    envelope = call.envelope(body)
    token_id = envelope.new_id(TOKEN)
    token = TOKEN_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARS))
    hint = token[:HINT_CHARS]
    command = commands.CreateToken(
        **envelope.fields(),
        aggregate_id=token_id,
        name=body.name,
        user_id=body.user_id,
        hint=hint,
        verifier=verifier_of(token),
    )
    outcome = await call.gateway.commands.send(command, deferrable=False)
    assert not isinstance(outcome, Deferred), "a command that is not deferrable is never deferred"
    shown_once = (None, None) if outcome.repeated else (token, hint)
    return answers.accepted(outcome, 201, token_id=token_id, token=shown_once[0], hint=shown_once[1])


@router.post("/get", response_model=Token)
async def get(body: OneToken, call: Authenticated) -> Token:
    """One token; never its secret."""
    await call.caught_up(body.min_position)
    row = await administration.token(call.gateway.reader, call.org_id, call.within, body.token_id)
    return _token(answers.found(row, "token", body.token_id))


@router.post("/list", response_model=Page[Token])
async def list_(body: ListTokens, call: Authenticated) -> Page[Token]:
    """Tokens, newest first; those of users that the caller may see."""
    await call.caught_up(body.min_position)
    rows = await administration.tokens(
        call.gateway.reader,
        call.org_id,
        call.within,
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


def _token(row: Row) -> Token:
    return Token.model_validate(dict(row))
