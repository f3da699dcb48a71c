"""Pipeline runs: execution attempts of a submission."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.processing import RUN, SUBMISSION
from gateway import answers, cursors
from gateway.calls import Authenticated, Call, CallRoute
from gateway.models import (
    ID_EXAMPLE,
    OTHER_ID_EXAMPLE,
    TIME_EXAMPLE,
    Done,
    Id,
    Page,
    PageQuery,
    Position,
    Progress,
    Query,
    Text,
    Timestamp,
    example,
    shown,
)
from gateway.problems import invalid
from gateway.run_view import RunKey, run_resource, wait_until_ended, with_results
from gateway.visibility import must_see
from projections.queries import work

Status = Literal["running", "succeeded", "failed", "cancelled"]

RUN_EXAMPLE: dict[str, Any] = {
    "run_id": OTHER_ID_EXAMPLE,
    "company_id": OTHER_ID_EXAMPLE,
    "submission_id": ID_EXAMPLE,
    "blueprint_id": ID_EXAMPLE,
    "retry_of": None,
    "status": "succeeded",
    "steps": [{"index": 0, "key": "extract_domain", "status": "succeeded", "attempt": 1, "progress": None}],
    "error": None,
    "created_by": ID_EXAMPLE,
    "started_at": TIME_EXAMPLE,
    "ended_at": TIME_EXAMPLE,
    "position": 21,
    "last_position": 22,
    "results": {"rows": 1, "records": [{"name": "Globex", "domain": "globex.example"}]},
}

router = APIRouter(prefix="/v1/runs", tags=["runs"], route_class=CallRoute)


class StepOfRun(BaseModel):
    """Where one step of the run is."""

    model_config = shown(index=0, key="extract_domain", status="succeeded", attempt=1, progress=None)

    index: int
    key: str
    status: Annotated[str, Field(description="pending, scheduled, running, retrying, succeeded, failed or skipped.")]
    attempt: int | None
    progress: Annotated[Progress | None, Field(description="Of a step that is at a large batch.")]


class RunError(BaseModel):
    """Why the run failed, or the reason that was given when it was cancelled."""

    model_config = shown(step_index=0, code="invalid_record", message="Record 3 has no field 'website'.")

    step_index: int | None
    code: str
    message: str | None


class Results(BaseModel):
    """The beginning of the run's output: at most 1,000 of its `rows`."""

    model_config = shown(rows=1, records=[{"domain": "globex.example"}])

    rows: int
    records: list[Any]


class Run(BaseModel):
    """A pipeline run. `position` is where it began in the log, `last_position` where it is now."""

    model_config = shown(**RUN_EXAMPLE)

    run_id: Id
    company_id: Id
    submission_id: Id
    blueprint_id: Id
    retry_of: Id | None
    status: Status
    steps: list[StepOfRun]
    error: RunError | None
    created_by: Id | None
    started_at: Timestamp
    ended_at: Timestamp | None
    position: Position
    last_position: Position
    results: Annotated[Results | None, Field(description="Only when it was asked for and the run succeeded.")] = None


class CreateRun(BaseModel):
    """Which submission to run again."""

    model_config = example(submission_id=ID_EXAMPLE)

    submission_id: Id
    reuse_results: Annotated[
        bool, Field(description="Whether an earlier result of a step over the same input may stand for executing it.")
    ] = True


class RunCreated(Done):
    """The new run's id."""

    model_config = shown(run_id=OTHER_ID_EXAMPLE, position=31, repeated=False)

    run_id: Id


class GetRun(Query):
    """Which run, and whether to wait for its end."""

    model_config = example(run_id=OTHER_ID_EXAMPLE, wait_s=10, include_results=True)

    run_id: Id
    wait_s: Annotated[float, Field(ge=0, description="Answer when the run has ended, or after so many seconds.")] = 0
    include_results: Annotated[bool, Field(description="Embed the first 1,000 records of the run's output.")] = False


