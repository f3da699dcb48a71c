"""The log itself, as a tenant may see it: who decided what, when, and in which order."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

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
from gateway.journal import Journal, Wanted
from gateway.models import ID_EXAMPLE, OTHER_ID_EXAMPLE, TIME_EXAMPLE, Id, Position, Query, Timestamp, example, shown
from gateway.problems import invalid
from gateway.visibility import must_see
from projections.queries import work
from projections.queries.journal import Order
from projections.queries.reader import Scope

LIMIT_DEFAULT, LIMIT_MAX = 100, 500
RUNS_MAX = 100
READS_AT_ONCE = 16
_END = 2**63 - 1

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
    "kind": "company",
    "id": OTHER_ID_EXAMPLE,
    "version": 1,
    "company_id": OTHER_ID_EXAMPLE,
    "decision_id": ID_EXAMPLE,
    "causation_id": None,
    "actor": {"method": "api_token", "user_id": ID_EXAMPLE, "token_id": ID_EXAMPLE, "role": "org_admin"},
    "correlation_id": None,
    "request_id": ID_EXAMPLE,
    "events": [{"topic": "company.created", "class_version": 1, "data": {"name": "Globex"}}],
}


class Decision(BaseModel):
    """One entry of the log: the events that were decided together, about one thing."""

    model_config = shown(**DECISION_EXAMPLE)

    position: Position
    at: Timestamp
    kind: str
    id: str
    version: int
    company_id: str | None
    decision_id: str
    causation_id: Annotated[str | None, Field(description="The decision that caused this one: its decision_id.")]
    actor: Actor
    correlation_id: str | None
    request_id: str | None
    events: list[EventData]


class Filters(Query):
    """Which decisions: of one thing, and among them those that fit all that is said."""

    submission_id: Annotated[Id | None, Field(description="Of the submission and its runs.")] = None
    run_id: Id | None = None
    company_id: Id | None = None
    user_id: Annotated[Id | None, Field(description="Decided by this user.")] = None
    kind: Annotated[
        str | None, Field(pattern=r"^[a-z_]{1,64}$", description="Of this kind of thing: run, company, user, …")
    ] = None
    topic: Annotated[
        str | None, Field(pattern=r"^[a-z_.]{1,64}$", description="With an event of this topic: run.failed, …")
    ] = None
    since: Annotated[datetime | None, Field(strict=False, description="Decided at this time or later.")] = None
    until: Annotated[datetime | None, Field(strict=False, description="Decided before this time.")] = None
    after_position: Position = 0


class ListEvents(Filters):
    """Which part of the log, and in which order."""

    model_config = example(submission_id=ID_EXAMPLE, after_position=0)

    order: Order = "oldest_first"
    before_position: Annotated[Position | None, Field(description="With `newest_first`: from below this one.")] = None
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT


class Decisions(BaseModel):
    """Decisions by position. Go on with `after_position: next_after_position`, or newest first with `before_position:
    next_before_position`, until that is null. A page may be empty and not the last."""

    model_config = shown(items=[DECISION_EXAMPLE], next_after_position=7, next_before_position=None)

    items: list[Decision]
    next_after_position: Position | None
    next_before_position: Position | None


@router.post("/list", response_model=Decisions)
async def list_(body: ListEvents, call: Authenticated) -> Response:
    """The log's decisions, in its order or from its end."""
    newest_first = body.order == "newest_first"
    if body.before_position is not None and not newest_first:
        raise invalid("/before_position", "This goes with order newest_first; oldest_first takes after_position.")
    if body.after_position and newest_first:
        raise invalid("/after_position", "This goes with order oldest_first; newest_first takes before_position.")
    scope = await checked(body, call)
    wanted, journal = wanted_of(body), Journal(call, scope)
    following: int | None
    if body.submission_id is not None or body.run_id is not None:
        found, following = await _of_thing(call, scope, body)
        found = [recorded for recorded in found if wanted.holds(recorded.decision)]
    elif newest_first:
        found, following = await journal.page_back(wanted, body.before_position, body.limit)
    else:
        found, following = await journal.page(wanted, body.after_position, body.limit)
    return answers.json_response(
        {
            "items": [item_of(recorded) for recorded in found],
            "next_after_position": None if newest_first else following,
            "next_before_position": following if newest_first else None,
        }
    )


async def checked(body: Filters, call: Call) -> Scope:
    """The scope of a call, which may name what it names. Raises InvalidInputError, NotFoundError."""
    if body.submission_id is not None and body.run_id is not None:
        raise invalid("/run_id", "Give a submission_id or a run_id, not both.")
    for name in ("since", "until"):
        time: datetime | None = getattr(body, name)
        if time is not None and time.tzinfo is None:
            raise invalid(f"/{name}", "Give a time with its zone, 2026-05-01T12:00:00Z for instance.")
    scope = answers.narrowed(call, await call.caught_up(body.min_position), body.company_id)
    if body.submission_id is not None:
        await must_see(call, SUBMISSION, body.submission_id)
    if body.run_id is not None:
        await must_see(call, RUN, body.run_id)
    return scope


def wanted_of(body: Filters) -> Wanted:
    """The filters, as what every decision tells for itself."""
    return Wanted(
        body.company_id, body.user_id, body.kind, body.topic, body.run_id, body.submission_id, body.since, body.until
    )


async def _of_thing(call: Call, scope: Scope, body: ListEvents) -> tuple[list[Recorded], int | None]:
    """The decisions of a run, or of a submission with its runs; the position where to go on."""
    if body.run_id is not None:
        history = await call.gateway.log.history(call.org_id, RUN, body.run_id)
        answers.found_any(history, "run", body.run_id)
        return _cut(history, body, None)
    assert body.submission_id is not None
    return await _of_submission(call, scope, body, body.submission_id)


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
    return _cut([*own, *(recorded for part in of_runs for recorded in part)], body, before)


def _cut(found: list[Recorded], body: ListEvents, unread_from: int | None) -> tuple[list[Recorded], int | None]:
    """A page of these by position, and where to go on, if there is more. `unread_from`: where more would be found."""
    end = min(body.before_position or _END, unread_from or _END)
    newest_first = body.order == "newest_first"
    wanted = sorted(
        (recorded for recorded in found if body.after_position < recorded.position < end),
        key=lambda recorded: recorded.position,
        reverse=newest_first,
    )
    if len(wanted) > body.limit:
        return wanted[: body.limit], wanted[body.limit - 1].position
    return wanted, None if unread_from is None or newest_first else unread_from - 1


def item_of(recorded: Recorded) -> dict[str, Any]:
    """The decision as clients see it."""
    decision = recorded.decision
    return {
        "position": recorded.position,
        "at": decision.at,
        "kind": decision.kind,
        "id": decision.aggregate_id,
        "version": decision.version,
        "company_id": decision.company_id,
        "decision_id": decision.decision_id,
        "causation_id": decision.causation_id,
        "actor": decision.actor.model_dump(),
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
