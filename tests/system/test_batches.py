"""Large batches end to end: a file goes in, its steps run chunk by chunk, results are used again, files come out."""

import csv
import io
import json
import uuid

import httpx
import pyarrow.parquet
import pytest

from events import subjects
from events.connection import connect
from events.upload import PART_BYTES
from services.ingest.config import CHUNK_ROWS
from tests.system.client import Org

ROWS = 2 * CHUNK_ROWS + 500
STEPS = [
    {"key": "normalize_text", "config": {"fields": ["name"], "case": "title"}},
    {"key": "normalize_email", "config": {"field": "email", "on_error": "reject"}},
    {"key": "deduplicate", "config": {"keys": [["email"]]}},
]


def export(rows: int = ROWS) -> str:
    """A CSV file: each tenth row repeats the address of the one before, each hundredth has none that is valid."""
    lines = ["id,name,email"]
    for row in range(rows):
        email = "not an address" if row % 100 == 50 else f"p{row - (row % 10 == 1)}@example.com"
        lines.append(f"{row:07d},  ann {row} , {email.upper()}")
    return "\n".join(lines) + "\n"


async def upload(org: Org, blueprint: str, content: bytes | str, key: str | None = None, **told) -> httpx.Response:
    data = content.encode() if isinstance(content, str) else content
    params = {"company_id": org.company_id, "blueprint_id": blueprint, **told}
    headers = {"Idempotency-Key": key} if key else {}
    return await org.http.post("submissions/upload", params=params, content=data, headers=headers)


async def uploaded(org: Org, blueprint: str, content: bytes | str, **told) -> dict:
    response = await upload(org, blueprint, content, **told)
    assert response.status_code == 201, response.text
    return response.json()


async def downloaded(org: Org, run_id: str, file_format: str, **more) -> bytes:
    response = await org.post("results/download", {"run_id": run_id, "format": file_format, **more})
    assert response.status_code == 200, response.text
    return response.content


@pytest.fixture(scope="module")
async def big(system, org_factory) -> tuple[Org, str, dict, dict]:
    """An org whose file has been through the steps; the blueprint, what the upload answered, and the run."""
    org = await org_factory()
    blueprint = await org.blueprint(*STEPS)
    made = await uploaded(org, blueprint, export())
    return org, blueprint, made, await org.ended(made, wait_s=60)


async def test_a_file_goes_through_its_steps_and_comes_out(big):
    org, _, made, run = big
    assert run["status"] == "succeeded", run
    results = await org.steps(made, run["last_position"])
    assert [step["step_key"] for step in results] == ["read_file", *(step["key"] for step in STEPS)]
    rejected = ROWS // 100
    copies = sum(1 for row in range(ROWS) if row % 10 == 1 and row % 100 != 51)
    assert [step["output"]["rows"] for step in results] == [ROWS, ROWS, ROWS - rejected, ROWS - rejected - copies]
    assert results[0]["report"]["dialect"]["delimiter"] == ","
    assert results[0]["report"]["fields"]["id"]["kind"] == "text", "leading zeros are no number"
    assert results[3]["report"]["removed"] == copies

    rows = list(csv.DictReader(io.StringIO((await downloaded(org, run["run_id"], "csv", row_ids=True)).decode())))
    assert len(rows) == ROWS - rejected - copies
    assert rows[0] == {"row_id": "0", "id": "0000000", "name": "Ann 0", "email": "P0@example.com"}
    assert [row["row_id"] for row in rows[:3]] == ["0", "2", "3"]
    lines = (await downloaded(org, run["run_id"], "jsonl")).splitlines()
    assert json.loads(lines[-1])["id"] == rows[-1]["id"]
    table = pyarrow.parquet.read_table(io.BytesIO(await downloaded(org, run["run_id"], "parquet")), use_threads=False)
    assert table.column("email").to_pylist() == [row["email"] for row in rows]

    lines = (await downloaded(org, run["run_id"], "jsonl", step_index=2, kind="rejects")).splitlines()
    rejects = [json.loads(line) for line in lines]
    assert len(rejects) == rejected
    assert rejects[0] == {"row": 50, "field": "email", "code": "invalid_email", "value": " NOT AN ADDRESS"}


