"""`dex audit verify-run`: a run executed again, and its report."""

import time
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from cli.api import Api
from cli.auditing import verify_file
from cli.render import console, facts_table, harmless, shown
from events.audit.note import Note, Verifier
from events.errors import InvalidInputError, ProofError
from events.mapper import decode_decision, decode_opened
from events.model import Recorded
from events.processing import RUN
from events.subjects import SEALED_PREFIX
from events.verification import Found, results_of, statement

WAIT_S = 20.0
DIGEST_CHARS = 12
"""Of a digest in the table; `--json` has all of it."""
STEP_FACTS = ("recorded_position", "input_digest", "output_digest", "rejects_digest", "recorded_rows")
"""What a report says of a step, and a proved history too."""


def verify(api: Api, run_id: str, wait_s: float, out: Path | None) -> dict[str, Any]:
    """Verify a run, and wait for the end; the verification. Raises InvalidInputError where it cannot be written."""
    started = api.create("audit/verify_run", {"run_id": run_id})
    deadline_s = time.monotonic() + wait_s
    body: dict[str, Any] = {
        "verification_run_id": started["verification_run_id"],
        "min_position": started.get("position"),  # a command that was deferred has none yet
    }
    while True:
        left_s = max(0.0, min(WAIT_S, deadline_s - time.monotonic()))
        made = api.call("audit/verification", body | {"wait_s": left_s})
        if made["report"]["verdict"] != "running" or left_s == 0:
            break
    if out is not None:
        try:
            out.write_bytes(orjson.dumps(made, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
        except OSError as error:
            raise InvalidInputError(f"{out} cannot be written: {error}") from error
    return made


def show_verification(made: Mapping[str, Any]) -> None:
    """The verdict, a row for each step, and the first row that differs."""
    report, first_row = made["report"], made["first_row"]
    console.print(f"Run {shown(report['run_id'])}: [bold]{report['verdict'].replace('_', ' ')}[/]", soft_wrap=True)
    console.print(f"executed again as {shown(report['verification_run_id'])}", soft_wrap=True, highlight=False)
    rows = [
        (
            step["index"] + 1, step["key"], step["step_version"][:40], step["recorded_rows"],
            step["output_digest"][:DIGEST_CHARS], (step["found_output_digest"] or "")[:DIGEST_CHARS],
            step["verdict"].replace("_", " "), step["recorded_position"],
        )
        for step in report["steps"]
    ]  # fmt: skip
    signed = made["why_unsigned"] if made["note"] is None else "signed; check it with dex audit verify-report"
    console.print(f"Signature: {shown(signed)}", soft_wrap=True, highlight=False)
    columns = ("#", "step", "version", "rows", "recorded output", "found output", "verdict", "position")
    console.print(facts_table("Steps", columns, rows))
    for step in report["steps"]:
        if step["reason"]:
            console.print(harmless(f"{step['key']}: {step['reason']}"), markup=False, soft_wrap=True)
    if (found := report["divergence"]) is not None:
        console.print(
            harmless(
                f"Step {found['step_index'] + 1} differs in its {found['differs']}: recorded {found['expected']}, "
                f"found {found['found']}."
            ),
            markup=False,
            soft_wrap=True,
        )
        _show_row(first_row)


def check_report(file: Path, key: str) -> dict[str, Any]:
    """Check offline a file that `dex audit verify-run --out` wrote: the signature, and that it is this report's.

    The report. Raises ProofError, and InvalidInputError for a file of another kind.
    """
    try:
        made = orjson.loads(file.read_bytes())
        report, note = made["report"], made["note"]
        text = statement(report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{file} is no report of a verification: {error!r}") from error
    if note is None:
        raise ProofError(f"The report is not signed: {made.get('why_unsigned')}")
    signed = Note.parse(note)
    verifier = Verifier.parse(key)
    if verifier.name == signed.signatures[0][0].rpartition("/")[0]:  # the platform's key, under an org's name
        verifier = Verifier(f"{verifier.name}/{report['org_id']}", verifier.key)
    signed.check(verifier)
    if signed.text != text:
        raise ProofError("The report is not the one that was signed: it was altered.")
    return dict(report)


def check_recorded(report: Mapping[str, Any], export: Path, key: str, *, quiet: bool) -> int:
    """Check offline that a proved history records what a report says of it: of each step where, what it read, made and
    rejected. How many steps that are.

    The export has the run, opened. Raises ProofError, and InvalidInputError when the export does not tell.
    """
    run_id, decisions = report["run_id"], list[Recorded]()

    def keep(line: Mapping[str, Any]) -> None:
        if line["subject"].split(".")[2:4] == [RUN, run_id]:
            decisions.append(_decoded(line))

    found = verify_file(export, None, key, [], quiet=quiet, each=keep)
    if found.finding is not None:
        raise ProofError(f"{export} is not proved: {found.finding.message}")
    if found.org_id != report["org_id"] or not decisions:
        raise InvalidInputError(f"{export} has nothing of the run {run_id}.")
    recorded = results_of(decisions)
    try:
        for step in report["steps"]:
            _must_be_recorded(step, _facts(recorded.get(step["index"])))
    except (KeyError, TypeError) as error:
        raise ProofError(f"The report is signed, and not of the form of one: {error!r}") from error
    return len(report["steps"])


def _must_be_recorded(step: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Raises ProofError naming what a report says otherwise of a step than the history."""
    said = {name: step[name] for name in STEP_FACTS}
    if there != said:
        wrong = ", ".join(f"{name} {there[name]}, not {said[name]}" for name in said if there[name] != said[name])
        raise ProofError(f"Step {step['index'] + 1} ({step['key']}) is recorded otherwise than reported: {wrong}.")


def _facts(found: Found | None) -> dict[str, Any]:
    """What is recorded of a step's result, under the names that the report has for it."""
    if found is None:
        return dict.fromkeys(STEP_FACTS)
    result = found.result
    rejects = None if result.rejects is None else result.rejects.digest
    values = (found.position, result.input_digest, result.output.digest, rejects, result.output.rows)
    return dict(zip(STEP_FACTS, values, strict=True))


def _decoded(line: Mapping[str, Any]) -> Recorded:
    """A proved decision. Raises InvalidInputError when it is sealed, and the export does not say what it says."""
    body, at = line["body"].encode(), datetime.fromisoformat(line["recorded_at"])
    if not body.startswith(SEALED_PREFIX):
        return Recorded(line["position"], decode_decision(line["subject"], body), at)
    if "opened" not in line:
        raise InvalidInputError(
            f"The decision at position {line['position']} is sealed, and the export does not open it: make it with "
            "dex audit export --open, before the company is erased."
        )
    opening = b64decode(line["opened"]["salt"]) + line["opened"]["text"].encode()
    return Recorded(line["position"], decode_opened(line["subject"], body, opening), at)


def _show_row(first_row: Mapping[str, Any]) -> None:
    row = first_row["row"]
    if row is None:
        console.print(harmless(first_row["why_no_row"]), markup=False, soft_wrap=True)
        return
    counts = ", ".join(f"{count} {what}" for what, count in first_row["rows"].items())
    fields = [(name, _shown(sides, "before"), _shown(sides, "after")) for name, sides in row["fields"].items()]
    title = f"First row that differs: {row['row_id']} ({row['change']}); in all: {counts}"
    console.print(facts_table(shown(title), ("field", "recorded", "found"), fields))


def _shown(sides: Mapping[str, Any], side: str) -> str:
    return orjson.dumps(sides[side]).decode() if side in sides else "(none)"
