"""The log itself, as a tenant may see it: who decided what, when, and in which order."""

import asyncio
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events.context import Actor
from events.ids import first_run_id
from events.model import Event, Recorded
from events.payload import Payload
from events.processing import RUN, SUBMISSION
from gateway import answers
from gateway.calls import Authenticated, Call, CallRoute
from gateway.cursors import POSITION_MAX
from gateway.history import LogView, Part, hidden_from
from gateway.models import ID_EXAMPLE, OTHER_ID_EXAMPLE, TIME_EXAMPLE, Id, Position, Query, Timestamp, example, shown
from gateway.moment import time_of
from gateway.problems import invalid
from gateway.visibility import must_see
from projections.queries import work
from projections.queries.history import Filters
from projections.queries.reader import Scope

LIMIT_DEFAULT, LIMIT_MAX = 100, 500
RUNS_MAX = 100
READS_AT_ONCE = 16
KIND = r"^[a-z][a-z_]{0,62}$"
TOPIC = r"^[a-z][a-z_]{0,62}\.[a-z][a-z_]{0,62}$"
TOPICS_MAX = 50

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=CallRoute)


class EventData(BaseModel):
    """One event. Records that are inline are left out (`results/get` gives them)."""

    model_config = shown(topic="company.created", class_version=1, data={"name": "Globex"})

    topic: str
    class_version: int
    data: dict[str, Any]


DECISION_EXAMPLE: dict[str, Any] = {
    "position": 7,
    "at": TIME_EXAMPLE,
    "recorded_at": TIME_EXAMPLE,
    "kind": "company",
    "id": OTHER_ID_EXAMPLE,
    "version": 1,
    "company_id": OTHER_ID_EXAMPLE,
    "decision_id": ID_EXAMPLE,
    "actor": {"method": "api_token", "user_id": ID_EXAMPLE, "token_id": ID_EXAMPLE, "role": "org_admin"},
    "causation_id": ID_EXAMPLE,
    "correlation_id": None,
    "request_id": ID_EXAMPLE,
    "events": [{"topic": "company.created", "class_version": 1, "data": {"name": "Globex"}}],
}


class Decision(BaseModel):
    """One entry of the log: the events that were decided together, about one thing."""

    model_config = shown(**DECISION_EXAMPLE)

    position: Position
    at: Timestamp
    recorded_at: Annotated[Timestamp | None, Field(description="The log's own time.")]
    kind: str
    id: str
    version: int
    company_id: str | None
    decision_id: str
    actor: Actor
    causation_id: Annotated[str | None, Field(description="The command or the decision that caused it.")]
    correlation_id: Annotated[str | None, Field(description="The submission that it belongs to.")]
    request_id: str | None
    events: list[EventData]


class Wanted(BaseModel):
    """Which decisions: those that every filter lets through. What the caller may not see is never among them."""

    model_config = example(kind="run", topics=["run.failed"])

    submission_id: Id | None = None
    run_id: Id | None = None
    company_id: Id | None = None
    user_id: Annotated[Id | None, Field(description="Who decided.")] = None
    kind: Annotated[str | None, Field(pattern=KIND, description="run, company, user, token, blueprint, …")] = None
    topics: Annotated[
        list[Annotated[str, Field(pattern=TOPIC)]] | None,
        Field(min_length=1, max_length=TOPICS_MAX, description="Decisions with an event of one of these topics."),
    ] = None
    recorded_from: Annotated[str | None, Field(max_length=40, description="RFC 3339; recorded then or later.")] = None
    recorded_until: Annotated[str | None, Field(max_length=40, description="RFC 3339; recorded before.")] = None
    after_position: Position = 0
    before_position: Position | None = None


class ListEvents(Wanted, Query):
    """Which part of the log: of a submission with its runs, of one run, or all that the caller may see."""

    model_config = example(submission_id=ID_EXAMPLE, after_position=0)

    order: Annotated[Literal["asc", "desc"], Field(description="asc: oldest first; desc: newest first.")] = "asc"
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT


class Decisions(BaseModel):
    """Decisions by position. Go on with `after_position: next_after_position` until that is null; newest first, with
    `before_position: next_before_position`, which only such an answer has.
    """

    model_config = shown(items=[DECISION_EXAMPLE], next_after_position=7)

    items: list[Decision]
    next_after_position: Position | None = None
    next_before_position: Position | None = None


@router.post("/list", response_model=Decisions)
async def list_(body: ListEvents, call: Authenticated) -> Response:
    """The log's decisions, in its order or newest first."""
    scope = await call.caught_up(body.min_position)
    scope, filters = await selection(call, scope, body)
    with call.gateway.history_reads.one_more(call.org_id):
        part = await _page(call, scope, filters, body)
    following = "next_after_position" if body.order == "asc" else "next_before_position"
    return answers.json_response({"items": [shown_decision(one) for one in part.found], following: part.following})


async def _page(call: Call, scope: Scope, filters: Filters, body: ListEvents) -> Part:
    after, before = body.after_position, POSITION_MAX if body.before_position is None else body.before_position
    if body.run_id is not None or (body.submission_id is not None and body.order == "asc"):
        return _cut(await _of_runs(call, scope, body), body, filters, scope.company_id)
    if body.order == "asc":
        return await LogView(call, scope, filters).forward(after, before, body.limit)
    await must_exist(call, body)
    return await LogView(call, scope, filters).backward(after, before, body.limit)