class ListRuns(PageQuery):
    """Which runs."""

    model_config = example(status="failed", limit=50)

    company_id: Id | None = None
    submission_id: Id | None = None
    blueprint_id: Id | None = None
    status: Status | None = None


class CancelRun(BaseModel):
    """Which run, and why."""

    model_config = example(run_id=OTHER_ID_EXAMPLE, reason="wrong file")

    run_id: Id
    reason: Text | None = None


class RunCancelled(Done):
    """The run, which has ended by this or before."""

    model_config = shown(run_id=OTHER_ID_EXAMPLE, position=31, repeated=False)

    run_id: Id


class RetryRun(BaseModel):
    """Which failed run."""

    model_config = example(run_id=OTHER_ID_EXAMPLE)

    run_id: Id


@router.post("/create", status_code=201, response_model=RunCreated)
async def create(body: CreateRun, call: Authenticated) -> Response:
    """Start a further run of a submission, from its first step."""
    await must_see(call, SUBMISSION, body.submission_id)
    envelope = call.envelope(body)
    run_id = envelope.new_id(RUN)
    command = commands.CreateRun(
        **envelope.fields(),
        aggregate_id=run_id,
        submission_id=body.submission_id,
        reuse_results=body.reuse_results,
    )
    with await call.opening(run_id) as opening:
        return await answers.do(call, envelope, command, 201, opening, run_id=run_id)


@router.post("/get", response_model=Run)
async def get(body: GetRun, call: Authenticated) -> Response:
    """One run; with `wait_s`, as soon as it has ended."""
    check_wait(call, body.wait_s)
    scope = await call.caught_up(body.min_position)
    gateway = call.gateway
    key = RunKey(scope, body.run_id)
    with gateway.signals.run_waiter(body.run_id) as waiter:
        row = answers.found(await gateway.runs.load(key), "run", body.run_id)
        row = await wait_until_ended(gateway.runs, gateway.signals, waiter, key, row, body.wait_s) or row
    if body.wait_s:
        await call.still_allowed()
    resource = run_resource(row)
    if body.include_results:
        resource = await with_results(gateway.payloads, row, resource)
    return answers.json_response(resource)


@router.post("/list", response_model=Page[Run])
async def list_(body: ListRuns, call: Authenticated) -> Page[Run]:
    """Runs, newest first."""
    scope = await call.caught_up(body.min_position)
    rows = await work.runs(
        call.gateway.reader,
        answers.narrowed(call, scope, body.company_id),
        cursors.before(body.cursor),
        body.limit + 1,
        body.submission_id,
        body.blueprint_id,
        body.status,
    )
    return answers.page(rows, body.limit, lambda row: Run(**run_resource(row)))


@router.post("/cancel", response_model=RunCancelled)
async def cancel(body: CancelRun, call: Authenticated) -> Response:
    """Stop a run: its pending steps are skipped, and a step in flight records nothing any more."""
    await must_see(call, RUN, body.run_id)
    envelope = call.envelope(body)
    command = commands.CancelRun(**envelope.fields(), aggregate_id=body.run_id, reason=body.reason)
    return await answers.do(call, envelope, command, 200, run_id=body.run_id)


@router.post("/retry", status_code=201, response_model=RunCreated)
async def retry(body: RetryRun, call: Authenticated) -> Response:
    """Start a run that goes on from a failed run's failed step, and uses the results before it again."""
    await must_see(call, RUN, body.run_id)
    envelope = call.envelope(body)
    run_id = envelope.new_id(RUN)
    command = commands.RetryRun(**envelope.fields(), aggregate_id=run_id, run_id=body.run_id)
    with await call.opening(run_id) as opening:
        return await answers.do(call, envelope, command, 201, opening, run_id=run_id)


def check_wait(call: Call, wait_s: float) -> None:
    """Raises InvalidInputError when a caller would wait longer than it may."""
    longest = call.gateway.settings.wait_max_s
    if wait_s > longest:
        raise invalid("/wait_s", f"The longest wait is {longest:g} seconds.")
