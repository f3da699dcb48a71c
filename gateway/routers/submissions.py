"""Submissions: batches of records of one company. `create` is the hot path: no model is built on the way out."""

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as QueryParams
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands, strictjson
from events.administration import BlueprintStep, RetryPolicy
from events.errors import AuthenticationError, InvalidInputError, UnavailableError
from events.ids import first_run_id
from events.keys import Owner
from events.logging import get_logger
from events.payload import digest_of, encode_records
from events.processing import SUBMISSION
from events.upload import store_file
from gateway import answers, cursors
from gateway.calls import Authenticated, Call, CallRoute, UploadRoute
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
    example,
    shown,
)
from gateway.moment import AsOf, before_of, moment
from gateway.problems import invalid
from gateway.routers.runs import RUN_EXAMPLE, Run, check_wait
from gateway.run_view import RunKey, run_resource, wait_until_ended, with_results
from gateway.signals import RunWaiter
from gateway.visibility import company_for
from projections.queries import work
from projections.queries.reader import Row

READ_FILE = "read_file"
READ_MAX_CHARACTERS = 64 * 1024
READ_TIMEOUT_S = 600.0
"""That a file's next records may take: of some formats nothing can be read before everything is there."""

_logger = get_logger("gateway")

router = APIRouter(prefix="/v1/submissions", tags=["submissions"], route_class=CallRoute)


class Submission(BaseModel):
    """A batch of records that was handed in. `records_digest` is the SHA-256 of its JSON.

    Of an uploaded file (`records_format: file`) it is that of the list of its parts; its rows are not counted.
    """

    model_config = shown(
        submission_id=ID_EXAMPLE,
        company_id=OTHER_ID_EXAMPLE,
        blueprint_id=OTHER_ID_EXAMPLE,
        name="January",
        records_digest="6f1ed002ab5595859014ebf0951522d9aa1f6dbb3f5a1f2d2a3a1a6e7d1c1a11",
        records_size_bytes=64,
        records_rows=1,
        records_format="json",
        created_by=ID_EXAMPLE,
        created_at=TIME_EXAMPLE,
        position=20,
    )

    submission_id: Id
    company_id: Id
    blueprint_id: Id
    name: str | None
    records_digest: str
    records_size_bytes: int
    records_rows: int
    records_format: str
    created_by: Id | None
    created_at: Timestamp
    position: Position


class CreateSubmission(BaseModel):
    """A batch to be handed in, and by default run through its blueprint at once."""

    model_config = example(
        company_id=OTHER_ID_EXAMPLE,
        blueprint_id=ID_EXAMPLE,
        records=[{"name": "Globex", "website": "https://www.globex.example/about"}],
        wait_s=10,
        include_results=True,
    )

    company_id: Annotated[Id | None, Field(description="A caller that is bound to a company may leave it out.")] = None
    blueprint_id: Id
    records: Annotated[
        list[dict[str, Any]], Field(min_length=1, description="Any JSON objects; they are given back unchanged.")
    ]
    name: Name | None = None
    start_run: Annotated[bool, Field(description="Start a first run at once.")] = True
    reuse_results: Annotated[
        bool, Field(description="Whether an earlier result of a step over the same input may stand for executing it.")
    ] = True
    wait_s: Annotated[float, Field(ge=0, description="Wait so long for the run to end, and embed it.")] = 0
    include_results: Annotated[bool, Field(description="Embed the first 1,000 records of the run's output.")] = False


class SubmissionCreated(Done):
    """The new submission, its first run, and with `wait_s` the run as it is now (null if nothing is known of it)."""

    model_config = shown(
        submission_id=ID_EXAMPLE, run_id=OTHER_ID_EXAMPLE, position=21, repeated=False, run=RUN_EXAMPLE
    )

    submission_id: Id
    run_id: Id | None
    run: Run | None = None


