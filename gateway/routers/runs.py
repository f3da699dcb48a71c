"""Pipeline runs: execution attempts of a submission."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.errors import StateConflictError
from events.processing import RUN, SUBMISSION
from gateway import answers, cursors
from gateway.calls import Authenticated, Call, CallRoute
from gateway.exports.diff import compare
from gateway.models import (
    CURSOR_EXAMPLE,
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
from gateway.moment import AsOf, moment
from gateway.problems import invalid
from gateway.run_view import RunKey, output_reference, run_resource, wait_until_ended, with_results
from gateway.visibility import must_see
from projections.queries import work
from projections.queries.reader import Row

Status = Literal["running", "succeeded", "failed", "cancelled", "verified", "diverged"]

RUN_EXAMPLE: dict[str, Any] = {
    "run_id": OTHER_ID_EXAMPLE,
    "company_id": OTHER_ID_EXAMPLE,
    "submission_id": ID_EXAMPLE,
    "blueprint_id": ID_EXAMPLE,
    "retry_of": None,
    "verifies": None,
    "status": "succeeded",
    "steps": [{"index": 0, "key": "extract_domain", "status": "succeeded", "attempt": 1, "progress": None}],
    "input_rows": 1,
    "output_rows": 1,
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
    verifies: Annotated[Id | None, Field(description="The run that this one executes again (audit/verify_run).")]
    status: Status
    steps: list[StepOfRun]
    input_rows: Annotated[int | None, Field(description="Records that it began with; null while nobody knows.")]
    output_rows: Annotated[int | None, Field(description="Records that it made, once it has succeeded.")]
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
    as_of: AsOf = None
    wait_s: Annotated[float, Field(ge=0, description="Answer when the run has ended, or after so many seconds.")] = 0
    include_results: Annotated[bool, Field(description="Embed the first 1,000 records of the run's output.")] = False


class ListRuns(PageQuery):
    """Which runs."""

    model_config = example(status="failed", limit=50)

    company_id: Id | None = None
    submission_id: Id | None = None
    blueprint_id: Id | None = None
    status: Status | None = None
    include_verifications: Annotated[bool, Field(description="Also runs that verify others; no results.")] = False
    as_of: AsOf = None


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
    if body.as_of is not None:
        if body.wait_s:
            raise invalid("/wait_s", "What was known at an earlier moment does not change: leave wait_s or as_of out.")
        row = await (await moment(call, body.as_of)).run(body.run_id)
        return answers.json_response(await _shown(call, row, body))
    key = RunKey(scope, body.run_id)
    with gateway.signals.run_waiter(body.run_id) as waiter:
        row = answers.found(await gateway.runs.load(key), "run", body.run_id)
        row = await wait_until_ended(gateway.runs, gateway.signals, waiter, key, row, body.wait_s) or row
    if body.wait_s:
        await call.still_allowed()
    return answers.json_response(await _shown(call, row, body))


async def _shown(call: Call, row: Row, body: GetRun) -> dict[str, Any]:
    resource = run_resource(row)
    return await with_results(call.gateway.payloads, row, resource) if body.include_results else resource


@router.post("/list", response_model=Page[Run])
async def list_(body: ListRuns, call: Authenticated) -> Page[Run]:
    """Runs, newest first."""
    scope = await call.caught_up(body.min_position)
    if body.as_of is not None:
        then = await moment(call, body.as_of)
        with call.gateway.history_reads.one_more(call.org_id):
            found, following = await then.runs(
                answers.narrowed(call, then.scope, body.company_id),
                cursors.before(body.cursor),
                body.limit,
                body.submission_id,
                body.blueprint_id,
                body.status,
                verifications=body.include_verifications,
            )
        next_cursor = None if following is None else cursors.encode(following)
        return Page(items=[Run(**run_resource(row)) for row in found], next_cursor=next_cursor)
    rows = await work.runs(
        call.gateway.reader,
        answers.narrowed(call, scope, body.company_id),
        cursors.before(body.cursor),
        body.limit + 1,
        body.submission_id,
        body.blueprint_id,
        body.status,
        body.include_verifications,
    )
    return answers.page(rows, body.limit, lambda row: Run(**run_resource(row)))


class DiffRuns(Query):
    """Which two runs of a submission; the changes lead from `before_run_id` to `run_id`."""

    model_config = example(run_id=OTHER_ID_EXAMPLE, before_run_id=ID_EXAMPLE, limit=100)

    run_id: Id
    before_run_id: Id
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[str | None, Field(max_length=64)] = None


class RowChange(BaseModel):
    """A row that differs: `fields` has those that changed, or all of a row that was added or removed."""

    model_config = shown(row_id=7, change="changed", fields={"city": {"before": "bonn", "after": "Bonn"}})

    row_id: int
    change: Literal["added", "removed", "changed"]
    fields: Annotated[
        dict[str, dict[str, Any]], Field(description="`before` and `after`; a row that has no such field has neither.")
    ]


class RunsDiff(BaseModel):
    """How many rows differ, in which fields, and a page of them in the order of row ids."""

    model_config = shown(
        added=0,
        removed=0,
        changed=1,
        changed_by_field={"city": 1},
        items=[{"row_id": 7, "change": "changed", "fields": {"city": {"before": "bonn", "after": "Bonn"}}}],
        next_cursor=CURSOR_EXAMPLE,
    )

    added: int
    removed: int
    changed: int
    changed_by_field: dict[str, int]
    items: list[RowChange]
    next_cursor: str | None


@router.post("/diff", response_model=RunsDiff)
async def diff(body: DiffRuns, call: Authenticated) -> Response:
    """The rows by which the outputs of two runs of one submission differ, by row id and by field."""
    start = 0 if body.cursor is None else cursors.decode(body.cursor)
    scope = await call.caught_up(body.min_position)
    after = answers.found(await call.gateway.runs.load(RunKey(scope, body.run_id)), "run", body.run_id)
    before = answers.found(await call.gateway.runs.load(RunKey(scope, body.before_run_id)), "run", body.before_run_id)
    if before["submission_id"] != after["submission_id"]:
        raise StateConflictError("The runs are not of the same submission.", code="other_submission")
    for run in (before, after):
        if run["output_digest"] is None:
            raise StateConflictError(f"The run {run['run_id']} has no output: it is {run['status']}.", code="no_result")
    was, now = (output_reference(run, len(run["step_keys"]) - 1) for run in (before, after))
    found = await compare(call.gateway.payloads, was, now, start, body.limit)
    counts: dict[str, Any] = dict(found.counts.items())
    return answers.json_response(
        {
            **counts,
            "changed_by_field": found.changed_by_field,
            "items": found.items,
            "next_cursor": cursors.encode(start + body.limit) if found.more else None,
        }
    )


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
