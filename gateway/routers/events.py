"""The log itself, as a tenant may see it: who decided what, when, and in which order."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events.administration import TOKEN
from events.context import Actor
from events.ids import first_run_id
from events.model import Decision as LoggedDecision
from events.model import Event, Recorded
from events.payload import Payload
from events.processing import RUN, SUBMISSION
from gateway import answers
from gateway.calls import Authenticated, Call, CallRoute
from gateway.models import ID_EXAMPLE, OTHER_ID_EXAMPLE, TIME_EXAMPLE, Id, Position, Query, Timestamp, example, shown
from gateway.permissions import rule_of
from gateway.problems import invalid
from gateway.visibility import must_see
from projections.queries import work
from projections.queries.reader import Scope

LIMIT_DEFAULT, LIMIT_MAX = 100, 500
RUNS_MAX = 100
READS_AT_ONCE = 16
SCAN_MAX = 5_000
"""Decisions read for one page at most, when a caller sees only those of its company among them."""

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
    actor: Actor
    correlation_id: str | None
    request_id: str | None
    events: list[EventData]


class ListEvents(Query):
    """Which part of the log: of a submission with its runs, of one run, or all that the caller may see."""

    model_config = example(submission_id=ID_EXAMPLE, after_position=0)

    submission_id: Id | None = None
    run_id: Id | None = None
    after_position: Position = 0
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT


class Decisions(BaseModel):
    """Decisions by position. Go on with `after_position: next_after_position` until that is null."""

    model_config = shown(items=[DECISION_EXAMPLE], next_after_position=7)

    items: list[Decision]
    next_after_position: Position | None


@router.post("/list", response_model=Decisions)
async def list_(body: ListEvents, call: Authenticated) -> Response:
    """The log's decisions, in its order."""
    if body.submission_id is not None and body.run_id is not None:
        raise invalid("/run_id", "Give a submission_id or a run_id, not both.")
    scope = await call.caught_up(body.min_position)
    if body.submission_id is not None:
        await must_see(call, SUBMISSION, body.submission_id)
        found, following = await _of_submission(call, scope, body, body.submission_id)
    elif body.run_id is not None:
        await must_see(call, RUN, body.run_id)
        history = await call.gateway.log.history(call.org_id, RUN, body.run_id)
        answers.found_any(history, "run", body.run_id)
        found, following = _cut(history, body, None)
    else:
        found, following = await _of_org(call, body)
    return answers.json_response({"items": [_item(recorded) for recorded in found], "next_after_position": following})


async def _of_org(call: Call, body: ListEvents) -> tuple[list[Recorded], int | None]:
    """Through the log of the org; for a caller that is bound to a company, what is of its company."""
    found: list[Recorded] = []
    scanned = 0
    scan = call.gateway.log.read(body.after_position, f"events.{call.org_id}.>", limit=_scan_limit(call, body))
    async for recorded in scan:
        scanned += 1
        if _is_shown(call, recorded.decision):
            found.append(recorded)
        if len(found) == body.limit or scanned == SCAN_MAX:
            return found, recorded.position
    return found, None


def _is_shown(call: Call, decision: LoggedDecision) -> bool:
    """What is of the caller's company; tokens only to those who may list them."""
    if decision.kind == TOKEN and call.auth.role not in rule_of("/v1/tokens/list").roles:
        return False
    return call.within in (None, decision.company_id)


def _scan_limit(call: Call, body: ListEvents) -> int:
    return body.limit if call.within is None else SCAN_MAX


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


def _cut(found: list[Recorded], body: ListEvents, before: int | None) -> tuple[list[Recorded], int | None]:
    """By position, after the one asked for and below `before`; and where to go on, if there is more."""
    wanted = sorted(
        (
            recorded
            for recorded in found
            if recorded.position > body.after_position and (before is None or recorded.position < before)
        ),
        key=lambda recorded: recorded.position,
    )
    if len(wanted) > body.limit:
        return wanted[: body.limit], wanted[body.limit - 1].position
    return wanted, None if before is None else before - 1


def _item(recorded: Recorded) -> dict[str, Any]:
    decision = recorded.decision
    return {
        "position": recorded.position,
        "at": decision.at,
        "kind": decision.kind,
        "id": decision.aggregate_id,
        "version": decision.version,
        "company_id": decision.company_id,
        "decision_id": decision.decision_id,
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
