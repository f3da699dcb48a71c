"""The records themselves: a step's output, what it rejected, or what it read; paged."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from events.errors import StateConflictError
from gateway import answers, cursors
from gateway.calls import Authenticated, Call, CallRoute
from gateway.exports.reading import Table, no_rejects, open_table, page
from gateway.exports.writers import WRITERS, Format, Writer
from gateway.models import CURSOR_EXAMPLE, ID_EXAMPLE, Id, Query, example, shown
from gateway.payloads import Reference
from gateway.routers.step_results import STEP_INDEX_MAX
from gateway.run_view import RunKey
from projections.queries import work
from projections.queries.reader import Row, Scope

LIMIT_MAX = 1000

Kind = Literal["output", "rejects", "input"]

router = APIRouter(prefix="/v1/results", tags=["results"], route_class=CallRoute)


class GetResults(Query):
    """Which records: of which step (the last one, if not said), and which side of it."""

    model_config = example(run_id=ID_EXAMPLE, kind="output", limit=100)

    run_id: Id
    step_index: Annotated[
        int | None, Field(ge=0, le=STEP_INDEX_MAX, description="Counted from 0; the last step, if not said.")
    ] = None
    kind: Kind = "output"
    limit: Annotated[
        int, Field(ge=1, le=LIMIT_MAX, description="At most; a page of large records, above some 4 MB, has fewer.")
    ] = LIMIT_MAX
    cursor: Annotated[str | None, Field(max_length=64)] = None


class ResultsPage(BaseModel):
    """A page of records, in their order. `rows` counts all of them."""

    model_config = shown(
        run_id=ID_EXAMPLE,
        step_index=0,
        kind="output",
        rows=2,
        records=[{"name": "Globex", "domain": "globex.example"}],
        next_cursor=CURSOR_EXAMPLE,
    )

    run_id: Id
    step_index: int
    kind: Kind
    rows: int
    records: list[Any]
    next_cursor: str | None


class DownloadResults(Query):
    """Which records, and as what file."""

    model_config = example(run_id=ID_EXAMPLE, format="parquet")

    run_id: Id
    step_index: Annotated[
        int | None, Field(ge=0, le=STEP_INDEX_MAX, description="Counted from 0; the last step, if not said.")
    ] = None
    kind: Kind = "output"
    format: Format = "csv"
    row_ids: Annotated[bool, Field(description="With a first column `row_id`: the record's number as handed in.")] = (
        False
    )
    escape_formulas: Annotated[
        bool, Field(description="CSV: put an apostrophe before text that a spreadsheet would take for a formula.")
    ] = True


FILE_CONTENT = {
    writer.media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}, "example": "…"}
    for writer in WRITERS.values()
}


@router.post("/get", response_model=ResultsPage)
async def get(body: GetResults, call: Authenticated) -> Response:
    """A page of the records that a step made, rejected or read."""
    start = 0 if body.cursor is None else cursors.decode(body.cursor)
    scope = await call.caught_up(body.min_position)
    key = RunKey(scope, body.run_id)
    run = answers.found(await call.gateway.runs.load(key), "run", body.run_id)
    step_index = len(run["step_keys"]) - 1 if body.step_index is None else body.step_index
    if step_index >= len(run["step_keys"]):
        answers.found(None, f"step {step_index} in the run", body.run_id)
    reference = await _reference(call, scope, run, step_index, body.kind)
    rows, records = (0, []) if reference is None else await page(call.gateway.payloads, reference, start, body.limit)
    end = start + (len(records) or body.limit)
    return answers.json_response(
        {
            "run_id": body.run_id,
            "step_index": step_index,
            "kind": body.kind,
            "rows": rows,
            "records": records,
            "next_cursor": cursors.encode(end) if end < rows else None,
        }
    )


@router.post(
    "/download",
    response_class=StreamingResponse,
    responses={200: {"description": "The file", "content": FILE_CONTENT}},
)
async def download(body: DownloadResults, call: Authenticated) -> Response:
    """All records that a step made, rejected or read, as a file; it is written while it goes out."""
    scope = await call.caught_up(body.min_position)
    run = answers.found(await call.gateway.runs.load(RunKey(scope, body.run_id)), "run", body.run_id)
    step_index = len(run["step_keys"]) - 1 if body.step_index is None else body.step_index
    if step_index >= len(run["step_keys"]):
        answers.found(None, f"step {step_index} in the run", body.run_id)
    reference = await _reference(call, scope, run, step_index, body.kind)
    table = (
        no_rejects(call.gateway.payloads) if reference is None else await open_table(call.gateway.payloads, reference)
    )
    writer = WRITERS[body.format](table.kinds, row_ids=body.row_ids, escape_formulas=body.escape_formulas)
    name = f"{run['step_keys'][step_index]}-{body.kind}-{body.run_id}.{writer.extension}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Data-Engine-Rows": str(table.rows)}
    return StreamingResponse(_file(call, table, writer), headers=headers, media_type=writer.media_type)


async def _file(call: Call, table: Table, writer: Writer) -> AsyncIterator[bytes]:
    """The file, chunk by chunk. Whoever loses access meanwhile gets no more of it: the connection breaks off."""
    yield writer.begin()
    async for columns, ids in table.chunks():
        await call.still_allowed()
        yield await asyncio.to_thread(writer.chunk, columns, ids)
    yield await asyncio.to_thread(writer.end)


async def _reference(call: Call, scope: Scope, run: Row, step_index: int, kind: Kind) -> Reference | None:
    """Where the records are; None when the step rejected none."""
    if kind == "input" and step_index == 0:
        return await _records_of_submission(call, scope, run["submission_id"])
    made_by = step_index - 1 if kind == "input" else step_index
    rows = await work.step_results(call.gateway.reader, scope, run["run_id"])
    row = next((row for row in rows if row["step_index"] == made_by), None)
    if row is None or row["output_digest"] is None:
        raise StateConflictError(
            f"Step {made_by} of the run has no result: it is {row['status'] if row else 'pending'}.", code="no_result"
        )
    side: Literal["output", "rejects"] = "rejects" if kind == "rejects" else "output"
    if row[f"{side}_digest"] is None:
        return None
    return Reference(
        org_id=call.org_id,
        company_id=run["company_id"],
        digest=row[f"{side}_digest"],
        size_bytes=row[f"{side}_size_bytes"],
        inline=row[f"{side}_inline"],
        position=row["output_position"],
        step_index=made_by,
        kind=side,
        format=row[f"{side}_format"],
    )


async def _records_of_submission(call: Call, scope: Scope, submission_id: str) -> Reference:
    row = await work.submission(call.gateway.reader, scope, submission_id)
    row = answers.found(row, "submission", submission_id)
    return Reference(
        org_id=call.org_id,
        company_id=row["company_id"],
        digest=row["records_digest"],
        size_bytes=row["records_size_bytes"],
        inline=row["records_inline"],
        position=row["position"],
        format=row["records_format"],
    )
