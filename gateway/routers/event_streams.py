"""The log as it grows, and what led to what in it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from events.errors import NotFoundError
from events.model import Recorded
from gateway import answers
from gateway.calls import Authenticated, Call, CallRoute
from gateway.journal import PAGE_DECISIONS, Journal
from gateway.models import Id, Position, Query, example, shown
from gateway.problems import ProjectionBehindError, invalid
from gateway.routers.events import DECISION_EXAMPLE, Decision, Filters, checked, item_of, wanted_of
from projections.queries.reader import Scope

HEARTBEAT_S = 15.0
PACE_S = 0.1
"""A stream looks into the log so often at most, however fast that grows: what came meanwhile goes out together."""
CAUSES_MAX, EFFECTS_MAX = 50, 200

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=CallRoute)


class StreamEvents(Filters):
    """Which decisions, from where on, and whether to wait for more."""

    model_config = example(after_position=0, follow=False)

    follow: Annotated[
        bool, Field(description="Stay, and be sent each further decision; else the stream ends with the log.")
    ] = False


class TraceEvent(Query):
    """Which decision: its position, or its id."""

    model_config = example(position=7)

    position: Annotated[Position | None, Field(ge=1)] = None
    decision_id: Id | None = None


class Trace(BaseModel):
    """A decision, what caused it (the nearest first), and what it caused, directly and through others, by position.

    A decision names its cause: `causation_id` is the `decision_id` of it.
    """

    model_config = shown(decision=DECISION_EXAMPLE, causes=[], effects=[DECISION_EXAMPLE], more_effects=False)

    decision: Decision
    causes: list[Decision]
    effects: list[Decision]
    more_effects: Annotated[bool, Field(description=f"There are more than {EFFECTS_MAX}.")]


@router.post(
    "/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": 'One JSON object a line: a decision, or `{"position": …}` alone as a sign of life. Go on '
            "with the last line's position as `after_position`.",
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": orjson.dumps(DECISION_EXAMPLE).decode(),
                }
            },
        }
    },
)
async def stream(body: StreamEvents, call: Authenticated) -> Response:
    """The log's decisions, one a line, in its order."""
    scope = await checked(body, call)
    slot = ExitStack()
    slot.enter_context(call.gateway.streams.one_more(call.org_id))  # refused before the answer begins
    return _Stream(_lines(body, call, scope), slot)


@router.post("/trace", response_model=Trace)
async def trace(body: TraceEvent, call: Authenticated) -> Response:
    """What led to a decision, and what followed from it."""
    if (body.position is None) == (body.decision_id is None):
        raise invalid("/position", "Give a position or a decision_id: one of the two.")
    journal = Journal(call, await call.caught_up(body.min_position))
    if body.position is not None:
        found = await journal.at(body.position)
    else:
        assert body.decision_id is not None
        found = await journal.by_id(body.decision_id)
    if found is None:
        raise NotFoundError("There is no such decision.")
    effects = await _effects(journal, found)
    return answers.json_response(
        {
            "decision": item_of(found),
            "causes": [item_of(recorded) for recorded in await _causes(journal, found)],
            "effects": [item_of(recorded) for recorded in effects[:EFFECTS_MAX]],
            "more_effects": len(effects) > EFFECTS_MAX,
        }
    )


class _Stream(StreamingResponse):
    """An answer that gives its slot back when it is over, however that comes."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncIterator[bytes], slot: ExitStack) -> None:
        super().__init__(lines)
        self._slot = slot

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        with self._slot:
            await super().__call__(scope, receive, send)


async def _lines(body: StreamEvents, call: Call, scope: Scope) -> AsyncIterator[bytes]:
    """Decisions as they are found. Whoever loses access meanwhile gets no more: the connection breaks off."""
    journal, wanted, after = Journal(call, scope), wanted_of(body), body.after_position
    while True:
        seen = call.gateway.signals.position
        archived = await journal.head()  # a replica of the hot log may be behind; the archive is not behind itself
        following: int | None = after
        while following is not None:
            page, following = await journal.page(wanted, after, PAGE_DECISIONS)
            await call.still_allowed()
            for recorded in page:
                yield orjson.dumps(item_of(recorded), option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
            after = following or max(after, archived, *(recorded.position for recorded in page))
        if not body.follow or call.gateway.signals.closing:
            return
        try:
            await call.gateway.signals.wait_position(seen + 1, HEARTBEAT_S)
            await asyncio.sleep(PACE_S)  # what else comes in this moment goes with it
        except ProjectionBehindError:
            await call.still_allowed()
            yield orjson.dumps({"position": after}, option=orjson.OPT_APPEND_NEWLINE)


async def _causes(journal: Journal, of: Recorded) -> list[Recorded]:
    found: list[Recorded] = []
    while of.decision.causation_id is not None and len(found) < CAUSES_MAX:
        cause = await journal.by_id(of.decision.causation_id)
        if cause is None or cause.position == of.position:  # a command's decision is caused by the command
            break
        found.append(cause)
        of = cause
    return found


async def _effects(journal: Journal, of: Recorded) -> list[Recorded]:
    """Breadth first, one more than are shown if there are more; by position."""
    found: dict[int, Recorded] = {of.position: of}
    latest = [of.decision.decision_id]
    while latest and len(found) <= EFFECTS_MAX:
        caused = await journal.caused_by(latest, EFFECTS_MAX + 1)
        fresh = [recorded for recorded in caused if recorded.position not in found]
        found |= {recorded.position: recorded for recorded in fresh}
        latest = [recorded.decision.decision_id for recorded in fresh]
    return [found[position] for position in sorted(found) if position != of.position]
