"""Proofs over HTTP: they hold, they tell nothing of others, and an archive that was altered gives itself away."""

import gzip
from base64 import b64decode
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import pytest_asyncio
from nats.aio.client import Client

from events.audit import merkle
from events.audit.checkpoint import AuditKey, SignedCheckpoint
from events.audit.findings import Report
from events.audit.verify import verify
from events.leaf import leaf_bytes
from events.log import EventLog
from events.settings import Settings
from gateway.proved import NotProvedYetError, Proved
from gateway.state import Gateway
from tests.audit.archive import tamper
from tests.audit.support import company_decision
from tests.gateway.support import Person, World

COUNT = 300


@pytest_asyncio.fixture(loop_scope="session")
async def last(world: World, nats: Client, proving: AuditKey) -> int:
    """The org has a few hundred decisions, of its two companies and of nobody, and a stranger has some between them."""
    log, position = EventLog(nats), 0
    for number in range(COUNT):
        org_id = world.stranger.org_id if number % 10 == 9 else world.org_id
        company_id = (world.company_id, world.other_company_id, None)[number % 3]
        position = (await log.append(company_decision(org_id, company_id))).position
    return position


async def ask(client: httpx.AsyncClient, person: Person, path: str, **body: Any) -> dict[str, Any]:
    answer = await client.post(f"/v1/audit/{path}", json=body, headers=person.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def exported(client: httpx.AsyncClient, person: Person, **body: Any) -> list[bytes]:
    answer = await client.post("/v1/audit/export", json=body, headers=person.headers)
    assert answer.status_code == 200, answer.text
    content = gzip.decompress(answer.content) if body.get("gzip") else answer.content
    return content.splitlines(keepends=True)


def checked(lines: list[bytes], key: AuditKey, note: str | None = None, **given: Any) -> Report:
    return verify(lines, checkpoint=note, key=key.verifier(), **given)


def decisions(lines: list[bytes]) -> list[dict[str, Any]]:
    return [record for record in map(orjson.loads, lines) if "index" in record]


@pytest.mark.parametrize("packed", [False, True])
async def test_the_whole_history(
    packed: bool, client: httpx.AsyncClient, world: World, last: int, proving: AuditKey
) -> None:
    lines = await exported(client, world.admin, min_position=last, gzip=packed)
    note = (await ask(client, world.admin, "checkpoint"))["checkpoint"]
    report = checked(lines, proving, note)
    assert report.ok, report.finding
    assert (report.whole, report.decisions, report.org_id) == (True, COUNT * 9 // 10, world.org_id)
    assert world.stranger.org_id not in b"".join(lines).decode()


async def test_exports_are_streams_of_the_org_and_it_has_so_many(
    client: httpx.AsyncClient, gateway: Gateway, settings: Settings, world: World, last: int
) -> None:
    places = [gateway.streams.enter(world.org_id) for _ in range(settings.streams_per_org_max)]
    refused = await client.post("/v1/audit/export", json={"min_position": last}, headers=world.admin.headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_streams")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await client.post("/v1/audit/export", json={}, headers=world.stranger.headers)).status_code == 200
    places.pop()()
    await exported(client, world.admin, gzip=True)
    assert gateway.streams.under_way(world.org_id) == len(places)
    for leave in places:
        leave()


async def test_a_checkpoint_says_what_its_note_says(
    client: httpx.AsyncClient, world: World, last: int, proving: AuditKey
) -> None:
    found = await ask(client, world.company_admin, "checkpoint", min_position=last)
    signed = SignedCheckpoint.parse(found["checkpoint"])
    signed.check(proving.verifier(world.org_id))
    inside = signed.checkpoint
    assert (found["size"], found["org_id"], b64decode(found["root"])) == (inside.size, world.org_id, inside.root)
    assert (found["position"], found["epoch"]) == (inside.position, inside.epoch)
    kept = await ask(client, world.admin, "checkpoint", position=inside.position)
    assert kept["position"] >= inside.position


async def test_inclusion(client: httpx.AsyncClient, world: World, last: int, proving: AuditKey) -> None:
    entries = decisions(await exported(client, world.admin, min_position=last))
    for entry in (entries[0], entries[1], entries[255], entries[-1]):
        found = await ask(client, world.admin, "inclusion", position=entry["position"])
        (item,) = found["items"]
        leaf = merkle.leaf_hash(leaf_bytes(entry["position"], entry["subject"], entry["body"].encode()))
        assert (item["index"], b64decode(item["leaf_hash"])) == (entry["index"], leaf)
        root = merkle.root_of_inclusion(item["index"], found["size"], leaf, [b64decode(h) for h in item["path"]])
        signed = SignedCheckpoint.parse(found["checkpoint"])
        signed.check(proving.verifier())
        assert root == signed.checkpoint.root


async def test_consistency(client: httpx.AsyncClient, world: World, last: int, nats: Client) -> None:
    first = await ask(client, world.admin, "checkpoint", min_position=last)
    position = (await EventLog(nats).append(company_decision(world.org_id, None))).position
    second = await ask(client, world.admin, "checkpoint", min_position=position)
    assert second["size"] == first["size"] + 1
    roots = [b64decode(one["root"]) for one in (first, second)]
    for sizes in ({}, {"to_size": second["size"]}):
        found = await ask(client, world.admin, "consistency", from_size=first["size"], **sizes)
        path = [b64decode(one) for one in found["path"]]
        assert merkle.is_consistent(first["size"], second["size"], roots[0], roots[1], path)
        assert found["checkpoint"] == second["checkpoint"]
    older = await ask(client, world.admin, "consistency", from_size=3, to_size=first["size"])
    assert older["root"] == first["root"]
    nothing = await ask(client, world.admin, "consistency", from_size=0, to_size=0)
    assert (nothing["path"], b64decode(nothing["root"])) == ([], merkle.EMPTY_ROOT)
    for body in ({"from_size": 10**6}, {"from_size": 5, "to_size": 4}, {"from_size": 1, "to_size": 10**6}):
        answer = await client.post("/v1/audit/consistency", json=body, headers=world.admin.headers)
        assert answer.status_code == 422


async def test_a_part_of_the_positions(client: httpx.AsyncClient, world: World, last: int, proving: AuditKey) -> None:
    entries = decisions(await exported(client, world.admin, min_position=last))
    begin, end = entries[20]["position"], entries[260]["position"]
    lines = await exported(client, world.admin, from_position=begin, to_position=end, previous_sizes=[5, 270])
    report = checked(lines, proving)
    assert report.ok, report.finding
    assert (report.first_index, report.end_index, report.whole) == (20, 261, False)
    assert decisions(lines) == entries[20:261]
    beyond = await exported(client, world.admin, from_position=last + 1000)
    assert checked(beyond, proving).ok
    assert decisions(beyond) == []
    answer = await client.post("/v1/audit/export", json={"previous_sizes": [10**6]}, headers=world.admin.headers)
    assert answer.status_code == 422


async def test_a_company_sees_its_own_and_can_prove_it(
    client: httpx.AsyncClient, world: World, last: int, proving: AuditKey
) -> None:
    note = (await ask(client, world.company_admin, "checkpoint", min_position=last))["checkpoint"]
    mine = await exported(client, world.company_admin)
    assert checked(mine, proving, note).ok
    by_admin = await exported(client, world.admin, company_id=world.company_id)
    assert decisions(mine) == decisions(by_admin)
    assert {orjson.loads(one["body"])["company"] for one in decisions(mine)} == {world.company_id}
    everything = decisions(await exported(client, world.admin))
    foreign = next(one for one in everything if orjson.loads(one["body"])["company"] == world.other_company_id)
    refused = await client.post(
        "/v1/audit/inclusion", json={"position": foreign["position"]}, headers=world.company_admin.headers
    )
    assert refused.status_code == 404
    none = await client.post("/v1/audit/inclusion", json={"position": 10**12}, headers=world.company_admin.headers)
    assert none.status_code == 404
    for body in ({"company_id": world.other_company_id}, {"company_id": world.strange_company_id}):
        answer = await client.post("/v1/audit/export", json=body, headers=world.company_admin.headers)
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("statement", "kind", "index"),
    [
        ("UPDATE data_engine.event_log SET body = body || ' ' WHERE position = {}", "altered", 7),
        ("DELETE FROM data_engine.event_log WHERE position = {}", "removed", 7),
        ("UPDATE data_engine.event_log SET subject = subject || 'x' WHERE position = {}", "altered", 7),
        ("UPDATE data_engine.event_log SET org_id = '{stranger}' WHERE position = {}", "removed", 7),
        ("UPDATE data_engine.event_log SET org_id = '{own}' WHERE position = {foreign}", "wrong_org", None),
        ("DELETE FROM data_engine.event_log WHERE position >= {} AND org_id = '{own}'", "removed", 7),
        ("UPDATE data_engine.org_tiles SET hashes = set_byte(hashes, 8, 255 - get_byte(hashes, 8)), root = root"
         " WHERE org_id = '{own}'", "proof", 0),
    ],
)  # fmt: skip
async def test_an_altered_archive_gives_itself_away(
    statement: str, kind: str, index: int | None, client: httpx.AsyncClient, world: World, last: int,
    database: asyncpg.Pool, proving: AuditKey,
) -> None:  # fmt: skip
    """The owner of the database changes it; the export, as the gateway honestly gives it, says where."""
    note = (await ask(client, world.admin, "checkpoint", min_position=last))["checkpoint"]
    entries = decisions(await exported(client, world.admin))
    foreign = await database.fetchval(
        "SELECT position FROM data_engine.event_log WHERE org_id = $1::uuid LIMIT 1", world.stranger.org_id
    )
    names = {"stranger": world.stranger.org_id, "own": world.org_id, "foreign": foreign}
    async with database.acquire() as connection:
        rows = await connection.fetch("SELECT * FROM data_engine.event_log")
        tiles = await connection.fetch("SELECT * FROM data_engine.org_tiles")
    try:
        await tamper(database, statement.format(entries[7]["position"], **names))
        finding = checked(await exported(client, world.admin), proving, note).finding
    finally:
        await _put_back(database, "event_log", rows)
        await _put_back(database, "org_tiles", tiles)
    assert finding is not None
    assert finding.kind == kind, finding
    if index is not None:
        assert finding.index == index
    if kind == "altered":
        assert finding.position == entries[7]["position"]


async def test_an_altered_hash_of_the_last_tile(
    client: httpx.AsyncClient, world: World, last: int, database: asyncpg.Pool, nats: Client, proving: AuditKey
) -> None:
    """It is not kept as a tile yet; the proof of the first one goes through it."""
    position = (await EventLog(nats).append(company_decision(world.org_id, None))).position
    await ask(client, world.admin, "checkpoint", min_position=position)
    leaf = await database.fetchval("SELECT leaf_hash FROM data_engine.org_leaves WHERE position = $1", position)
    sql = "UPDATE data_engine.org_leaves SET leaf_hash = '\\x{}' WHERE position = {}"
    try:
        await tamper(database, sql.format("00" * 32, position))
        finding = checked(await exported(client, world.admin), proving).finding
    finally:
        await tamper(database, sql.format(leaf.hex(), position))
    assert finding is not None
    assert (finding.kind, finding.index) == ("proof", 0)


async def _put_back(database: asyncpg.Pool, table: str, rows: list[asyncpg.Record]) -> None:
    async with database.acquire() as connection, connection.transaction():
        await connection.execute(f"SET LOCAL session_replication_role = replica; DELETE FROM data_engine.{table}")
        await connection.copy_records_to_table(
            table, schema_name="data_engine", records=rows, columns=list(rows[0].keys()) if rows else None
        )


async def test_a_tree_that_lacks_hashes_is_an_error_of_its_own(
    client: httpx.AsyncClient, world: World, last: int, database: asyncpg.Pool
) -> None:
    await ask(client, world.admin, "checkpoint", min_position=last)
    rows = await database.fetch("SELECT * FROM data_engine.org_leaves")
    try:
        await tamper(
            database, f"DELETE FROM data_engine.org_leaves WHERE org_id = '{world.org_id}' AND leaf_index = 260"
        )
        answer = await client.post("/v1/audit/consistency", json={"from_size": 1}, headers=world.admin.headers)
    finally:
        await _put_back(database, "org_leaves", rows)
    assert (answer.status_code, answer.json()["code"]) == (500, "archive_altered")


async def test_of_members_and_of_nothing(client: httpx.AsyncClient, world: World, proving: AuditKey) -> None:
    for path, body in (
        ("checkpoint", {}),
        ("export", {}),
        ("inclusion", {"position": 1}),
        ("consistency", {"from_size": 0}),
    ):
        assert (await client.post(f"/v1/audit/{path}", json=body, headers=world.member.headers)).status_code == 403
    for path, body in (("checkpoint", {}), ("export", {}), ("consistency", {"from_size": 0})):
        answer = await client.post(f"/v1/audit/{path}", json=body, headers=world.admin.headers)
        assert answer.status_code == 404, path
    for body in ({}, {"position": 1, "run_id": world.org_id}):
        assert (await client.post("/v1/audit/inclusion", json=body, headers=world.admin.headers)).status_code == 422
    body = {"run_id": world.org_id, "company_id": world.company_id}
    assert (await client.post("/v1/audit/export", json=body, headers=world.admin.headers)).status_code == 422


async def test_waiting_for_what_is_not_proved_yet(gateway: Gateway, nats: Client) -> None:
    reads: list[int] = []

    async def read() -> int:
        reads.append(7)
        return 7

    waiting = Proved(nats, read)
    await waiting.wait(7)
    assert reads == [7]
    with pytest.raises(NotProvedYetError) as caught:
        await waiting.wait(8, timeout_s=0)
    assert caught.value.details["position"] == 7
