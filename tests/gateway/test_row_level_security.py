"""The second lock on its own: the gateway's database role, with every condition of the application taken away."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from events.errors import ConfigurationError
from events.ids import new_id
from events.settings import Settings
from gateway.state import Gateway
from projections.database import create_pool
from projections.queries import administration, work
from projections.queries.reader import BehindError, Reader, Scope
from tests.audit.archive import tamper
from tests.gateway.support import AT, World, add_world, insert, positions

ORG_TABLES = """
SELECT c.relname AS name, c.relkind = 'v' AS is_view, array_agg(p.polname ORDER BY p.polname) AS policies,
       c.relrowsecurity OR c.relkind = 'v' AND 'security_invoker=true' = ANY(c.reloptions) AS secured
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id' AND NOT a.attisdropped
LEFT JOIN pg_policy p ON p.polrelid = c.oid
WHERE n.nspname = 'data_engine' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
GROUP BY c.oid
"""
BELONGING_TO_NOBODY = {
    "steps_v1",
    "schema_migrations",
    "projection_checkpoints",
    "projection_dead_letters",
    "event_log_head",
    "org_trees_head",
}
READABLE = {
    "orgs_v2", "companies_v1", "users_v2", "tokens_v2", "blueprints_v1", "submissions_v1", "runs_v2",
    "step_results_v1", "entity_sets_v1", "verifications_v1", "runs", "event_log", "token_usage",
}  # fmt: skip
COMPANYS = READABLE - {"orgs_v2", "blueprints_v1", "token_usage"}


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def pool(settings: Settings, gateway: Gateway) -> AsyncIterator[asyncpg.Pool]:
    """Connections as the gateway has them."""
    async with await create_pool(settings) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def full(database: asyncpg.Pool, world: World) -> AsyncIterator[World]:
    """A row in every table for both companies of the org, and for another org; in the archive only meanwhile, as its
    other readers in this test run would find it altered."""
    last = next(positions)
    for org_id, company_id in (
        (world.org_id, world.company_id),
        (world.org_id, world.other_company_id),
        (world.stranger.org_id, world.strange_company_id),
    ):
        await _fill(database, org_id, company_id)
    yield world
    await tamper(database, f"DELETE FROM data_engine.event_log WHERE position > {last}")


async def _fill(database: asyncpg.Pool, org_id: str, company_id: str) -> None:
    ids = {"org_id": org_id, "company_id": company_id}
    submission_id, run_id, blueprint_id = new_id(), new_id(), new_id()
    await insert(
        database, "blueprints_v1", blueprint_id=blueprint_id, org_id=org_id, name="b", steps="[]", created_at=AT,
        position=next(positions),
    )  # fmt: skip
    await insert(
        database, "submissions_v1", submission_id=submission_id, blueprint_id=blueprint_id, records_digest="d",
        records_size_bytes=1, records_rows=1, records_inline=True, created_at=AT, position=next(positions), **ids,
    )  # fmt: skip
    await insert(
        database, "runs_v2", run_id=run_id, submission_id=submission_id, blueprint_id=blueprint_id, status="running",
        step_keys=["a"], started_at=AT, position=next(positions), last_position=1, **ids,
    )  # fmt: skip
    await insert(
        database, "step_results_v1", run_id=run_id, step_index=0, submission_id=submission_id, step_key="a",
        status="running", attempt=1, position=next(positions), **ids,
    )  # fmt: skip
    await insert(
        database, "entity_sets_v1", set_id=new_id(), name="people", version=1, snapshot_digest="d",
        snapshot_size_bytes=1, snapshot_rows=1, snapshot_inline=True, snapshot_format="batch", last_run_id=run_id,
        created_at=AT, updated_at=AT, position=next(positions), last_position=1, **ids,
    )  # fmt: skip
    await insert(database, "verifications_v1", run_id=new_id(), verifies=run_id, position=next(positions), **ids)
    await insert(
        database, "event_log", position=next(positions), recorded_at=AT, subject="events.test", body=b"",
        decision_id=new_id(), chain=b"", **ids,
    )  # fmt: skip
    await insert(database, "token_usage", token_id=new_id(), org_id=org_id, last_used_at=AT)


async def test_every_table_with_an_org_is_locked(database: asyncpg.Pool) -> None:
    tables = {row["name"]: row for row in await database.fetch(ORG_TABLES)}
    assert READABLE | {"token_secrets_v2", "credentials"} <= set(tables)
    for name, table in tables.items():
        assert table["secured"], f"{name} has no row-level security"
        assert table["is_view"] or table["policies"] != [None], f"{name} has no policy"
    everything = await database.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'data_engine' AND tablename NOT LIKE 'event_log_from_%'"
    )
    stored = {name for name, table in tables.items() if not table["is_view"]}
    assert {row["tablename"] for row in everything} == stored | BELONGING_TO_NOBODY, "a new table: decide whose"


async def test_the_role_owns_nothing_and_cannot_bypass(pool: asyncpg.Pool) -> None:
    role = await pool.fetchrow(
        "SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user"
    )
    assert role is not None
    assert not any(role)
    owned = await pool.fetchval("SELECT count(*) FROM pg_class WHERE relowner = current_user::regrole")
    assert owned == 0


@pytest.mark.parametrize("table", sorted(READABLE))
async def test_a_select_without_conditions_sees_the_scope(table: str, pool: asyncpg.Pool, full: World) -> None:
    reader, everything = Reader(pool), f"SELECT * FROM data_engine.{table}"
    own = await reader.rows(Scope(full.org_id), everything)
    assert own
    assert {str(row["org_id"]) for row in own} == {full.org_id}
    if table in COMPANYS:
        of_company = await reader.rows(Scope(full.org_id, full.company_id), everything)
        assert of_company
        assert {str(row["company_id"]) for row in of_company} == {full.company_id}
    assert await reader.rows(Scope(new_id()), everything) == []


@pytest.mark.parametrize("table", sorted(READABLE))
async def test_a_query_that_forgets_its_scope_sees_nothing(table: str, pool: asyncpg.Pool, full: World) -> None:
    assert await Reader(pool).platform_rows(f"SELECT * FROM data_engine.{table}") == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [("org_id", ""), ("org_id", "all"), ("org_id", "*"), ("org_id", "' OR true --"), ("company_id", ""),
     ("company_id", "ALL"), ("company_id", "*")],
)  # fmt: skip
async def test_a_scope_that_is_none(setting: str, value: str, pool: asyncpg.Pool, full: World) -> None:
    """Nothing, or an error; never everything."""
    scope = {"org_id": full.org_id, "company_id": "all"} | {setting: value}
    async with pool.acquire() as connection, connection.transaction():
        for name, text in scope.items():
            await connection.execute("SELECT set_config($1, $2, true)", f"data_engine.{name}", text)
        try:
            found = await connection.fetch("SELECT * FROM data_engine.runs_v2")
        except asyncpg.DataError:
            return
        assert found == []


def test_a_scope_is_made_of_ids() -> None:
    for org_id, company_id in (("x", None), (new_id(), "all"), ("'; SELECT 1 --", None), (new_id() + "\n", None)):
        with pytest.raises(ValueError, match="ids"):
            Scope(org_id, company_id)


async def test_every_named_query_with_another_orgs_ids(pool: asyncpg.Pool, full: World, database: asyncpg.Pool) -> None:
    """The queries run with the stranger's org in their conditions, under our own org's scope: nothing comes."""
    checked = 0
    for module in (administration, work):
        for name, sql in inspect.getmembers(module, lambda value: isinstance(value, str)):
            if not name.isupper() or name.startswith("_") or "$1::uuid" not in sql:
                continue
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(Scope(full.org_id).statements)
                statement = await connection.prepare(sql)
                arguments = [_argument(parameter.name) for parameter in statement.get_parameters()]
                arguments[0] = full.stranger.org_id
                assert await statement.fetch(*arguments) == [], name
            checked += 1
    assert checked >= 12


def _argument(kind: str) -> object:
    """Wide open: no id, all positions, many rows."""
    return {"int8": 2**62, "int4": 1000, "uuid[]": []}.get(kind)


async def test_what_the_gateway_may_not_touch(pool: asyncpg.Pool, full: World) -> None:
    forbidden = [
        "SELECT * FROM data_engine.credentials",
        "SELECT verifier FROM data_engine.credentials",
        "DELETE FROM data_engine.credentials",
        "UPDATE data_engine.credentials SET org_id = org_id",
        "SELECT * FROM data_engine.token_secrets_v2",
        "SELECT * FROM data_engine.projection_dead_letters",
        "SELECT decision_id FROM data_engine.projection_checkpoints",
        "UPDATE data_engine.runs_v2 SET status = 'succeeded'",
        "DELETE FROM data_engine.users_v2",
        "INSERT INTO data_engine.orgs_v2 SELECT * FROM data_engine.orgs_v2",
        "DELETE FROM data_engine.token_usage",
        "ALTER TABLE data_engine.runs_v2 DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE data_engine.mine (id int)",
        "CREATE FUNCTION data_engine.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET ROLE postgres",
        "SET ROLE data_engine_projector",
    ]
    for sql in forbidden:
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(Scope(full.org_id).statements)
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(sql)
            finally:
                await transaction.rollback()


async def test_writes_stay_in_the_scope(pool: asyncpg.Pool, full: World) -> None:
    reader, stranger = Reader(pool), full.stranger.org_id
    add = "INSERT INTO data_engine.credentials (verifier, secret_id, org_id) VALUES ($1, $2::uuid, $3::uuid)"
    note = "INSERT INTO data_engine.token_usage (token_id, org_id, last_used_at) VALUES ($1::uuid, $2::uuid, now())"
    await reader.write(Scope(full.org_id), add, new_id(), new_id(), full.org_id)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.write(Scope(full.org_id), add, new_id(), new_id(), stranger)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.write(Scope(full.org_id), note, new_id(), stranger)
    touched = "UPDATE data_engine.token_usage SET last_used_at = now() WHERE org_id = $1::uuid RETURNING token_id"
    assert await reader.rows(Scope(full.org_id), "SELECT 1 FROM data_engine.token_usage")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(Scope(full.org_id).statements)
        assert await connection.fetch(touched, stranger) == []
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await reader.rows(Scope(full.org_id), note, new_id(), full.org_id)


async def test_a_cancelled_query_leaves_nothing_behind(settings: Settings, full: World) -> None:
    """The next user of the connection is in a transaction, and a scope, of its own."""
    async with await create_pool(settings.model_copy(update={"database_pool_max": 1})) as pool:
        reader = Reader(pool)
        slow = asyncio.create_task(reader.rows(Scope(full.org_id), "SELECT pg_sleep(30)"))
        async with asyncio.timeout(10):
            while pool.get_idle_size() or not pool.get_size():
                await asyncio.sleep(0)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert await reader.platform_rows("SELECT * FROM data_engine.runs_v2") == []
        with pytest.raises(asyncpg.UndefinedColumnError):
            await reader.rows(Scope(full.org_id), "SELECT nothing FROM data_engine.runs_v2")
        state = await reader.platform_rows("SELECT current_setting('data_engine.org_id', true) AS org")
        assert not state[0]["org"]


async def test_a_function_that_is_not_there_is_a_matter_of_set_up(pool: asyncpg.Pool) -> None:
    with pytest.raises(ConfigurationError, match="dex migrate"):
        await Reader(pool).platform_rows("SELECT data_engine.no_such_function()")


async def test_tokens_of_the_orgs_own_users_are_shown_to_their_company(
    pool: asyncpg.Pool, full: World, database: asyncpg.Pool
) -> None:
    token_id, at = new_id(), next(positions)
    await insert(
        database, "tokens_v2", token_id=token_id, org_id=full.org_id, company_id=full.company_id,
        user_id=full.admin.user_id, role="member", name="t", hint="h", created_at=AT, position=at, last_position=at,
    )  # fmt: skip
    row = await administration.token(Reader(pool), Scope(full.org_id, full.company_id), token_id)
    assert row is not None
    assert row["active"]
    other = await add_world(database)
    for scope in (Scope(full.org_id, full.other_company_id), Scope(other.org_id)):
        assert await administration.token(Reader(pool), scope, token_id) is None


async def test_a_position_that_a_crash_took_back_is_not_answered_from(
    pool: asyncpg.Pool, full: World, database: asyncpg.Pool
) -> None:
    """The gateway may have heard of a position that Postgres, killed in that moment, does not have any more."""
    at: int = await database.fetchval("SELECT min(position) FROM data_engine.projection_checkpoints")
    reader, sql = Reader(pool), "SELECT * FROM data_engine.runs_v2"
    with pytest.raises(BehindError):
        await reader.rows(Scope(full.org_id, min_position=at + 1), sql)
    assert await reader.rows(Scope(full.org_id, min_position=at), sql)