class UploadSubmission(BaseModel):
    """What is told of a file that is uploaded, in the query string; the file is the request's body."""

    model_config = example(company_id=OTHER_ID_EXAMPLE, blueprint_id=ID_EXAMPLE, read='{"delimiter": ";"}') | {
        "strict": False  # a query string is all text
    }

    company_id: Annotated[Id | None, Field(description="A caller that is bound to a company may leave it out.")] = None
    blueprint_id: Annotated[Id, Field(examples=[ID_EXAMPLE])]
    name: Name | None = None
    start_run: Annotated[bool, Field(description="Start a first run at once.")] = True
    reuse_results: Annotated[
        bool, Field(description="Whether an earlier result of a step over the same input may stand for executing it.")
    ] = True
    read: Annotated[
        str, Field(max_length=READ_MAX_CHARACTERS, description="The config of the step `read_file`, as JSON.")
    ] = "{}"


class SubmissionUploaded(Done):
    """The new submission, and its first run."""

    model_config = shown(submission_id=ID_EXAMPLE, run_id=OTHER_ID_EXAMPLE, position=21, repeated=False)

    submission_id: Id
    run_id: Id | None


class GetSubmission(Query):
    """Which submission."""

    model_config = example(submission_id=ID_EXAMPLE)

    submission_id: Id
    as_of: AsOf = None


class ListSubmissions(PageQuery):
    """Which submissions."""

    model_config = example(company_id=OTHER_ID_EXAMPLE, limit=50)

    company_id: Id | None = None
    blueprint_id: Id | None = None
    as_of: AsOf = None


@router.post("/create", status_code=201, response_model=SubmissionCreated)
async def create(body: CreateSubmission, call: Authenticated) -> Response:
    """Hand in records and, unless `start_run` is false, run them through the blueprint."""
    check_wait(call, body.wait_s)
    company_id = company_for(call.auth, body.company_id)
    call.admit(rows=len(body.records))
    records = encode_records(body.records)
    envelope = call.envelope(
        {
            "company_id": company_id,
            "blueprint_id": body.blueprint_id,
            "records": digest_of(records),
            "name": body.name,
            "start_run": body.start_run,
        }
    )
    submission_id = envelope.new_id(SUBMISSION)
    run_id = first_run_id(submission_id) if body.start_run else None
    with await call.opening(run_id) as opening:
        command = commands.CreateSubmission(
            **envelope.fields(),
            aggregate_id=submission_id,
            company_id=company_id,
            blueprint_id=body.blueprint_id,
            name=body.name,
            records=await call.gateway.payloads.blobs.store(Owner(call.org_id, company_id), records, len(body.records)),
            start_run=body.start_run,
            reuse_results=body.reuse_results,
        )
        ids = {"submission_id": submission_id, "run_id": run_id}
        if run_id is None or not body.wait_s:
            return await answers.do(call, envelope, command, 201, opening, **ids)
        with call.gateway.signals.run_waiter(run_id) as waiter:
            outcome = await call.gateway.commands.send(command)
            opening.settle(outcome)
            if isinstance(outcome, Deferred):
                return answers.deferred(envelope, **ids)
            run = await _run(call, waiter, run_id, body, look_first=outcome.repeated)
            return answers.accepted(outcome, 201, **ids, run=run)


async def upload(body: Annotated[UploadSubmission, QueryParams()], call: Authenticated) -> Response:
    """Hand in a file (CSV, JSON lines, Parquet, XLSX; gzip or zstd), and run its records through the blueprint.

    The run's first step, `read_file`, makes records of it, and rejects what it cannot read.
    """
    company_id = company_for(call.auth, body.company_id)
    reading = _reading(body.read)
    assert call.file is not None, "an UploadRoute gives one"
    await _check_first(call, company_id, body.blueprint_id, reading)
    stored = await store_file(call.gateway.payloads.blobs, Owner(call.org_id, company_id), call.file)
    await call.still_allowed()
    envelope = call.envelope(
        {**body.model_dump(exclude={"read"}), "company_id": company_id, "read": reading.config, "file": stored.digest}
    )
    submission_id = envelope.new_id(SUBMISSION)
    run_id = first_run_id(submission_id) if body.start_run else None
    with await call.opening(run_id) as opening:
        command = commands.CreateSubmission(
            **envelope.fields(),
            aggregate_id=submission_id,
            company_id=company_id,
            blueprint_id=body.blueprint_id,
            name=body.name,
            records=stored,
            start_run=body.start_run,
            reading=reading,
            reuse_results=body.reuse_results,
        )
        ids = {"submission_id": submission_id, "run_id": run_id}
        return await answers.do(call, envelope, command, 201, opening, **ids)