async def selection(call: Call, scope: Scope, body: Wanted) -> tuple[Scope, Filters]:
    """What is asked for, within what the caller may see. Raises InvalidInputError, NotFoundError."""
    if body.submission_id is not None and body.run_id is not None:
        raise invalid("/run_id", "Give a submission_id or a run_id, not both.")
    scope = answers.narrowed(call, scope, body.company_id)
    if body.submission_id is not None:
        await must_see(call, SUBMISSION, body.submission_id)
    if body.run_id is not None:
        await must_see(call, RUN, body.run_id)
    return scope, Filters(
        submission_id=body.submission_id,
        run_id=body.run_id,
        user_id=body.user_id,
        kind=body.kind,
        topics=None if body.topics is None else frozenset(body.topics),
        recorded_from=None if body.recorded_from is None else time_of(body.recorded_from, "/recorded_from"),
        recorded_until=None if body.recorded_until is None else time_of(body.recorded_until, "/recorded_until"),
        hidden=hidden_from(call),
    )


async def must_exist(call: Call, body: Wanted) -> None:
    """Raises NotFoundError when the run or the submission that is named is none of the org's."""
    for what, thing_id in ((RUN, body.run_id), (SUBMISSION, body.submission_id)):
        if thing_id is not None:
            run_id = thing_id if what == RUN else first_run_id(thing_id)
            first = await call.gateway.log.holder(call.org_id, RUN, run_id, 1)
            answers.found_any([] if first is None else [first], what, thing_id)


async def _of_runs(call: Call, scope: Scope, body: ListEvents) -> tuple[list[Recorded], int | None]:
    """The decisions of a run, or of a submission's runs; and before which position that is all, if it is not."""
    if body.submission_id is not None:
        return await _of_submission(call, scope, body, body.submission_id)
    assert body.run_id is not None
    history = await call.gateway.log.history(call.org_id, RUN, body.run_id)
    answers.found_any(history, "run", body.run_id)
    return history, None


async def _of_submission(
    call: Call, scope: Scope, body: ListEvents, submission_id: str
) -> tuple[list[Recorded], int | None]:
    """The decisions of its runs, merged: the first one's history has the submission too. At most RUNS_MAX runs."""
    log = call.gateway.log
    runs = await work.run_ids_of_submission(
        call.gateway.reader, scope, submission_id, body.after_position, RUNS_MAX + 1
    )
    before = runs[RUNS_MAX]["position"] if len(runs) > RUNS_MAX else None
    gate = asyncio.Semaphore(READS_AT_ONCE)

    async def history(kind: str, thing_id: str) -> list[Recorded]:
        async with gate:
            return await log.history(call.org_id, kind, thing_id)

    first = first_run_id(submission_id)
    own = await history(RUN, first)
    answers.found_any(own, "submission", submission_id)
    others = [row["run_id"] for row in runs[:RUNS_MAX] if row["run_id"] != first]
    of_runs = await asyncio.gather(*(history(RUN, run_id) for run_id in others))
    return [*own, *(recorded for part in of_runs for recorded in part)], before


def _cut(
    histories: tuple[list[Recorded], int | None], body: ListEvents, filters: Filters, company_id: str | None
) -> Part:
    """The page that is asked for of whole histories, which are complete up to `known_before`; and where to go on."""
    histories_, known_before = histories
    before = min(known_before or POSITION_MAX, body.before_position or POSITION_MAX)
    wanted = sorted(
        (
            one
            for one in histories_
            if body.after_position < one.position < before and _matches(one, filters, company_id)
        ),
        key=lambda recorded: recorded.position,
        reverse=body.order == "desc",
    )
    if len(wanted) > body.limit:
        wanted = wanted[: body.limit]
        return Part(wanted, wanted[-1].position, wanted[-1].position)
    more = known_before is not None and body.order == "asc" and (body.before_position or POSITION_MAX) > known_before
    return Part(wanted, known_before - 1 if more and known_before is not None else None, before)


def _matches(recorded: Recorded, filters: Filters, company_id: str | None) -> bool:
    """The histories are those that were asked for, so that only the other filters remain."""
    return replace(filters, submission_id=None, run_id=None).match(recorded, company_id)


def shown_decision(recorded: Recorded) -> dict[str, Any]:
    """A decision as clients see it, without the records that are inline."""
    decision = recorded.decision
    return {
        "position": recorded.position,
        "at": decision.at,
        "recorded_at": recorded.recorded_at,
        "kind": decision.kind,
        "id": decision.aggregate_id,
        "version": decision.version,
        "company_id": decision.company_id,
        "decision_id": decision.decision_id,
        "actor": decision.actor.model_dump(),
        "causation_id": decision.causation_id,
        "correlation_id": decision.correlation_id,
        "request_id": decision.request_id,
        "events": [_event(event) for event in decision.events],
    }


def _event(event: Event) -> dict[str, Any]:
    data = event.model_dump(mode="json", exclude={"originator_id", "originator_version"})
    for name in type(event).model_fields:
        if isinstance(getattr(event, name), Payload):
            del data[name]["inline"]
    return {"topic": event.TOPIC, "class_version": event.class_version, "data": data}
