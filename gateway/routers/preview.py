"""Previews: what each step of a blueprint, saved or not, would do with a few rows. Nothing is recorded."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events.administration import BlueprintStep
from events.errors import ErasedError, StateConflictError
from events.payload import encode_records
from events.preview import ROWS_MAX, SAMPLE_MAX_BYTES, PreviewRequest, PreviewRows, PreviewStep
from gateway import answers
from gateway.calls import Authenticated, Call, CallRoute
from gateway.exports.reading import first_rows
from gateway.models import ID_EXAMPLE, OTHER_ID_EXAMPLE, Id, Query, example, shown
from gateway.payloads import Reference
from gateway.problems import ProjectionBehindError, invalid
from gateway.routers.blueprints import STEP_EXAMPLE, STEPS_MAX, StepOfBlueprint, check_steps
from gateway.visibility import CATCH_UP_S, company_for
from projections.queries import administration, work
from projections.queries.reader import Reader, Row, Scope

Look = Callable[[Reader, Scope, str], Awaitable[Row | None]]

ROWS_DEFAULT = 20
RUNS_LOOKED_AT = 20
"""Of a submission of an uploaded file: one of its first runs has read the file, or none has yet."""

BEFORE_EXAMPLE = {"rows": 1, "row_ids": [0], "records": [{"website": "https://www.globex.example/about"}]}
AFTER_EXAMPLE = {
    "rows": 1,
    "row_ids": [0],
    "records": [{"website": "https://www.globex.example/about", "domain": "globex.example"}],
}
STEP_OF_PREVIEW_EXAMPLE: dict[str, Any] = {
    "index": 0,
    "key": "extract_domain",
    "version": "1.0.0",
    "status": "succeeded",
    "fields": ["website"],
    "duration_us": 2100,
    "before": BEFORE_EXAMPLE,
    "after": AFTER_EXAMPLE,
    "rejects": [],
    "report": None,
    "error": None,
}

router = APIRouter(prefix="/v1/blueprints", tags=["previews"], route_class=CallRoute)


class PreviewBlueprint(Query):
    """Which steps, a blueprint's or ones of your own; and which rows, your own or the first ones of a submission."""

    model_config = example(
        company_id=OTHER_ID_EXAMPLE,
        steps=[STEP_EXAMPLE],
        records=[{"name": "Globex", "website": "https://www.globex.example/about"}],
    )

    company_id: Annotated[
        Id | None, Field(description="Whose data the steps may refer to. Needless with `submission_id`.")
    ] = None
    blueprint_id: Annotated[Id | None, Field(description="Either this or `steps`.")] = None
    steps: Annotated[
        list[StepOfBlueprint] | None,
        Field(min_length=1, max_length=STEPS_MAX, description="Steps that no blueprint need have."),
    ] = None
    records: Annotated[
        list[dict[str, Any]] | None,
        Field(min_length=1, max_length=ROWS_MAX, description="Either these or `submission_id`."),
    ] = None
    submission_id: Annotated[Id | None, Field(description="One of the company, whose first rows are taken.")] = None
    rows: Annotated[int, Field(ge=1, le=ROWS_MAX, description="How many rows of the submission.")] = ROWS_DEFAULT


class Rows(BaseModel):
    """Rows: how many there are, and the first of them with their ids, as many as there is room for."""

    model_config = shown(**BEFORE_EXAMPLE)

    rows: int
    row_ids: list[int]
    records: list[dict[str, Any]]


class WhyNot(BaseModel):
    """Why a step failed, or was not executed."""

    model_config = shown(code="unknown_field", message="no record has the field 'site'; there are: 'website'")

    code: str
    message: str


class StepOfPreview(BaseModel):
    """What one step did. `fields` are those of its input; `before` and `after` are rows, `rejects` those it refused."""

    model_config = shown(**STEP_OF_PREVIEW_EXAMPLE)

    index: int
    key: str
    version: str | None
    status: Literal["succeeded", "failed", "not_executed"]
    fields: list[str]
    duration_us: int | None
    before: Rows | None
    after: Rows | None
    rejects: list[dict[str, Any]]
    report: dict[str, Any] | None
    error: WhyNot | None


class Preview(BaseModel):
    """What would come of the rows. Nothing of it is kept."""

    model_config = shown(
        company_id=OTHER_ID_EXAMPLE, blueprint_id=ID_EXAMPLE, succeeded=True, steps=[STEP_OF_PREVIEW_EXAMPLE]
    )

    company_id: Id
    blueprint_id: Id | None
    succeeded: Annotated[bool, Field(description="Whether every step did its work.")]
    steps: list[StepOfPreview]


