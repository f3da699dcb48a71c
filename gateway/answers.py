"""From rows and outcomes to HTTP answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from events.commands import Accepted, Command
from events.errors import NotFoundError, UnavailableError
from events.logging import get_logger
from gateway import cursors
from gateway.calls import Call
from gateway.commands import Deferred, Envelope
from gateway.models import Page
from gateway.open_runs import Opening
from projections.queries.reader import Row, Scope

Model = TypeVar("Model", bound=BaseModel)

_logger = get_logger("gateway")

_DETAIL = (
    "No command service answers now. The command is kept and will be done; repeat the call with the same "
    "Idempotency-Key to get its answer."
)


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    """JSON as it is; times in UTC, RFC 3339."""
    return Response(orjson.dumps(content, option=orjson.OPT_UTC_Z), status, media_type="application/json")


def accepted(outcome: Accepted, status: int, **fields: Any) -> Response:
    """The answer to a command that is in the log."""
    return json_response({**fields, "position": outcome.position, "repeated": outcome.repeated}, status)


def deferred(envelope: Envelope, **ids: Any) -> Response:
    """202: the command waits on disk."""
    content = {
        "status": "deferred",
        "command_id": envelope.command_id,
        "idempotency_key": envelope.key,
        "detail": _DETAIL,
    }
    return json_response({**ids, **content}, 202)


async def do(
    call: Call, envelope: Envelope, command: Command, status: int, opening: Opening | None = None, **ids: Any
) -> Response:
    """Send a command and answer with its ids and its position."""
    outcome = await call.gateway.commands.send(command)
    if opening is not None:
        opening.settle(outcome)
    if isinstance(outcome, Deferred):
        return deferred(envelope, **ids)
    return accepted(outcome, status, **ids)


async def withdraw(call: Call, envelope: Envelope, command: Command, **ids: Any) -> Response:
    """Send a command that takes access away; answer when it has, so that the caller can rely on it."""
    outcome = await call.gateway.commands.send(command)
    if isinstance(outcome, Deferred):
        return deferred(envelope, **ids)
    return accepted(outcome, 200, **ids, in_force=await in_force(call, outcome.position))


async def in_force(call: Call, position: int) -> bool:
    """Whether a withdrawal of access that is at this position of the log holds now, on every gateway."""
    try:
        await call.gateway.signals.wait_position(position)
    except UnavailableError as error:
        _logger.warning("withdrawal_not_projected", position=position, error=error.message)
        return False
    await call.gateway.authenticator.watch.settle()
    return True


def narrowed(call: Call, scope: Scope, company_id: str | None) -> Scope:
    """The scope of a list that may be narrowed to a company, within what the caller may see."""
    if call.within is not None and company_id not in (None, call.within):
        raise NotFoundError(f"There is no company {company_id}.")
    return scope if company_id is None else replace(scope, company_id=company_id)


def found(row: Row | None, what: str, thing_id: str) -> Row:
    """The row. Raises NotFoundError, with the same words for what does not exist and what is another tenant's."""
    if row is None:
        raise NotFoundError(f"There is no {what} {thing_id}.")
    return row


def found_any(items: Sequence[object], what: str, thing_id: str) -> None:
    """Raises NotFoundError when a whole history is empty."""
    if not items:
        raise NotFoundError(f"There is no {what} {thing_id}.")


def page(rows: Sequence[Row], limit: int, build: Callable[[Row], Model]) -> Page[Model]:
    """A page of `limit` items from rows of which one more was asked for."""
    items = rows[:limit]
    following = cursors.encode(items[-1]["position"]) if len(rows) > limit else None
    return Page(items=[build(row) for row in items], next_cursor=following)