router.add_api_route(
    "/upload",
    upload,
    methods=["POST"],
    status_code=201,
    response_model=SubmissionUploaded,
    route_class_override=UploadRoute,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)


@router.post("/get", response_model=Submission)
async def get(body: GetSubmission, call: Authenticated) -> Submission:
    """One submission, without its records: `results/get` with `kind: input` pages through them."""
    scope = await call.caught_up(body.min_position)
    if body.as_of is not None:
        return _submission(await (await moment(call, body.as_of)).submission(body.submission_id))
    row = await work.submission(call.gateway.reader, scope, body.submission_id)
    return _submission(answers.found(row, "submission", body.submission_id))


@router.post("/list", response_model=Page[Submission])
async def list_(body: ListSubmissions, call: Authenticated) -> Page[Submission]:
    """Submissions, newest first."""
    scope = await call.caught_up(body.min_position)
    then = None if body.as_of is None else await moment(call, body.as_of)
    rows = await work.submissions(
        call.gateway.reader,
        answers.narrowed(call, scope if then is None else then.scope, body.company_id),
        before_of(then, cursors.before(body.cursor)),
        body.limit + 1,
        body.blueprint_id,
    )
    return answers.page(rows, body.limit, _submission)


async def _run(
    call: Call, waiter: RunWaiter, run_id: str, body: CreateSubmission, *, look_first: bool
) -> dict[str, Any] | None:
    """The run that the submission started, once it has ended or the wait is over.

    None when that cannot be known now: the submission is on disk, so its answer must not become an error.
    """
    gateway = call.gateway
    key = RunKey(call.scope, run_id)
    try:
        row = await gateway.runs.load(key) if look_first else None
        row = await wait_until_ended(gateway.runs, gateway.signals, waiter, key, row, body.wait_s)
        if row is None:
            return None
        await call.still_allowed()
        resource = run_resource(row)
        return await with_results(gateway.payloads, row, resource) if body.include_results else resource
    except (UnavailableError, AuthenticationError) as error:
        _logger.warning("run_not_shown", run_id=run_id, error=error.message)
        return None


async def _check_first(call: Call, company_id: str, blueprint_id: str, reading: BlueprintStep) -> None:
    """Raises RejectedError for what would be refused with the file, too. Nothing of the file is kept then."""
    told = call.envelope({})
    command = commands.CheckSubmission(
        **told.fields(),
        aggregate_id=told.new_id(SUBMISSION),
        company_id=company_id,
        blueprint_id=blueprint_id,
        reading=reading,
    )
    await call.gateway.commands.check(command)


def _reading(config: str) -> BlueprintStep:
    """The step that reads the file. Its config is checked where the registry is, with the command."""
    try:
        parsed = strictjson.parse(config.encode())
    except InvalidInputError as error:
        raise invalid("/query/read", f"The config of read_file is not JSON: {error.message}") from error
    if not isinstance(parsed, dict):
        raise invalid("/query/read", "The config of read_file is a JSON object.")
    return BlueprintStep(key=READ_FILE, config=parsed, retry=RetryPolicy(timeout_s=READ_TIMEOUT_S))


def _submission(row: Row) -> Submission:
    fields = dict(row)
    del fields["records_inline"]
    return Submission(**fields)