@router.post("/preview", response_model=Preview)
async def preview(body: PreviewBlueprint, call: Authenticated) -> Response:
    """Run a few rows through the steps and show what each one makes of them; no submission, and no run."""
    if (body.records is None) == (body.submission_id is None):
        raise invalid("/records", "Give either records or submission_id.")
    scope = await call.caught_up(body.min_position)
    steps = await _steps(call, scope, body)
    if body.submission_id is None:
        company_id = await _company(call, scope, body.company_id)
        records, row_ids = body.records or [], list(range(len(body.records or [])))
    else:
        company_id, records, row_ids = await _of_submission(call, scope, body, body.submission_id)
    size_bytes = len(encode_records(records))
    if size_bytes > SAMPLE_MAX_BYTES:
        raise invalid(
            "/records" if body.submission_id is None else "/rows",
            f"The rows are {size_bytes} bytes of JSON; a preview takes {SAMPLE_MAX_BYTES} at most. Take fewer.",
        )
    call.admit(rows=len(records), size=size_bytes if body.submission_id else 0)
    request = PreviewRequest(
        org_id=call.org_id, company_id=company_id, steps=steps, records=records, row_ids=row_ids,
        request_id=call.request_id,
    )  # fmt: skip
    done = await call.gateway.previews.ask(request)
    await call.still_allowed()
    given = PreviewRows(rows=len(records), row_ids=row_ids, records=records)
    return answers.json_response(
        {
            "company_id": company_id,
            "blueprint_id": body.blueprint_id,
            "succeeded": all(step.status == "succeeded" for step in done),
            "steps": _shown(done, given),
        }
    )


async def _steps(call: Call, scope: Scope, body: PreviewBlueprint) -> tuple[BlueprintStep, ...]:
    """The steps of the body, or of a blueprint of the org."""
    if (body.steps is None) == (body.blueprint_id is None):
        raise invalid("/steps", "Give either steps or blueprint_id.")
    if body.steps is not None:
        check_steps(body.steps)
        return tuple(BlueprintStep.model_validate(step.model_dump()) for step in body.steps)
    assert body.blueprint_id is not None
    row = await _found(call, scope, "blueprint", body.blueprint_id, administration.blueprint)
    return tuple(BlueprintStep.model_validate(step) for step in orjson.loads(row["steps"]))


async def _company(call: Call, scope: Scope, company_id: str | None) -> str:
    """The company in whose name the steps run: one that exists, and is not erased."""
    company_id = company_for(call.auth, company_id)
    if (await _found(call, scope, "company", company_id, administration.company))["erased_at"] is not None:
        raise ErasedError(f"The company {company_id} is erased: nothing is done in its name any more.")
    return company_id


async def _found(call: Call, scope: Scope, what: str, thing_id: str, look: Look) -> Row:
    """What the body names. What is not in the read models may have been made a moment ago: then they are waited for.

    Raises NotFoundError, in the same time for what does not exist and what is another tenant's.
    """
    row = await look(call.gateway.reader, scope, thing_id)
    if row is None:
        end = (await call.gateway.log.state()).last_position
        with contextlib.suppress(ProjectionBehindError):
            await call.gateway.signals.wait_position(end, CATCH_UP_S)
        row = await look(call.gateway.reader, scope, thing_id)
    return answers.found(row, what, thing_id)


async def _of_submission(
    call: Call, scope: Scope, body: PreviewBlueprint, submission_id: str
) -> tuple[str, list[dict[str, Any]], list[int]]:
    """The company of a submission, and its first rows with their ids."""
    row = await _found(call, scope, "submission", submission_id, work.submission)
    if body.company_id not in (None, row["company_id"]):
        raise invalid("/company_id", "The submission is another company's; leave company_id out.")
    reference = Reference(
        org_id=call.org_id,
        company_id=row["company_id"],
        digest=row["records_digest"],
        size_bytes=row["records_size_bytes"],
        inline=row["records_inline"],
        position=row["position"],
        format=row["records_format"],
    )
    if reference.format == "file":
        reference = await _as_read(call, scope, submission_id)
    records, row_ids = await first_rows(call.gateway.payloads, reference, body.rows)
    return row["company_id"], records, row_ids


async def _as_read(call: Call, scope: Scope, submission_id: str) -> Reference:
    """The rows of an uploaded file, as the first step of one of its runs read them."""
    for run in await work.run_ids_of_submission(call.gateway.reader, scope, submission_id, 0, RUNS_LOOKED_AT):
        for row in await work.step_results(call.gateway.reader, scope, run["run_id"]):
            if row["step_index"] == 0 and row["output_digest"] is not None:
                return _output(call.org_id, row)
    raise StateConflictError(
        "The submission is an uploaded file that no run has read yet; start a run, or give records.", code="not_read"
    )


def _output(org_id: str, row: Row) -> Reference:
    return Reference(
        org_id=org_id,
        company_id=row["company_id"],
        digest=row["output_digest"],
        size_bytes=row["output_size_bytes"],
        inline=row["output_inline"],
        position=row["output_position"],
        step_index=row["step_index"],
        format=row["output_format"],
    )


def _shown(steps: list[PreviewStep], given: PreviewRows) -> list[dict[str, Any]]:
    """Each step with what the one before it made; nothing after the one that made nothing."""
    found = []
    before: PreviewRows | None = given
    for step in steps:
        told = step.model_dump(mode="json", exclude={"output"})
        told |= {
            "before": None if before is None else before.model_dump(),
            "after": None if step.output is None else step.output.model_dump(),
            "rejects": step.rejects or [],
        }
        found.append(told)
        before = step.output
    return found
