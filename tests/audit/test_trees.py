"""The trees that are built from the archive: what they are, that nothing is added twice, and what stops them."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from events.audit.checkpoint import SignedCheckpoint
from events.errors import ArchiveAlteredError
from projections.archive.trees import TreeBuilder, org_of
from tests.audit.archive import START_OVER, fill, tamper
from tests.audit.support import AT, KEY, ORG, OTHER_ORG, Entry, entry
from tests.audit.test_merkle import naive_root

PLATFORM = Entry(1, "events.platform.step.count.1.log.step", b'{"v":1,"id":"x"}')
STRANGE = Entry(2, "events.strange", b"\xff not a decision")


def both(count: int, begin: int = 1) -> list[Entry]:
    """Decisions of two orgs in turns, of the first one twice as many."""
    return [entry(position, OTHER_ORG if position % 3 == 0 else ORG) for position in range(begin, begin + count)]


def builder(pool: asyncpg.Pool, **given: Any) -> TreeBuilder:
    return TreeBuilder(pool, KEY, **{"clock": lambda: AT, "batch_max": 200, "idle_s": 30.0, **given})


async def build(pool: asyncpg.Pool, **given: Any) -> TreeBuilder:
    built = builder(pool, **given)
    while await built.step():
        continue
    return built


async def rows(pool: asyncpg.Pool, table: str, order: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await pool.fetch(f"SELECT * FROM data_engine.{table} ORDER BY {order}")]


async def note_of(pool: asyncpg.Pool, org_id: str) -> SignedCheckpoint:
    note = await pool.fetchval("SELECT note FROM data_engine.org_trees WHERE org_id = $1::uuid", org_id)
    return SignedCheckpoint.parse(note)


def of(entries: list[Entry], org_id: str) -> list[Entry]:
    return [one for one in entries if org_of(one.subject) == org_id]


async def test_each_org_has_the_tree_of_its_decisions(empty: asyncpg.Pool, archiver_login: asyncpg.Pool) -> None:
    entries = [PLATFORM, STRANGE, *both(1600, begin=3)]
    await fill(empty, entries)
    await build(archiver_login)
    for org_id in (ORG, OTHER_ORG):
        own = of(entries, org_id)
        signed = await note_of(empty, org_id)
        signed.check(KEY.verifier(org_id))
        assert signed.checkpoint.root == naive_root([one.leaf for one in own])
        assert (signed.checkpoint.size, signed.checkpoint.position) == (len(own), own[-1].position)
    leaves = await empty.fetch("SELECT * FROM data_engine.org_leaves WHERE org_id = $1::uuid ORDER BY leaf_index", ORG)
    own = of(entries, ORG)
    assert [(row["leaf_index"], row["position"], row["leaf_hash"]) for row in leaves] == [
        (number, one.position, one.leaf) for number, one in enumerate(own)
    ]
    tiles = await empty.fetch("SELECT * FROM data_engine.org_tiles WHERE org_id = $1::uuid ORDER BY tile_index", ORG)
    assert len(tiles) == len(own) // 256
    for number, tile in enumerate(tiles):
        part = [one.leaf for one in own[number * 256 : (number + 1) * 256]]
        assert (tile["level"], tile["tile_index"], tile["hashes"]) == (0, number, b"".join(part))
        assert tile["root"] == naive_root(part)


async def test_tiles_of_tiles(empty: asyncpg.Pool) -> None:
    """65,536 leaves are one tile of the second level."""
    size = 256 * 256 + 1
    entries = [Entry(number + 1, f"events.{ORG}.run.{ORG}.{number + 1}.log.x", b"{}") for number in range(size)]
    await fill(empty, entries)
    await build(empty, batch_max=20_000)
    tile = await empty.fetchrow("SELECT * FROM data_engine.org_tiles WHERE level = 1")
    below = await empty.fetch("SELECT root FROM data_engine.org_tiles WHERE level = 0 ORDER BY tile_index")
    assert tile is not None
    assert tile["hashes"] == b"".join(row["root"] for row in below)
    assert tile["root"] == naive_root([one.leaf for one in entries[: 256 * 256]])
    assert (await note_of(empty, ORG)).checkpoint.root == naive_root([one.leaf for one in entries])


async def test_however_it_was_cut_up(empty: asyncpg.Pool) -> None:
    """In one go, in small batches, with builders that begin anew, and by two at once: the same rows."""
    entries, found = both(900), []
    for batch_max, builders in ((1000, 1), (7, 1), (300, 2)):
        await tamper(empty, "TRUNCATE data_engine.org_leaves, data_engine.org_tiles, data_engine.org_checkpoints",
                     "TRUNCATE data_engine.org_trees",
                     START_OVER)  # fmt: skip
        if not found:
            await fill(empty, entries)
        await asyncio.gather(*(build(empty, batch_max=batch_max) for _ in range(builders)))
        found.append([await rows(empty, table, order) for table, order in (
            ("org_leaves", "org_id, leaf_index"), ("org_tiles", "org_id, level, tile_index"),
            ("org_trees", "org_id"), ("org_trees_head", "position"),
        )])  # fmt: skip
    assert found[0] == found[1] == found[2]


async def test_a_crash_adds_nothing_and_nothing_twice(empty: asyncpg.Pool) -> None:
    await fill(empty, both(300))
    crashing = builder(empty)

    class CrashError(Exception):
        pass

    def crash() -> Any:
        raise CrashError

    crashing._clock = crash  # the clock is read in the middle of the transaction
    with pytest.raises(CrashError):
        await crashing.step()
    assert await rows(empty, "org_leaves", "position") == []
    crashing._clock = lambda: AT
    while await crashing.step():
        continue
    assert len(await rows(empty, "org_leaves", "position")) == 300


async def test_checkpoints_are_kept_once_a_minute(empty: asyncpg.Pool) -> None:
    now = [AT]
    built = builder(empty, clock=lambda: now[0])
    for number in range(6):
        now[0] = AT + timedelta(seconds=25 * number)
        await fill(empty, [entry(number + 1)])
        await built.step()
    kept = await empty.fetch("SELECT size, note FROM data_engine.org_checkpoints ORDER BY size")
    assert [row["size"] for row in kept] == [1, 4]
    for row in kept:
        assert SignedCheckpoint.parse(row["note"]).checkpoint.size == row["size"]
    assert (await note_of(empty, ORG)).checkpoint.size == 6


async def test_without_a_key_and_then_with_one(empty: asyncpg.Pool) -> None:
    await fill(empty, both(10))
    unsigned = TreeBuilder(empty, None)
    assert await unsigned.step() == 10
    assert await empty.fetchval("SELECT count(*) FROM data_engine.org_trees WHERE note IS NULL") == 2
    await build(empty)
    assert (await note_of(empty, ORG)).checkpoint.size == len(of(both(10), ORG))


async def test_it_runs_until_it_is_stopped_and_tells(empty: asyncpg.Pool) -> None:
    told: asyncio.Queue[int] = asyncio.Queue()
    stop, running = asyncio.Event(), builder(empty, told=told.put)
    task = asyncio.create_task(running.run(stop))
    for begin in (1, 11):
        await fill(empty, both(10, begin=begin))
        running.wake()
        assert await asyncio.wait_for(told.get(), 10) == begin + 9
    stop.set()
    await asyncio.wait_for(task, 10)


SWAP = "; ".join(
    f"UPDATE data_engine.event_log SET position = {there} WHERE position = {here}"
    for here, there in ((107, 999), (208, 107), (999, 208))
)
TAMPERING = [
    ("a body", "UPDATE data_engine.event_log SET body = 'x' WHERE position = 107", 107),
    ("a subject", "UPDATE data_engine.event_log SET subject = subject || 'x' WHERE position = 107", 107),
    ("a chain", "UPDATE data_engine.event_log SET chain = decode(repeat('00', 32), 'hex') WHERE position = 107", 107),
    ("an org", f"UPDATE data_engine.event_log SET org_id = '{OTHER_ORG}' WHERE position = 107", 107),
    ("no org", "UPDATE data_engine.event_log SET org_id = NULL WHERE position = 107", 107),
    ("removed", "DELETE FROM data_engine.event_log WHERE position = 107", 107),
    ("swapped", SWAP, 107),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "position"), [t[1:] for t in TAMPERING], ids=[t[0] for t in TAMPERING])
async def test_an_altered_archive_stops_it(empty: asyncpg.Pool, statement: str, position: int) -> None:
    await fill(empty, [entry(number + 1) for number in range(300)])
    built = builder(empty, batch_max=100)
    assert await built.step() == 100
    await tamper(empty, statement)
    with pytest.raises(ArchiveAlteredError, match=f"position {position}") as caught:
        await built.run(asyncio.Event())
    assert caught.value.details["position"] == position
    assert await empty.fetchval("SELECT position FROM data_engine.org_trees_head") == 100


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM data_engine.event_log WHERE position > 250",
     "UPDATE data_engine.event_log SET chain = decode(repeat('00', 32), 'hex') WHERE position = 300"],
)  # fmt: skip
async def test_an_archive_that_was_cut_or_rewritten_stops_it(empty: asyncpg.Pool, statement: str) -> None:
    await fill(empty, [entry(number + 1) for number in range(300)])
    built = await build(empty)
    await tamper(empty, statement)
    for one in (built, builder(empty)):
        with pytest.raises(ArchiveAlteredError, match="position 300"):
            await one.run(asyncio.Event())


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM data_engine.org_leaves WHERE leaf_index = 7",
     "UPDATE data_engine.org_leaves SET leaf_index = 200 WHERE leaf_index = 7"],
)  # fmt: skip
async def test_altered_trees_stop_it(empty: asyncpg.Pool, statement: str) -> None:
    await fill(empty, [entry(number + 1) for number in range(300)])
    built = builder(empty, batch_max=100)
    assert await built.step() == 100
    await tamper(empty, statement)
    with pytest.raises(ArchiveAlteredError, match="rows of the trees"):
        await built.run(asyncio.Event())


@pytest.mark.parametrize("table", ["org_leaves", "org_tiles", "org_checkpoints"])
@pytest.mark.parametrize("command", ["UPDATE data_engine.{} SET org_id = org_id", "DELETE FROM data_engine.{}",
                                     "TRUNCATE data_engine.{}"])  # fmt: skip
async def test_nobody_changes_what_was_added(
    empty: asyncpg.Pool, archiver_login: asyncpg.Pool, table: str, command: str
) -> None:
    await fill(empty, both(900))
    await build(archiver_login)
    for pool in (empty, archiver_login):
        with pytest.raises((asyncpg.RaiseError, asyncpg.InsufficientPrivilegeError, asyncpg.PostgresError)) as caught:
            await pool.execute(command.format(table))
        assert caught.value.sqlstate in ("DEX02", "42501")


async def test_the_gateway_sees_the_rows_of_its_org(empty: asyncpg.Pool, gateway_login: asyncpg.Pool) -> None:
    await fill(empty, both(900))
    await build(empty)
    for table in ("org_leaves", "org_tiles", "org_checkpoints", "org_trees"):
        assert await gateway_login.fetch(f"SELECT * FROM data_engine.{table}") == []
        async with gateway_login.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('data_engine.org_id', $1, true)", ORG)
            found = await connection.fetch(f"SELECT org_id::text FROM data_engine.{table}")
        assert {row["org_id"] for row in found} == {ORG}