async def test_pages_of_a_large_batch(big):
    org, _, _, run = big
    first = await org.call("results/get", {"run_id": run["run_id"], "limit": 1000})
    assert len(first["records"]) == 1000
    page = first
    for _ in range(30):
        page = await org.call("results/get", {"run_id": run["run_id"], "limit": 1000, "cursor": page["next_cursor"]})
    downloads = (await downloaded(org, run["run_id"], "jsonl")).splitlines()
    assert page["records"] == [json.loads(line) for line in downloads[30_000:31_000]]
    assert await downloaded(org, run["run_id"], "csv", step_index=0, kind="rejects") == b"row,field,code,value\n"
    refused = await org.post("results/get", {"run_id": run["run_id"], "step_index": 0, "kind": "input"})
    assert (refused.status_code, refused.json()["code"]) == (409, "input_is_file")


async def test_a_page_of_large_records_has_fewer_of_them(big):
    org, _, _, _ = big
    keep = await org.blueprint({"key": "sort_limit", "config": {"keys": [{"field": "n"}]}})
    made = await uploaded(org, keep, "n,text\n" + "".join(f"{n:03},{'x' * 900_000}\n" for n in range(12)))
    run = await org.ended(made, wait_s=60)
    pages, cursor = [], None
    while True:
        page = await org.call("results/get", {"run_id": run["run_id"], "cursor": cursor})
        pages.append([record["n"] for record in page["records"]])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages == [[f"{n:03}" for n in range(at, min(at + 5, 12))] for at in (0, 5, 10)]


async def test_a_rerun_executes_nothing_and_says_whose_result_it_is(big):
    org, _, made, run = big
    again = await org.call("runs/create", {"submission_id": made["submission_id"]})
    ended = await org.ended(again)
    results = await org.steps(again, ended["last_position"])
    assert [step["reused_from_run_id"] for step in results] == [run["run_id"]] * 4
    assert [step["duration_us"] for step in results] == [None] * 4
    same = await org.call("runs/diff", {"run_id": again["run_id"], "before_run_id": run["run_id"]})
    assert (same["added"], same["removed"], same["changed"]) == (0, 0, 0)


async def test_reuse_may_be_turned_off_and_gives_the_same_bytes(big):
    org, _, made, run = big
    again = await org.call("runs/create", {"submission_id": made["submission_id"], "reuse_results": False})
    ended = await org.ended(again)
    before = await org.steps(made, run["last_position"])
    results = await org.steps(again, ended["last_position"])
    assert [step["reused_from_run_id"] for step in results] == [None] * 4
    assert [step["output"]["digest"] for step in results] == [step["output"]["digest"] for step in before]


async def test_the_same_file_with_another_last_step_uses_what_is_the_same(big):
    org, _, _, run = big
    changed = [*STEPS[:2], {"key": "deduplicate", "config": {"keys": [["email"]], "keep": "last"}}]
    made = await uploaded(org, await org.blueprint(*changed), export())
    results = await org.steps(made, (await org.ended(made))["last_position"])
    assert [step["reused_from_run_id"] is None for step in results] == [False, False, False, True]
    other = await org.post("runs/diff", {"run_id": made["run_id"], "before_run_id": run["run_id"]})
    assert other.status_code == 409, "runs of two submissions"


async def test_nobody_uses_the_results_of_another_company(big, org_factory):
    org, blueprint, _, _ = big
    company = (await org.call("companies/create", {"name": "Other"}))["company_id"]
    made = await uploaded(org, blueprint, export(100), company_id=org.company_id)
    await org.ended(made)
    response = await org.http.post(
        "submissions/upload", params={"company_id": company, "blueprint_id": blueprint}, content=export(100)
    )
    theirs = response.json()
    results = await org.steps(theirs, (await org.ended(theirs))["last_position"])
    assert [step["reused_from_run_id"] for step in results] == [None] * 4
    stranger = await org_factory()
    for endpoint in ("results/download", "runs/get", "results/get"):
        assert (await stranger.post(endpoint, {"run_id": made["run_id"]})).status_code == 404


