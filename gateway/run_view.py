"""Runs as clients see them: loaded many at once, waited for, and with their results when they are asked for."""

import asyncio
from typing import Any, NamedTuple

import orjson

from gateway.exports.reading import page
from gateway.payloads import Payloads, Reference
from gateway.signals import POLL_S, RunWaiter, Signals
from projections.queries import work
from projections.queries.reader import Reader, Row, Scope

QUERIES_AT_ONCE = 4
RUNS_PER_QUERY = 200
RESULTS_MAX_RECORDS = 1000


class RunKey(NamedTuple):
    """A run as a caller may see it."""

    scope: Scope
    run_id: str


class RunLoader:
    """Loads runs by key. What one scope asks for in one turn of the loop, or while queries are out, goes into one
    query: a signal that ends a hundred runs costs one round trip.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._asked: dict[RunKey, asyncio.Future[Row | None]] = {}
        self._out: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def load(self, key: RunKey) -> Row | None:
        """The run as it is now, or None when there is none for this caller."""
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = asyncio.get_running_loop().create_future()
            self._schedule()
        return await asyncio.shield(future)

    def _schedule(self) -> None:
        if not self._scheduled and len(self._out) < QUERIES_AT_ONCE:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._scheduled = False
        if not self._asked:
            return
        scope = next(iter(self._asked)).scope  # that of who waits longest
        run_ids = [key.run_id for key in self._asked if key.scope == scope][:RUNS_PER_QUERY]
        batch = {run_id: self._asked.pop(RunKey(scope, run_id)) for run_id in run_ids}
        task = asyncio.create_task(self._query(scope, batch))
        self._out.add(task)
        task.add_done_callback(self._done)
        if self._asked:
            self._schedule()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._out.discard(task)
        if self._asked:
            self._schedule()

    async def _query(self, scope: Scope, batch: dict[str, asyncio.Future[Row | None]]) -> None:
        try:
            found = await work.runs_by_id(self._reader, scope, list(batch))
        except BaseException as error:
            for future in batch.values():
                _fail(future, error)
            if not isinstance(error, Exception):
                raise
            return
        for run_id, future in batch.items():
            if not future.done():
                future.set_result(found.get(run_id))


def _fail(future: asyncio.Future[Row | None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marked as seen: the caller may have gone


async def wait_until_ended(
    loader: RunLoader, signals: Signals, waiter: RunWaiter, key: RunKey, row: Row | None, wait_s: float
) -> Row | None:
    """The run once it has ended, or as it is when `wait_s` is over; `row` is what is known of it now.

    The waiter was registered before the run was looked up, or made, so an end that comes meanwhile is not missed; a
    signal that was lost costs no more than POLL_S.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while row is None or row["status"] == "running":
        remaining = deadline - loop.time()
        if remaining <= 0 or signals.closing:
            return row
        await waiter.ended(min(remaining, POLL_S))
        row = await loader.load(key)
    return row


def run_resource(row: Row) -> dict[str, Any]:
    """The run as JSON, without its results."""
    error = None
    if row["error_code"] is not None or row["error_message"] is not None:  # a cancelled run has its reason only
        code = row["error_code"] or row["status"]
        error = {"step_index": row["error_step"], "code": code, "message": row["error_message"]}
    return {
        "run_id": row["run_id"],
        "company_id": row["company_id"],
        "submission_id": row["submission_id"],
        "blueprint_id": row["blueprint_id"],
        "retry_of": row["retry_of"],
        "verifies": row["verifies"],
        "status": row["status"],
        "steps": _steps(row),
        "input_rows": row["input_rows"],
        "output_rows": row["made_rows"],
        "error": error,
        "created_by": row["created_by"],
        "started_at": row["started_at"],
        "ended_at": row["ended_at"],
        "position": row["position"],
        "last_position": row["last_position"],
    }


def _steps(row: Row) -> list[dict[str, Any]]:
    columns = ("indexes", "statuses", "attempts", "chunks_done", "chunks_total")
    known = zip(*(row[name] or () for name in columns), strict=True)
    recorded = {index: (status, attempt, progress(*chunks)) for index, status, attempt, *chunks in known}
    steps = []
    for index, key in enumerate(row["step_keys"]):
        status, attempt, chunks = recorded.get(index) or (*pending(row, index), None)
        steps.append({"index": index, "key": key, "status": status, "attempt": attempt, "progress": chunks})
    return steps


def progress(chunks_done: int | None, chunks_total: int | None) -> dict[str, int | None] | None:
    """How far a step is with a large batch; None for any other, and before and after it is at it."""
    return None if chunks_done is None else {"chunks_done": chunks_done, "chunks_total": chunks_total}


def pending(row: Row, index: int) -> tuple[str, int | None]:
    """Status and attempt of a step that nothing is recorded of: scheduled if the run waits for it."""
    if row["status"] == "running" and row["current_step"] == index:
        return "scheduled", row["current_attempt"]
    return "pending", None


async def with_results(payloads: Payloads, row: Row, resource: dict[str, Any]) -> dict[str, Any]:
    """The resource, with the first records of its output when the run has succeeded."""
    if row["status"] == "succeeded" and row["output_digest"] is not None:
        reference = output_reference(row, len(row["step_keys"]) - 1)
        records = await _first(payloads, reference, row["output_rows"])
        resource["results"] = {"rows": row["output_rows"], "records": records}
    return resource


def output_reference(row: Row, step_index: int) -> Reference:
    """Where the output is that a row of a run or of a step result names."""
    return Reference(
        org_id=row["org_id"],
        company_id=row["company_id"],
        digest=row["output_digest"],
        size_bytes=row["output_size_bytes"],
        inline=row["output_inline"],
        position=row["output_position"],
        step_index=step_index,
        format=row["output_format"],
    )


async def _first(payloads: Payloads, reference: Reference, rows: int) -> Any:
    """At most RESULTS_MAX_RECORDS; a short batch goes out as it was stored, without being parsed."""
    if reference.format == "json" and rows <= RESULTS_MAX_RECORDS:
        text = await payloads.text(reference)
        if text.startswith(b"["):
            return orjson.Fragment(text)
    return (await page(payloads, reference, 0, RESULTS_MAX_RECORDS))[1]
