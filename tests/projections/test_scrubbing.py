"""`dex keys scrub` says what it could not reach, and why; nothing is scrubbed by half in silence."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from events import administration as admin
from events.errors import StateConflictError
from events.subjects import ERASED_ROUTING
from projections import scrubbing
from projections.moment import MARK
from projections.rebuild import SHADOW_SCHEMA
from projections.scrubbing import Scrubbed, not_scrubbed, scrub
from projections.server_files import values_logged
from tests.projections.support import COMPANY, History, World, whole_run

NAME = "Kept Plainly Ltd"


async def erase(world: World) -> int:
    """A company with a run, which is erased in the log; the position."""
    history = whole_run(1)
    history.on(admin.COMPANY, COMPANY, admin.CompanyCreated, name=NAME)
    await world.project(await world.append(history))
    erasing = History(recorded=list(history.recorded))
    event = admin.CompanyErased(originator_id=COMPANY, originator_version=2)
    erasing.decide(admin.COMPANY, COMPANY, event, routing=ERASED_ROUTING)
    return (await world.log.append(erasing.recorded[-1].decision)).position


@pytest.fixture
async def erased(world: World) -> World:
    """Where a company was erased."""
    await world.project(await erase(world))
    return world


@pytest.fixture
async def database(world: World) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(world.settings.database_dsn, statement_cache_size=0)
    await connection.execute("COMMENT ON TABLE data_engine.companies_v1 IS NULL")
    yield connection
    await connection.close()


async def scrubbed(world: World, database: asyncpg.Connection, wait_s: float = 0) -> Scrubbed:
    return await scrub(database, world.nats, lock_timeout_s=0.05, wait_s=wait_s)


async def test_nothing_is_done_where_no_company_was_erased(world, database):
    await world.project(await world.append(whole_run(1)))
    assert await scrubbed(world, database) == Scrubbed(0)


async def test_an_erasure_that_is_not_projected_yet_is_refused(world, database):
    await erase(world)
    with pytest.raises(StateConflictError, match="Start the projector"):
        await scrubbed(world, database)


async def test_all_of_it_is_done_and_may_be_done_again(erased, database):
    told = []
    assert await not_scrubbed(database) == 1
    for _ in range(2):
        found = await scrub(database, erased.nats, lambda *now: told.append(now), lock_timeout_s=2, wait_s=10)
        assert (found.companies, found.left) == (1, [])
        assert {"data_engine.runs_v1", "data_engine.runs_v2", "data_engine.step_results_v1",
                "pg_catalog.pg_statistic"} <= {table.table for table in found.tables}  # fmt: skip
        assert found.wal_segments > 0
        assert await not_scrubbed(database) == 0
    assert all(at <= of for _, at, of in told)


async def test_rows_that_an_older_transaction_still_sees_are_told(world, database):
    position = await erase(world)
    reader = await asyncpg.connect(world.settings.database_dsn)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.fetch("SELECT FROM data_engine.orgs_v2")  # now it sees what there is
        await world.project(position)
        found = await scrubbed(world, database)
        [left] = [line for line in found.left if "step_results_v1" in line]
        assert "3 deleted rows are still seen by an older transaction" in left
    await reader.close()
    assert (await scrubbed(world, database, wait_s=10)).left == []


async def test_a_table_that_is_in_use_is_told_and_nobody_waits_for_long(erased, database):
    reader = await asyncpg.connect(erased.settings.database_dsn)
    async with reader.transaction():
        await reader.fetch("SELECT FROM data_engine.runs_v2")
        found = await scrubbed(erased, database)
    await reader.close()
    [left] = [line for line in found.left if "runs_v2" in line]
    assert "it was in use for longer than 0.05 s" in left
    assert "data_engine.step_results_v1" in {table.table for table in found.tables}


async def test_wal_that_is_kept_for_somebody_is_told(erased, database):
    await database.execute("SELECT pg_create_physical_replication_slot('backup', true)")
    try:
        found = await scrubbed(erased, database, wait_s=10)
    finally:
        await database.execute("SELECT pg_drop_replication_slot('backup')")
    [left] = found.left
    assert "are kept for the replication slot backup" in left
    assert (await scrubbed(erased, database, wait_s=10)).left == []


async def test_a_rebuild_that_was_killed_is_told(erased, database):
    await database.execute(f"CREATE SCHEMA {SHADOW_SCHEMA}")
    [left] = (await scrubbed(erased, database, wait_s=10)).left
    assert "dex rebuild" in left


async def test_copies_are_scrubbed_as_far_as_they_go(erased, database):
    await database.execute(
        f'CREATE SCHEMA "copy of 2026"; COMMENT ON SCHEMA "copy of 2026" IS \'{MARK}2\';'
        f"CREATE TABLE \"copy of 2026\".companies_v1 AS SELECT company_id, 'Plainly'::text AS name "
        "FROM data_engine.companies_v1"
    )
    try:
        found = await scrubbed(erased, database, wait_s=10)
        assert (found.copies, found.left) == (["copy of 2026"], [])
        assert await database.fetchval('SELECT name FROM "copy of 2026".companies_v1') is None
    finally:
        await database.execute('DROP SCHEMA "copy of 2026" CASCADE')


async def test_who_may_not_is_told_what_is_left(erased, database):
    await database.execute("SET ROLE data_engine_projector")
    found = await scrubbed(erased, database)
    assert any("permission denied to vacuum" in line for line in found.left)
    assert any("pg_switch_wal" in line and "superuser" in line for line in found.elsewhere)
    assert (found.tables, found.wal_segments) == ([], 0)


async def test_files_that_no_table_owns_are_told(erased, database):
    """As after a crash while a table was being made."""
    folder = Path(await database.fetchval("SHOW data_directory")) / "base"
    orphan = folder / str(await database.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()"))
    orphan /= "99999999"
    orphan.write_bytes(NAME.encode())
    try:
        [left] = (await scrubbed(erased, database, wait_s=10)).left
    finally:
        orphan.unlink()
    assert "/99999999" in left
    assert await not_scrubbed(database) == 1


async def test_statistics_of_an_empty_table_are_told_where_they_cannot_be_cleared(world, database, monkeypatch):
    monkeypatch.setattr(scrubbing, "CLEARS_STATISTICS", "SELECT false")  # as before PostgreSQL 18
    position = await erase(world)
    await database.execute("ANALYZE data_engine.step_results_v1")
    await world.project(position)
    assert any("step_results_v1 is empty" in line for line in (await scrubbed(world, database)).left)
    monkeypatch.undo()
    assert (await scrubbed(world, database, wait_s=10)).left == []
    assert not await database.fetch("SELECT FROM pg_stats WHERE tablename = 'step_results_v1'")


async def test_a_server_that_logs_values_is_told(erased, database):
    assert await values_logged(database) == [], "as the embedded server is set"
    await database.execute("SET log_error_verbosity = verbose; SET log_min_duration_statement = 100")
    quotes, refused = await values_logged(database)
    assert "log_parameter_max_length = 0" in quotes.todo
    assert "log_error_verbosity = terse" in refused.todo
    found = await scrubbed(erased, database, wait_s=10)
    assert (found.left, len(found.elsewhere)) == ([], 2)