async def test_what_changed_between_two_runs(system, org_factory):
    org = await org_factory()
    blueprint = await org.blueprint("test_nonce")
    made = await uploaded(org, blueprint, "a,b\n1,x\n2,y\n3,z\n")
    first = await org.ended(made)
    again = await org.call("runs/create", {"submission_id": made["submission_id"], "reuse_results": False})
    await org.ended(again)
    diff = await org.call("runs/diff", {"run_id": again["run_id"], "before_run_id": first["run_id"], "limit": 2})
    assert (diff["added"], diff["removed"], diff["changed"], diff["changed_by_field"]) == (0, 0, 3, {"nonce": 3})
    assert [item["row_id"] for item in diff["items"]] == [0, 1]
    assert set(diff["items"][0]["fields"]) == {"nonce"}
    rest = await org.call(
        "runs/diff", {"run_id": again["run_id"], "before_run_id": first["run_id"], "cursor": diff["next_cursor"]}
    )
    assert [item["row_id"] for item in rest["items"]] == [2]


async def test_an_upload_may_wait_for_its_run(big):
    org, blueprint, _, _ = big
    made = await uploaded(org, blueprint, "email,name\na@b.com,x\n", start_run="false", name="later")
    assert made["run_id"] is None
    started = await org.call("runs/create", {"submission_id": made["submission_id"]})
    run = await org.ended(started)
    assert (run["status"], run["steps"][0]["key"]) == ("succeeded", "read_file")


async def test_an_upload_is_idempotent(big):
    org, blueprint, _, _ = big
    key = str(uuid.uuid4())
    first, again = [(await upload(org, blueprint, "email,name\na@b.com,x\n", key)).json() for _ in range(2)]
    assert (again["submission_id"], again["repeated"]) == (first["submission_id"], True)
    assert (await upload(org, blueprint, "email,name\nother@b.com,x\n", key)).status_code == 409


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"read": "not json"}, 422),
        ({"read": "[]"}, 422),
        ({"read": '{"no_such": 1}'}, 422),
        ({"blueprint_id": "x"}, 422),
        ({"surprise": "1"}, 422),
    ],
)
async def test_what_is_told_of_a_file_is_checked(big, told, code):
    org, blueprint, _, _ = big
    response = await upload(org, blueprint, "email,name\na@b.com,x\n", **told)
    assert response.status_code == code, response.text


async def test_what_is_wrong_with_the_config_of_a_file_is_said_where_it_stands(big):
    org, blueprint, _, _ = big
    told = {"read": '{"delimiter": ";;", "columns": {"a": "integers"}}'}
    problem = (await upload(org, blueprint, "email,name\na@b.com,x\n", **told)).json()
    assert [fault["path"] for fault in problem["errors"]] == ["/query/read/columns/a", "/query/read/delimiter"]


