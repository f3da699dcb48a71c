"""Step results: what became of each step of a run."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from events import strictjson
from gateway import answers
from gateway.calls import Authenticated, Call, CallRoute
from gateway.models import ID_EXAMPLE, TIME_EXAMPLE, Id, Position, Progress, Query, Timestamp, example, shown
from gateway.moment import AsOf, moment
from gateway.run_view import RunKey, pending, progress
from projections.queries import work
from projections.queries.reader import Row, Scope

STEP_INDEX_MAX = 10_000

DIGEST_EXAMPLE = "6f1ed002ab5595859014ebf0951522d9aa1f6dbb3f5a1f2d2a3a1a6e7d1c1a11"

STEP_RESULT_EXAMPLE: dict[str, Any] = {
    "run_id": ID_EXAMPLE,
    "step_index": 0,
    "step_key": "extract_domain",
    "step_version": "1",
    "status": "succeeded",
    "attempt": 1,
    "reused_from_run_id": None,
    "not_before": None,
    "started_at": TIME_EXAMPLE,
    "ended_at": TIME_EXAMPLE,
    "duration_us": 740,
    "input": {"digest": DIGEST_EXAMPLE, "rows": 1},
    "output": {"digest": DIGEST_EXAMPLE, "rows": 1, "size_bytes": 64, "inline": True, "format": "json"},
    "rejects": None,
    "report": None,
    "progress": None,
    "error": None,
    "position": 22,
}

router = APIRouter(prefix="/v1/step_results", tags=["step results"], route_class=CallRoute)


class InputReference(BaseModel):
    """What the step read."""

    model_config = shown(digest=DIGEST_EXAMPLE, rows=1)

    digest: str
    rows: int | None


class PayloadReference(BaseModel):
    """A batch of records: `results/get` pages through it. `format` is `batch` for one that is held in chunks."""

    model_config = shown(digest=DIGEST_EXAMPLE, rows=1, size_bytes=64, inline=True, format="json")

    digest: str
    rows: int | None
    size_bytes: int | None
    inline: bool | None
    format: str


class StepError(BaseModel):
    """Why the attempt failed."""

    model_config = shown(code="invalid_record", message="Record 3 has no field 'website'.")

    code: str
    message: str | None


class StepResult(BaseModel):
    """The status, input, output, error and timing of one step of a run; `pending` while nothing is known of it."""

    model_config = shown(**STEP_RESULT_EXAMPLE)

    run_id: Id
    step_index: int
    step_key: str
    step_version: str | None
    status: Annotated[str, Field(description="pending, scheduled, running, retrying, succeeded, failed or skipped.")]
    attempt: int | None
    reused_from_run_id: Annotated[Id | None, Field(description="The run whose result stands for this one.")]
    not_before: Annotated[Timestamp | None, Field(description="When the step is due again.")]
    started_at: Timestamp | None
    ended_at: Timestamp | None
    duration_us: int | None
    input: InputReference | None
    output: PayloadReference | None
    rejects: PayloadReference | None
    report: Annotated[
        dict[str, Any] | None, Field(description="What else the step tells: a file's dialect and schema, for example.")
    ]
    progress: Annotated[Progress | None, Field(description="Of a step that is at a large batch.")]
    error: StepError | None
    position: Position | None


class StepResults(BaseModel):
    """The results of all steps of a run, in their order."""

    model_config = shown(items=[STEP_RESULT_EXAMPLE])

    items: list[StepResult]


class ListStepResults(Query):
    """Which run."""

    model_config = example(run_id=ID_EXAMPLE)

    run_id: Id
    as_of: AsOf = None


class GetStepResult(Query):
    """Which step of which run."""

    model_config = example(run_id=ID_EXAMPLE, step_index=0)

    run_id: Id
    step_index: Annotated[int, Field(ge=0, le=STEP_INDEX_MAX)]
    as_of: AsOf = None


@router.post("/list", response_model=StepResults)
async def list_(body: ListStepResults, call: Authenticated) -> StepResults:
    """The results of all steps of a run; steps of which nothing is known yet are pending."""
    scope = await call.caught_up(body.min_position)
    return StepResults(items=await _results(call, scope, body.run_id, body.as_of))


@router.post("/get", response_model=StepResult)
async def get(body: GetStepResult, call: Authenticated) -> StepResult:
    """The result of one step of a run."""
    scope = await call.caught_up(body.min_position)
    results = await _results(call, scope, body.run_id, body.as_of)
    if body.step_index >= len(results):
        answers.found(None, f"step {body.step_index} in the run", body.run_id)
    return results[body.step_index]


async def _results(call: Call, scope: Scope, run_id: str, as_of: int | str | None) -> list[StepResult]:
    if as_of is None:
        run = answers.found(await call.gateway.runs.load(RunKey(scope, run_id)), "run", run_id)
        rows = await work.step_results(call.gateway.reader, scope, run_id)
    else:
        then = await moment(call, as_of)
        run, rows = await then.run(run_id), await then.step_results(run_id)
    recorded = {row["step_index"]: row for row in rows}
    return [_result(run, index, recorded.get(index)) for index in range(len(run["step_keys"]))]


def _result(run: Row, index: int, row: Row | None) -> StepResult:
    common = {
        "run_id": run["run_id"],
        "step_index": index,
        "step_key": run["step_keys"][index],
        "not_before": run["not_before"] if run["current_step"] == index else None,
    }
    if row is None:
        return _unrecorded(common, *pending(run, index))
    fields = ("step_version", "status", "attempt", "reused_from_run_id", "started_at", "ended_at", "duration_us")
    return StepResult(
        **common,
        **{name: row[name] for name in (*fields, "position")},
        input=_input(row),
        output=_payload(row, "output"),
        rejects=_payload(row, "rejects"),
        report=None if row["report"] is None else strictjson.loads(row["report"]),
        progress=progress(row["chunks_done"], row["chunks_total"]),  # type: ignore[arg-type]
        error=StepError(code=row["error_code"], message=row["error_message"]) if row["error_code"] else None,
    )


def _unrecorded(common: dict[str, Any], status: str, attempt: int | None) -> StepResult:
    nothing: dict[str, Any] = dict.fromkeys(StepResult.model_fields)
    return StepResult(**{**nothing, **common, "status": status, "attempt": attempt})


def _input(row: Row) -> InputReference | None:
    if row["input_digest"] is None:
        return None
    return InputReference(digest=row["input_digest"], rows=row["input_rows"])


def _payload(row: Row, kind: str) -> PayloadReference | None:
    if row[f"{kind}_digest"] is None:
        return None
    return PayloadReference(**{name: row[f"{kind}_{name}"] for name in PayloadReference.model_fields})
