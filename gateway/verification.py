"""The report of a verification, and the first row that differs, found by comparing the two outputs."""

from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.errors import DataEngineError, UnavailableError
from events.log import EventLog
from events.payload import Payload, digest_of
from events.processing import RUN
from events.verification import Found, report, results_of, statement, verifies_of
from gateway.exports.diff import compare
from gateway.payloads import Kind, Payloads, Reference
from gateway.proved import Proved

ARCHIVED_WITHIN_S = 5.0


async def report_of(log: EventLog, payloads: Payloads, org_id: str, run_id: str) -> tuple[dict[str, Any], Any]:
    """The report of a verification as it is now, and what is known of the first row that differs, if one does.

    Raises NotFoundError, StateConflictError, UnavailableError.
    """
    history = await log.history(org_id, RUN, run_id)
    verified = await log.history(org_id, RUN, verifies_of(run_id, history).run_id)
    made = report(run_id, history, verified)
    divergence = made["divergence"]
    if divergence is None:
        return made, None
    index, differs = divergence["step_index"], divergence["differs"]
    if differs == "input":
        return made, _no_row("The recorded input is not what the step before it made: the record contradicts itself.")
    company_id = history[0].decision.company_id or ""
    before = _reference(org_id, company_id, results_of(verified).get(index), differs)
    after = _reference(org_id, company_id, results_of(history).get(index), differs)
    if before is None or after is None:
        return made, _no_row("One of the two has no rows there: the digests tell all.")
    return made, await _first_row(payloads, before, after)


@dataclass(frozen=True, slots=True)
class Signature:
    """The signed statement of a report, or why there is none."""

    note: str | None
    why_unsigned: str | None


async def signature_of(connection: Client, proved: Proved, made: dict[str, Any]) -> Signature:
    """Ask the archiver, who makes the report anew from the archive. What it signs is looked at, too."""
    if made["verdict"] == "running":
        return Signature(None, "It has not ended yet.")
    asked = {"org_id": made["org_id"], "verification_run_id": made["verification_run_id"]}
    try:
        await proved.wait(made["verification_position"], ARCHIVED_WITHIN_S)
        answer = await connection.request(subjects.SIGN_REPORT, strictjson.dumps(asked), timeout=ARCHIVED_WITHIN_S)
        told = strictjson.loads(answer.data)
    except UnavailableError as error:
        return Signature(None, error.message)
    except (nats.errors.Error, TimeoutError):
        return Signature(None, "No archiver with a key (DATA_ENGINE_AUDIT_KEY) answers.")
    if "note" not in told:
        return Signature(None, str(told.get("refused")))
    if not told["note"].startswith(f"{statement(made)}\n"):
        text = "The archive tells of another report than the log: one of them was altered. See `dex log check`."
        return Signature(None, text)
    return Signature(told["note"], None)


async def _first_row(payloads: Payloads, before: Reference, after: Reference) -> dict[str, Any]:
    """The first row that differs, with the values of both."""
    try:
        difference = await compare(payloads, before, after, 0, 1)
    except (DataEngineError, ValueError, KeyError) as error:
        return _no_row(f"The rows cannot be compared: {error.message if isinstance(error, DataEngineError) else error}")
    if not difference.items:
        if digest_of(await payloads.text(before)) != before.digest:
            return _no_row("The recorded rows are not those that the recorded digest is of: the record was altered.")
        return _no_row("Every row has the same values; their order or their encoding differs.")
    return {"row": difference.items[0], "rows": dict(difference.counts), "why_no_row": None}


def _no_row(why: str) -> dict[str, Any]:
    return {"row": None, "rows": None, "why_no_row": why}


def _reference(org_id: str, company_id: str, found: Found | None, differs: str) -> Reference | None:
    """Where the rows are that differ."""
    if found is None:
        return None
    kind: Kind = "rejects" if differs == "rejects" else "output"
    payload: Payload | None = found.result.rejects if kind == "rejects" else found.result.output
    if payload is None:
        return None
    return Reference(
        org_id, company_id, payload.digest, payload.size_bytes, payload.inline is not None, found.position,
        found.result.step_index, kind, payload.format,
    )  # fmt: skip
