"""An auditor reads what is sealed, offline, and compares it with what is proved: by an export that opens it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import orjson
import pytest

from cli.system import System
from cli.verifying import check_recorded
from events.audit.checkpoint import AuditKey
from events.audit.verify import verify
from events.errors import InvalidInputError, ProofError
from events.settings import Settings
from tests.audit.archive import PAST_THE_TRIGGERS
from tests.system.client import Org
from tests.system.test_erasure import erase
from tests.system.test_verifications import a_run, verified

STEPS = ("test_count", "test_count")
AT_POSITION = "SELECT position, subject, body FROM data_engine.event_log WHERE position = $1"


@pytest.fixture
def key(system_settings: Settings) -> str:
    assert system_settings.audit_key is not None
    return str(AuditKey.of(system_settings.audit_key.get_secret_value(), system_settings.audit_origin).verifier())


async def exported(org: Org, file: Path, **asked: object) -> list[dict]:
    answer = await org.post("audit/export", asked)
    assert answer.status_code == 200, answer.text
    file.write_bytes(answer.content)
    return [line for line in map(orjson.loads, answer.content.splitlines()) if "subject" in line]


@pytest.fixture
async def archive(system: System) -> AsyncIterator[asyncpg.Pool]:
    assert system.endpoints is not None
    async with asyncpg.create_pool(system.endpoints.database_url, min_size=1, max_size=1) as pool:
        yield pool


@pytest.fixture
async def other(org_factory: Callable[[], Awaitable[Org]]) -> Org:
    return await org_factory()


async def past_the_triggers(archive: asyncpg.Pool, statement: str, *values: object) -> None:
    async with archive.acquire() as connection, connection.transaction():
        await connection.execute(PAST_THE_TRIGGERS)
        await connection.execute(statement, *values)


def misquoted(export: bytes) -> Iterator[bytes]:
    """The export whose decisions are said to say something else than what was sealed."""
    for line in map(orjson.loads, export.splitlines()):
        if "opened" in line:
            line["opened"]["text"] = line["opened"]["text"].replace("test_count", "test_amount")
        yield orjson.dumps(line) + b"\n"


async def test_a_report_is_what_the_proved_history_records(org: Org, key: str, tmp_path: Path) -> None:
    run = await a_run(org, *STEPS)
    report = (await verified(org, run["run_id"]))["report"]
    asked = {"run_id": run["run_id"], "min_position": report["verification_position"]}
    decisions = await exported(org, tmp_path / "opened.ndjson", **asked, open_sealed=True)
    assert all(json.loads(line["opened"]["text"])["events"] for line in decisions)
    assert check_recorded(report, tmp_path / "opened.ndjson", key, quiet=True) == len(STEPS)

    for name, value in (("output_digest", "0" * 64), ("recorded_position", 1), ("recorded_rows", 7)):
        steps = [report["steps"][0], report["steps"][1] | {name: value}]
        with pytest.raises(ProofError, match=rf"Step 2 .* {name} .*, not {value}"):
            check_recorded(report | {"steps": steps}, tmp_path / "opened.ndjson", key, quiet=True)
    sealed = await exported(org, tmp_path / "sealed.ndjson", **asked)
    assert not any("opened" in line for line in sealed)
    with pytest.raises(InvalidInputError, match="--open"):
        check_recorded(report, tmp_path / "sealed.ndjson", key, quiet=True)
    (tmp_path / "altered.ndjson").write_bytes(b"".join(misquoted((tmp_path / "opened.ndjson").read_bytes())))
    with pytest.raises(ProofError, match="not what was sealed"):
        check_recorded(report, tmp_path / "altered.ndjson", key, quiet=True)


async def test_one_of_another_run_tells_nothing(org: Org, key: str, tmp_path: Path) -> None:
    one, two = await a_run(org, *STEPS), await a_run(org, *STEPS)
    report = (await verified(org, one["run_id"]))["report"]
    asked = {"run_id": two["run_id"], "min_position": report["verification_position"]}
    await exported(org, tmp_path / "other.ndjson", **asked, open_sealed=True)
    with pytest.raises(InvalidInputError, match="nothing of the run"):
        check_recorded(report, tmp_path / "other.ndjson", key, quiet=True)


async def test_what_an_erased_company_said_is_opened_for_nobody(org: Org, key: str, tmp_path: Path) -> None:
    run = await a_run(org, *STEPS)
    erased = await erase(org)
    asked = {"min_position": erased["position"], "open_sealed": True}
    decisions = await exported(org, tmp_path / "after.ndjson", **asked)
    of_company = [line for line in decisions if org.company_id in line.get("body", "") and '"box"' in line["body"]]
    assert len(of_company) >= len(STEPS)
    assert not any("opened" in line for line in of_company)
    lines = (tmp_path / "after.ndjson").read_bytes().splitlines(keepends=True)
    assert (await org.post("runs/get", {"run_id": run["run_id"]})).status_code == 404
    note = (await org.call("audit/checkpoint", {"min_position": erased["position"]}))["checkpoint"]
    assert verify(lines, checkpoint=note, key=None).ok


@pytest.mark.parametrize("altered", ["what is sealed", "whose it is", "its org"])
async def test_what_was_altered_in_the_archive_goes_out_closed(
    org: Org, other: Org, key: str, tmp_path: Path, archive: asyncpg.Pool, altered: str
) -> None:
    """An export that broke off there would hide from the auditor where the history was altered."""
    run = await a_run(org, *STEPS)
    of_other = await a_run(other, *STEPS)
    last, last_of_other = run["last_position"], of_other["last_position"]
    asked = {"run_id": run["run_id"], "min_position": last}
    await org.call("audit/checkpoint", {"min_position": last})
    await other.call("audit/checkpoint", {"min_position": last_of_other})
    row, theirs = [await archive.fetchrow(AT_POSITION, position) for position in (last, last_of_other)]
    assert row is not None
    assert theirs is not None
    body = {
        "what is sealed": row["body"][:-9] + b"AAAA" + row["body"][-5:],
        "whose it is": row["body"].replace(org.company_id.encode(), other.company_id.encode()),
        "its org": theirs["body"],
    }[altered]
    subject = theirs["subject"] if altered == "its org" else row["subject"]
    assert body != row["body"]
    change = "UPDATE data_engine.event_log SET body = $2, subject = $3 WHERE position = $1"
    try:
        await past_the_triggers(archive, change, row["position"], body, subject)
        decisions = await exported(org, tmp_path / "altered.ndjson", **asked, open_sealed=True)
    finally:
        await past_the_triggers(archive, change, row["position"], row["body"], row["subject"])
    assert [line["position"] for line in decisions if "opened" not in line] == [row["position"]]
    found = verify((tmp_path / "altered.ndjson").read_bytes().splitlines(keepends=True), checkpoint=None, key=None)
    assert found.finding is not None
    assert found.finding.position == row["position"]
