"""Verified execution: a recorded run is executed again, and each step's output compared with the recorded one."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.processing import RUN
from events.verification import FORMAT
from gateway import answers
from gateway.calls import Authenticated, Call, CallRoute
from gateway.commands import Deferred
from gateway.models import ID_EXAMPLE, OTHER_ID_EXAMPLE, TIME_EXAMPLE, Done, Id, Position, Query, example, shown
from gateway.routers.runs import RowChange, check_wait
from gateway.run_view import RunKey, wait_until_ended
from gateway.verification import report_of, signature_of
from gateway.visibility import must_see
from projections.queries.reader import Row, Scope

DIGEST_EXAMPLE = "6f1ed002ab5595859014ebf0951522d9aa1f6dbb3f5a1f2d2a3a1a6e7d1c1a11"
OTHER_DIGEST_EXAMPLE = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"

STEP_EXAMPLE: dict[str, Any] = {
    "index": 0,
    "key": "extract_domain",
    "step_version": "1",
    "config_digest": DIGEST_EXAMPLE,
    "input_digest": DIGEST_EXAMPLE,
    "output_digest": DIGEST_EXAMPLE,
    "rejects_digest": None,
    "recorded_position": 22,
    "recorded_rows": 1,
    "found_output_digest": OTHER_DIGEST_EXAMPLE,
    "found_rejects_digest": None,
    "found_position": 41,
    "verdict": "diverged",
    "reason": None,
}
DIVERGENCE_EXAMPLE: dict[str, Any] = {
    "step_index": 0,
    "differs": "output",
    "expected": DIGEST_EXAMPLE,
    "found": OTHER_DIGEST_EXAMPLE,
}
REPORT_EXAMPLE: dict[str, Any] = {
    "format": FORMAT,
    "org_id": ID_EXAMPLE,
    "company_id": ID_EXAMPLE,
    "run_id": ID_EXAMPLE,
    "run_position": 22,
    "verification_run_id": OTHER_ID_EXAMPLE,
    "verification_position": 41,
    "started_at": TIME_EXAMPLE,
    "ended_at": TIME_EXAMPLE,
    "records_digest": DIGEST_EXAMPLE,
    "verdict": "diverged",
    "steps": [STEP_EXAMPLE],
    "divergence": DIVERGENCE_EXAMPLE,
}
ROW_EXAMPLE: dict[str, Any] = {
    "row": {"row_id": 7, "change": "changed", "fields": {"city": {"before": "bonn", "after": "Bonn"}}},
    "rows": {"added": 0, "removed": 0, "changed": 1},
    "why_no_row": None,
}
VERIFICATION_EXAMPLE: dict[str, Any] = {
    "report": REPORT_EXAMPLE,
    "first_row": ROW_EXAMPLE,
    "note": f"{FORMAT}\n{ID_EXAMPLE}\n{ID_EXAMPLE}\n{OTHER_ID_EXAMPLE}\ndiverged\nsha256:{DIGEST_EXAMPLE}\n\n"
    f"\N{EM DASH} history.example/{ID_EXAMPLE} Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGz"
    "Gku9nTo+zyWE+xeMcTOAYQ8=\n",
    "why_unsigned": None,
}

router = APIRouter(prefix="/v1/audit", tags=["verification"], route_class=CallRoute)


class StepOfReport(BaseModel):
    """What was recorded of a step, what was found, and the position of either in the log."""

    model_config = shown(**STEP_EXAMPLE)

    index: int
    key: str
    step_version: str
    config_digest: Annotated[str, Field(description="SHA-256 of the config as JSON with sorted keys.")]
    input_digest: str
    output_digest: str
    rejects_digest: str | None
    recorded_position: Position
    recorded_rows: int | None
    found_output_digest: str | None
    found_rejects_digest: str | None
    found_position: Position | None
    verdict: Literal[
        "reproduced", "diverged", "not_executed", "not_verified_has_effects", "version_not_installed", "failed"
    ]
    reason: str | None


class DivergenceOfReport(BaseModel):
    """The first step that gave something else than was recorded."""

    model_config = shown(**DIVERGENCE_EXAMPLE)

    step_index: int
    differs: Literal["input", "output", "rejects"]
    expected: str | None
    found: str | None


class Report(BaseModel):
    """What a verification found. The same log gives the same report."""

    model_config = shown(**REPORT_EXAMPLE)

    format: str
    org_id: Id
    company_id: Id
    run_id: Id
    run_position: Position
    verification_run_id: Id
    verification_position: Position
    started_at: str
    ended_at: str | None
    records_digest: str | None
    verdict: Literal["running", "reproduced", "diverged", "not_verified", "failed"]
    steps: list[StepOfReport]
    divergence: DivergenceOfReport | None


class FirstRow(BaseModel):
    """The first row, by its id, that differs (`before`: as recorded, `after`: as found), and how many do."""

    model_config = shown(**ROW_EXAMPLE)

    row: RowChange | None
    rows: dict[str, int] | None
    why_no_row: str | None


class Verification(BaseModel):
    """A verification's report, of a divergence the first row that differs, and the report's signature."""

    model_config = shown(**VERIFICATION_EXAMPLE)

    report: Report
    first_row: FirstRow | None
    note: Annotated[
        str | None,
        Field(description="A signed note (C2SP signed-note) with the verdict and the report's SHA-256: keep it."),
    ]
    why_unsigned: str | None


class VerifyRun(BaseModel):
    """Which run, one that has succeeded."""

    model_config = example(run_id=ID_EXAMPLE, wait_s=10)

    run_id: Id
    wait_s: Annotated[float, Field(ge=0, description="Wait so long for the verification's end, and embed it.")] = 0


class VerificationStarted(Done):
    """The run that executes the other one again, and with `wait_s` its report, once it has ended."""

    model_config = shown(
        verification_run_id=OTHER_ID_EXAMPLE,
        position=40,
        repeated=False,
        verification=VERIFICATION_EXAMPLE,
    )

    verification_run_id: Id
    verification: Verification | None = None


class GetVerification(Query):
    """Which verification: the id that `audit/verify_run` gave."""

    model_config = example(verification_run_id=OTHER_ID_EXAMPLE, wait_s=10)

    verification_run_id: Id
    wait_s: Annotated[float, Field(ge=0, description="Answer when it has ended, or after so many seconds.")] = 0


@router.post("/verify_run", status_code=201, response_model=VerificationStarted)
async def verify_run(body: VerifyRun, call: Authenticated) -> Response:
    """Execute a run's steps again from its recorded input, with the recorded configs and versions, and compare.

    That is a run of its own, which uses no earlier result, and which is no result of the submission. Steps with effects
    are not executed again: their recorded output is taken.
    """
    check_wait(call, body.wait_s)
    await must_see(call, RUN, body.run_id)
    row = await call.gateway.runs.load(RunKey(call.scope, body.run_id))
    input_rows = None if row is None else row["input_rows"]
    call.admit(rows=input_rows or 0)  # as a submission of them: no result is used again
    envelope = call.envelope({"run_id": body.run_id})
    verification_id = envelope.new_id(RUN)
    command = commands.VerifyRun(**envelope.fields(), aggregate_id=verification_id, run_id=body.run_id)
    ids = {"verification_run_id": verification_id}
    with await call.opening(verification_id) as opening:
        if not body.wait_s:
            return await answers.do(call, envelope, command, 201, opening, **ids)
        with call.gateway.signals.run_waiter(verification_id) as waiter:
            outcome = await call.gateway.commands.send(command)
            opening.settle(outcome)
            if isinstance(outcome, Deferred):
                return answers.deferred(envelope, **ids)
            gateway, key = call.gateway, RunKey(call.scope, verification_id)
            row = await gateway.runs.load(key) if outcome.repeated else None
            row = await wait_until_ended(gateway.runs, gateway.signals, waiter, key, row, body.wait_s)
            await call.still_allowed()
            return answers.accepted(outcome, 201, **ids, verification=await _ended(call, row))


@router.post("/verification", response_model=Verification)
async def verification(body: GetVerification, call: Authenticated) -> Response:
    """The report of a verification; with `wait_s`, as soon as it has ended."""
    check_wait(call, body.wait_s)
    scope: Scope = await call.caught_up(body.min_position)
    gateway, key = call.gateway, RunKey(scope, body.verification_run_id)
    with gateway.signals.run_waiter(body.verification_run_id) as waiter:
        row = answers.found(await gateway.runs.load(key), "run", body.verification_run_id)
        await wait_until_ended(gateway.runs, gateway.signals, waiter, key, row, body.wait_s)
    if body.wait_s:
        await call.still_allowed()
    return answers.json_response(await _verification(call, body.verification_run_id))


async def _ended(call: Call, row: Row | None) -> dict[str, Any] | None:
    """The verification, if it has ended."""
    return None if row is None or row["status"] == "running" else await _verification(call, row["run_id"])


async def _verification(call: Call, run_id: str) -> dict[str, Any]:
    with call.gateway.history_reads.one_more(call.org_id):  # both outputs are compared, and the archiver reads it too
        report, first_row = await report_of(call.gateway.log, call.gateway.payloads, call.org_id, run_id)
        signature = await signature_of(call.gateway.connection, call.gateway.proved, report)
    return {
        "report": report, "first_row": first_row, "note": signature.note, "why_unsigned": signature.why_unsigned,
    }  # fmt: skip
