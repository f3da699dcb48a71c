"""`dex log check`: whatever is done to either copy is found, and where."""

import pytest

from projections.archive.check import check
from tests.projections.archiving import archive_all
from tests.projections.support import World, make_log_anew, whole_run

AS_SUPERUSER = "BEGIN; SET LOCAL session_replication_role = replica; {}; COMMIT"
TABLE = "data_engine.event_log"


async def tamper(world: World, sql: str) -> None:
    """What only somebody with all rights on the database can do."""
    await world.pool.execute(AS_SUPERUSER.format(sql))


async def test_two_whole_copies_are_found_whole(world):
    last = await world.append(*(whole_run(number) for number in range(1, 5)))
    await archive_all(world)
    await world.append(whole_run(5))
    told = []
    found = await check(world.pool, world.nats, told.append)
    assert found.ok
    assert (found.compared, found.archived, found.not_archived) == (last, last, len(whole_run(5).recorded))
    assert told[-1].position == told[-1].total == last


async def test_nothing_at_all_is_whole(world):
    assert (await check(world.pool, world.nats)).ok


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (f"UPDATE {TABLE} SET body = body || 'x' WHERE position = 3", {(3, "altered"), (3, "differs")}),
        (f"UPDATE {TABLE} SET subject = subject || 'x' WHERE position = 5", {(5, "altered"), (5, "differs")}),
        (f"UPDATE {TABLE} SET chain = sha256(chain) WHERE position = 4", {(4, "altered"), (5, "altered")}),
        (f"DELETE FROM {TABLE} WHERE position = 2", {(2, "missing"), (3, "altered")}),
        (f"DELETE FROM {TABLE} WHERE position >= 5", {(5, "missing")}),
        (f"DELETE FROM {TABLE} WHERE position = 1", {(1, "missing"), (2, "altered")}),
        (f"TRUNCATE {TABLE}", {(1, "missing")}),
        (
            f"INSERT INTO {TABLE} (position, recorded_at, subject, body, decision_id, chain) "
            "VALUES (99, now(), 'events.x', '', '', '')",
            {(99, "inserted")},
        ),
        (
            f"UPDATE {TABLE} SET position = position + 1000 WHERE position IN (2, 3); "
            f"UPDATE {TABLE} SET position = 1005 - position WHERE position > 1000",
            {(2, "altered"), (3, "altered"), (2, "differs"), (3, "differs"), (4, "altered")},
        ),
        (f"UPDATE {TABLE} SET org_id = gen_random_uuid() WHERE position = 6", {(6, "column")}),
        (f"UPDATE {TABLE} SET company_id = gen_random_uuid() WHERE position = 6", {(6, "column")}),
        ("UPDATE data_engine.event_log_head SET chain = sha256(chain)", {(6, "head")}),
        ("UPDATE data_engine.event_log_head SET position = 4", {(5, "inserted"), (4, "head")}),
        ("DELETE FROM data_engine.event_log_head", {(1, "inserted")}),
    ],
)  # fmt: skip
async def test_tampering_with_the_archive_is_located(world, sql, expected):
    await world.append(*(whole_run(number) for number in range(1, 4)))
    assert await archive_all(world) == 6
    await tamper(world, sql)
    found = await check(world.pool, world.nats)
    places = {(fault.position, fault.kind) for fault in found.faults if fault.kind != "column"}
    places |= {(fault.position, fault.kind) for fault in found.faults if (fault.position, "column") in expected}
    assert places == expected
    assert found.of_archive()


async def test_another_log_is_found(world):
    await world.append(*(whole_run(number) for number in range(1, 4)))
    await archive_all(world)
    await make_log_anew(world.nats)
    await world.append(whole_run(1), whole_run(7))
    found = await check(world.pool, world.nats)
    assert {(fault.position, fault.kind) for fault in found.faults} == {
        (0, "epoch"),
        (3, "differs"),
        (4, "differs"),
        (5, "log_cut"),
    }
    assert found.of_archive() == []