@pytest.mark.parametrize("wrong", ["company_id", "blueprint_id", "read"])
async def test_a_file_for_nothing_is_refused_and_nothing_of_it_is_kept(system, big, wrong):
    org, blueprint, _, _ = big
    connection = await connect([system.endpoints.nats_url], "check")

    async def kept() -> dict[str, int] | None:
        mine = subjects.blob(org.org_id, ">")
        return (await connection.jetstream().stream_info(subjects.BLOBS, mine)).state.subjects

    async def parts():
        for _ in range(3):
            yield uuid.uuid4().bytes * (PART_BYTES // 16)

    told = {"company_id": org.company_id, "blueprint_id": blueprint} | {wrong: str(uuid.uuid4())}
    try:
        before = await kept()
        assert before
        response = await org.http.post("submissions/upload", params=told, content=parts(), timeout=60)
        assert (response.status_code, response.json()["code"]) in ((404, "not_found"), (422, "invalid_input"))
        assert await kept() == before
    finally:
        await connection.close()


async def test_an_upload_is_repeated_after_its_blueprint_was_archived(big):
    org, _, _, _ = big
    blueprint, key = await org.blueprint("test_count"), str(uuid.uuid4())
    first = (await upload(org, blueprint, "n\n", key, start_run="false")).json()
    await org.call("blueprints/archive", {"blueprint_id": blueprint})
    again = await upload(org, blueprint, "n\n", key, start_run="false")
    assert (again.status_code, again.json()["submission_id"]) == (201, first["submission_id"])
    assert (await upload(org, blueprint, "n\n", start_run="false")).json()["code"] == "state_conflict"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"PAR1" + b"\x00" * 100, "damaged_file"),
        (b"\x1f\x8b\x08\x00garbage", "damaged_file"),
        (b"name,city\nx,y\n", "unknown_field"),
    ],
)
async def test_a_file_that_cannot_be_read_ends_its_run_with_the_reason(big, content, code):
    org, blueprint, _, _ = big
    run = await org.ended(await uploaded(org, blueprint, content))
    assert run["status"] == "failed"
    assert run["error"]["code"] == code
    assert run["error"]["message"]


async def test_a_row_by_row_step_over_records_keeps_its_place_in_a_file(big):
    """What a plugged-in step over records makes of chunks: ids, rejects, and a file of the same rows."""
    org, _, _, _ = big
    derive = {"key": "derive", "config": {"fields": {"n": "int(row.id) + 1"}, "on_error": "reject"}}
    blueprint = await org.blueprint(derive)
    made = await uploaded(org, blueprint, "id\n1\nx\n3\n")
    run = await org.ended(made)
    assert (await downloaded(org, run["run_id"], "csv", row_ids=True)).decode() == 'row_id,id,n\n0,"1",2\n2,"3",4\n'


async def test_pseudonyms_are_an_orgs_own(big, org_factory):
    found = []
    for org in (big[0], await org_factory()):
        mask = {"key": "mask_fields", "config": {"fields": ["email"], "method": "pseudonym"}}
        made = await org.submit(
            await org.blueprint("test_count", mask), [{"email": "ann@example.com"}, {"email": None}]
        )
        run = await org.ended(made)
        assert run["status"] == "succeeded", run
        found.append((await org.call("results/get", {"run_id": run["run_id"]}))["records"])
    (ours, nobody), (theirs, _) = found
    assert len(ours["email"]) == len(theirs["email"]) == 32
    assert ours["email"] != theirs["email"]
    assert nobody["email"] is None


async def test_a_run_of_another_submission_is_not_compared(big):
    org, blueprint, _, run = big
    other = await org.ended(await uploaded(org, blueprint, "email,name\na@b.com,x\n"))
    for ids in ((run["run_id"], other["run_id"]), (other["run_id"], run["run_id"])):
        answer = await org.post("runs/diff", dict(zip(("run_id", "before_run_id"), ids, strict=True)))
        assert (answer.status_code, answer.json()["code"]) == (409, "other_submission")


async def test_rows_are_looked_up_in_the_output_of_another_run(big, org_factory):
    org, _, _, _ = big
    plain = await org.blueprint({"key": "map_fields", "config": {}})
    regions = await org.ended(await uploaded(org, plain, "code,region\nDE,EMEA\nUS,AMER\n"))
    config = {"run_id": regions["run_id"], "keys": {"country": "code"}, "fields": {"region": "region"}}
    joined = await org.blueprint("test_count", {"key": "lookup_join", "config": config})
    run = await org.ended(await org.submit(joined, [{"country": "US"}, {"country": "FR"}]))
    assert run["status"] == "succeeded", run
    records = (await org.call("results/get", {"run_id": run["run_id"]}))["records"]
    assert [record["region"] for record in records] == ["AMER", None]

    stranger = await org_factory()
    theirs = await stranger.blueprint({"key": "lookup_join", "config": config})
    refused = await stranger.ended(await stranger.submit(theirs, [{"country": "US"}]))
    assert (refused["status"], refused["error"]["code"]) == ("failed", "unknown_run")
