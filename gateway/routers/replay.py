"""The log as it goes on, line by line; and for any event, what caused it and what it caused."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from events.errors import DataEngineError, NotFoundError
from events.model import Recorded
from gateway import answers
from gateway.calls import Authenticated, Call, CallRoute
from gateway.cursors import POSITION_MAX
from gateway.history import LogView, hidden_from
from gateway.models import Id, Position, Query, example, shown
from gateway.problems import ProjectionBehindError, from_error, invalid
from gateway.routers.events import DECISION_EXAMPLE, Decision, Wanted, must_exist, selection, shown_decision
from gateway.streams import MEDIA_TYPE, LineStream
from projections.queries.history import Filters

PAGE = 100
HEARTBEAT_S = 10.0
LOOK_AGAIN_S = 0.2
"""So long after a look that found nothing the log is looked at again."""
CAUSES_MAX = 100
CAUSED_MAX = 500

LINE_EXAMPLE = orjson.dumps({**DECISION_EXAMPLE, "events": []}).decode() + '\n{"position":7,"end":true}\n'

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=CallRoute)


class StreamEvents(Wanted, Query):
    """Which decisions, and whether to wait for more. To go on later, give the last line's position."""

    model_config = example(after_position=0, follow=False)

    follow: Annotated[bool, Field(description="Go on with what is recorded from now on.")] = False
    heartbeat_s: Annotated[
        float, Field(ge=1, le=60, description="After so long without a decision a line tells how far we are.")
    ] = HEARTBEAT_S


@router.post(
    "/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Lines of JSON, each with a `position`: a decision as `events/list` has it; "
            "`heartbeat`: nothing else up to here; `problem`: it ends by this; `end`: that was all.",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": LINE_EXAMPLE}},
        }
    },
)
async def stream(body: StreamEvents, call: Authenticated) -> Response:
    """The log's decisions in its order, one a line, from a position on."""
    scope = await call.caught_up(body.min_position)
    scope, filters = await selection(call, scope, body)
    await must_exist(call, body)
    leave = call.gateway.streams.enter(call.org_id)
    return LineStream(_lines(call, LogView(call, scope, filters), body), leave)


async def _lines(call: Call, view: LogView, body: StreamEvents) -> AsyncGenerator[bytes, None]:
    """A page of decisions at a time. Whoever loses access meanwhile gets a last line that says so."""
    signals, now_s = call.gateway.signals, asyncio.get_running_loop().time
    at, before = body.after_position, POSITION_MAX if body.before_position is None else body.before_position
    told_s = now_s()
    try:
        while True:
            await call.still_allowed()
            known = signals.position  # what is projected was recorded: the log is read after this
            looked_s = now_s()
            part = await view.forward(at, before, PAGE)
            for recorded in part.found:
                at, told_s = recorded.position, now_s()
                yield _line(shown_decision(recorded))
            at = max(at, part.reached)
            if now_s() >= told_s + body.heartbeat_s:
                yield _line({"position": at, "heartbeat": datetime.now(UTC)})
                told_s = now_s()
            if part.following is not None:
                continue
            if not body.follow or at >= before - 1:
                yield _line({"position": at, "end": True})
                return
            if signals.closing:
                return  # without an end, as what breaks off: who follows goes on at another gateway
            # Not on to `known`: a replica of the log that is behind may not have shown what is before it.
            with contextlib.suppress(ProjectionBehindError):
                await signals.wait_position(max(at, known) + 1, told_s + body.heartbeat_s - now_s())
            if not part.found:  # others wake us too, however busy they are
                await asyncio.sleep(max(0.0, looked_s + LOOK_AGAIN_S - now_s()))
    except DataEngineError as error:
        answer = from_error(error, call.request_id)
        yield _line({"position": at, "problem": orjson.Fragment(bytes(answer.body))})


def _line(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


class TraceEvent(Query):
    """Which decision: by its position, or by its id."""

    model_config = example(position=7)

    position: Position | None = None
    decision_id: Id | None = None


class Trace(BaseModel):
    """A decision, what caused it (the first cause first), and what it caused, directly or not, by position.

    `causation_id` of each says which one caused it; a decision that a command made has the command's id itself.
    `complete` is false when there is more than is shown.
    """

    model_config = shown(decision=DECISION_EXAMPLE, causes=[], caused=[], complete=True)

    decision: Decision
    causes: list[Decision]
    caused: list[Decision]
    complete: bool


@router.post("/trace", response_model=Trace)
async def trace(body: TraceEvent, call: Authenticated) -> Response:
    """What caused a decision, and what it caused: of all that, what the caller may see."""
    if (body.position is None) == (body.decision_id is None):
        raise invalid("/position", "Give either position or decision_id.")
    scope = await call.caught_up(body.min_position)
    view = LogView(call, scope, Filters(hidden=hidden_from(call)))
    with call.gateway.history_reads.one_more(call.org_id):
        tail, complete = await view.tail()
        found = await view.one(body.position, body.decision_id, tail)
        if found is None:
            raise NotFoundError("There is no such decision.")
        causes, is_first = await _causes(view, found, tail)
        caused, is_last = await _caused(view, found, tail)
    return answers.json_response(
        {
            "decision": shown_decision(found),
            "causes": [shown_decision(one) for one in causes],
            "caused": [shown_decision(one) for one in caused],
            "complete": complete and is_first and is_last,
        }
    )


async def _causes(view: LogView, of: Recorded, tail: list[Recorded]) -> tuple[list[Recorded], bool]:
    """Up the chain; and whether it is whole. A cause is at a lower position, so the chain ends."""
    chain: list[Recorded] = []
    while len(chain) < CAUSES_MAX:
        cause_id = of.decision.causation_id
        if cause_id in (None, of.decision.decision_id):
            return chain[::-1], True
        cause = await view.one(None, cause_id, tail)
        if cause is None or cause.position >= of.position:
            return chain[::-1], True  # a command that is no decision, or one that the caller does not see
        chain.append(cause)
        of = cause
    return chain[::-1], False


async def _caused(view: LogView, of: Recorded, tail: list[Recorded]) -> tuple[list[Recorded], bool]:
    """Down the tree, a generation at a time; and whether it is whole."""
    found: dict[int, Recorded] = {}
    generation = [of]
    while generation and len(found) <= CAUSED_MAX:
        ids = [recorded.decision.decision_id for recorded in generation]
        caused = await view.caused_by(ids, CAUSED_MAX + 1, tail)
        generation = [one for one in caused if one.position not in found and one.position != of.position]
        found |= {one.position: one for one in generation}
    return [found[position] for position in sorted(found)][:CAUSED_MAX], len(found) <= CAUSED_MAX
