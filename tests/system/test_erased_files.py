"""An erased company in the raw files of the servers: what is left at first, and that `dex keys scrub` removes it."""

import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from nats.aio.client import Client
from pydantic import SecretStr

from cli.embedded import EmbeddedConfig
from cli.scrubbing import scrub_and_show
from events.errors import ConfigurationError, UnavailableError
from events.log import EventLog
from events.settings import Settings
from projections.database import create_pool
from projections.moment import build_moment
from projections.scrubbing import not_scrubbed
from tests.system.client import Org
from tests.system.test_erasure import erase, in_files, nats_folder

__all__ = ["nats_folder"]
MARKER = f"Marker{uuid.uuid4().hex[:12]}"
MARKERS = tuple(form.encode() for form in (MARKER, MARKER.upper(), MARKER.lower()))
ROWS = [{"name": f"{MARKER} {number}", "email": f"{MARKER}{number}@example.com"} for number in range(400)]


@pytest.fixture
async def database(servers: EmbeddedConfig) -> AsyncIterator[asyncpg.Connection]:
    """The operator's."""
    connection = await asyncpg.connect(servers.database_url, statement_cache_size=0)
    yield connection
    await connection.close()


@pytest.fixture
async def company(org: Org, connection: Client, settings: Settings, database: asyncpg.Connection) -> Org:
    """One that left something in every place: read models, their statistics, a copy of them, on disk, not in caches."""
    org.company_id = (await org.call("companies/create", {"name": f"{MARKER} GmbH"}))["company_id"]
    cast = {"key": "cast_types", "config": {"casts": [{"field": "name", "to": "integer"}], "on_error": "fail"}}
    rules = {"blocking": [[{"field": "email"}]], "comparisons": [{"fields": ["email"], "method": "exact", "weight": 1}]}
    rules |= {"threshold": 0.9, "entity_set": "customers", "record_key": ["email"]}
    match = {"key": "match_entities", "config": rules}
    plans = ([{"key": "normalize_text", "config": {"fields": ["name"], "case": "upper"}}], [cast], [match])
    for plan in plans:
        blueprint_id = await org.blueprint(*plan)
        for rows in (ROWS[:3], ROWS):
            await org.ended(await org.submit(blueprint_id, rows, name=f"{MARKER}'s list"))
    user = {"email": f"{MARKER}@example.com", "name": MARKER, "role": "member", "company_id": org.company_id}
    made = await org.call("users/create", user)
    token = await org.call("tokens/create", {"user_id": made["user_id"], "name": f"{MARKER}'s token"})
    await org.call("tokens/list", {"min_position": token["position"]})
    async with await create_pool(settings) as pool:
        await build_moment(pool, connection, "before_erasure", (await EventLog(connection).state()).last_position)
    await database.execute("ANALYZE")
    for _ in range(2):  # WAL files that are used again, with the old content in them for now
        await database.execute("SELECT pg_logical_emit_message(false, 'test', 'x')")
        await database.execute("SELECT pg_switch_wal()")
        await database.execute("CHECKPOINT")
    return org


def kinds(files: list[str]) -> set[str]:
    """Where files of the servers belong."""
    found = (re.search(r"jetstream|pg_wal|/base/|/logs/", name) for name in files)
    return {match.group().strip("/") if match else "other" for match in found}


async def test_nothing_is_in_the_files_after_scrubbing(
    company: Org, connection: Client, database: asyncpg.Connection, nats_folder: Path, system_settings: Settings
) -> None:
    home = nats_folder.parent
    assert kinds(in_files(home, *MARKERS)) == {"base", "pg_wal"}, "read models are not encrypted, all else is"
    current = await database.fetchval("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    assert [name for name in in_files(home, *MARKERS) if "pg_wal" in name and Path(name).name >= current], "used again"
    assert await database.fetchval("SELECT count(*) FROM before_erasure.submissions_v1") > 0
    statistics = "SELECT tablename FROM pg_stats WHERE most_common_vals::text LIKE $1"
    assert await database.fetch(statistics, f"%{MARKER}%")
    await erase(company)
    await database.execute("CHECKPOINT")
    assert kinds(in_files(home, *MARKERS)) == {"base", "pg_wal"}, "rows are removed, and not their bytes"
    assert await scrub_and_show(system_settings, lock_timeout_s=2, wait_s=60, as_json=True)
    assert in_files(home, *MARKERS) == []
    assert in_files(system_settings.home, *MARKERS) == []
    assert not await database.fetch(statistics, f"%{MARKER}%")
    left = "SELECT count(*) FROM before_erasure.submissions_v1 WHERE company_id::text = $1"
    assert await database.fetchval(left, company.company_id) == 0
    await database.execute("DROP SCHEMA before_erasure CASCADE")


async def test_a_scrub_is_shown_and_may_be_done_again(
    org: Org, system_settings: Settings, database: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await erase(org)
    assert await not_scrubbed(database)
    for _ in range(2):
        assert await scrub_and_show(system_settings, lock_timeout_s=2, wait_s=60, as_json=False)
        shown = capsys.readouterr().out
        assert "data_engine.step_results_v1" in shown
        assert "WAL files overwritten" in shown
        assert "Nothing of them is left in the files of this server." in shown
    assert not await not_scrubbed(database)


async def test_it_needs_a_session_of_its_own_and_a_database(system_settings: Settings) -> None:
    async def scrubbing(**changes: object) -> None:
        await scrub_and_show(system_settings.model_copy(update=changes), lock_timeout_s=2, wait_s=0, as_json=True)

    with pytest.raises(ConfigurationError, match="not to a transaction pooler"):
        await scrubbing(database_pooling="transaction")
    with pytest.raises(UnavailableError, match=r"Postgres does not answer at 127\.0\.0\.1:1/none"):
        await scrubbing(database_url=SecretStr("postgresql://nobody:secret@127.0.0.1:1/none"))
    with pytest.raises(ConfigurationError, match="Set DATA_ENGINE_MASTER_KEYS"):
        await scrubbing(master_keys=None)
