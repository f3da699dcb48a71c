"""The projector on real servers: what is in the log gets into the rows, once, whatever happens meanwhile."""

import asyncio

import asyncpg
import orjson

from events import administration as admin
from events import subjects
from events.errors import ConfigurationError, LogRewoundError
from events.ids import new_id
from projections.projector import projection_status, run_projector
from tests.projections.support import (
    ORG,
    TIMEOUT_S,
    History,
    an_id,
    at_least,
    make_log_anew,
    until,
    whole_run,
)

OFTEN_S = 0.05


async def test_the_rows_are_there_when_the_hint_is(world):
    async with world.hints() as hints, world.projecting():
        [reset] = await until(hints, lambda hint: "reset" in hint)
        assert reset == {"position": 0, "ended": [], "access": True, "reset": True}
        position = await world.append(whole_run(1))
        found = await until(hints, at_least(position))
        assert [run_id for hint in found for run_id in hint["ended"]] == [an_id(1)]
        assert not any(hint["access"] for hint in found)
        assert [row["status"] for row in await world.rows("runs_v2")] == ["succeeded"]


async def test_a_hint_says_that_access_has_changed(world):
    history = History()
    history.on(admin.COMPANY, new_id(), admin.CompanyCreated, name="c")
    async with world.hints() as hints, world.projecting():
        await until(hints, lambda hint: "reset" in hint)
        await world.append(history)
        assert (await until(hints, at_least(1)))[-1]["access"] is True


async def test_a_projector_goes_on_where_the_last_one_stopped(world):
    await world.project(await world.append(whole_run(1)))
    position = await world.append(whole_run(2))
    async with world.hints() as hints, world.projecting():
        found = await until(hints, at_least(position))
    assert found[0]["position"] == position - 2
    assert len(await world.rows("runs_v2")) == 2


async def test_two_projectors_at_once_write_what_one_would(world):
    histories = [whole_run(number) for number in range(1, 60)]
    first, second = world.projector(batch_max=7), world.projector(batch_max=5)
    async with world.hints() as hints, world.projecting(first, second):
        position = await world.append(*histories)
        await until(hints, at_least(position))
    together = await world.everything()
    assert [row["status"] for row in together["runs_v2"]] == ["succeeded"] * 59
    await world.pool.execute("UPDATE data_engine.projection_checkpoints SET position = 0, epoch = '', decision_id = ''")
    await world.pool.execute("TRUNCATE data_engine.runs_v2, data_engine.step_results_v1")
    await world.project(position)
    assert await world.everything() == together
    assert await world.rows("projection_dead_letters") == []


async def test_connections_that_are_killed_are_replaced(world):
    kill = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
    outside = await asyncpg.connect(world.settings.database_dsn)
    async with world.hints() as hints, world.projecting(world.projector(batch_max=3)):
        await until(hints, lambda hint: "reset" in hint)
        for number in range(1, 6):
            position = await world.append(whole_run(number))
            await outside.fetch(kill)
            await until(hints, at_least(position))
    await outside.close()
    assert [row["status"] for row in await world.rows("runs_v2")] == ["succeeded"] * 5
    assert len(await world.rows("step_results_v1")) == 15


async def test_read_models_that_went_back_are_brought_up_again(world):
    """As after a restore of the database: rows and checkpoints of an earlier state."""
    async with world.hints() as hints, world.projecting():
        await world.append(whole_run(1))
        await until(hints, at_least(2))
        earlier = await world.rows("projection_checkpoints", "name")
        await world.append(whole_run(2))
        await until(hints, at_least(4))
        await world.pool.execute("DELETE FROM data_engine.step_results_v1 WHERE position > 2")
        await world.pool.execute("DELETE FROM data_engine.runs_v2 WHERE position > 2")
        await world.pool.execute(
            "UPDATE data_engine.projection_checkpoints SET position = 2, decision_id = $1", earlier[0]["decision_id"]
        )
        await world.append(whole_run(3))
        found = await until(hints, at_least(6))
    assert any(hint.get("reset") and hint["position"] == 2 for hint in found)
    assert [row["position"] for row in await world.rows("runs_v2")] == [1, 3, 5]
    assert len(await world.rows("step_results_v1")) == 9


async def test_a_new_read_model_is_built_from_the_beginning_beside_the_others(world):
    position = await world.append(whole_run(1))
    await world.project(position)
    before = await world.everything()
    await world.pool.execute("TRUNCATE data_engine.runs_v2")
    await world.pool.execute("DELETE FROM data_engine.projection_checkpoints WHERE name = 'runs_v2'")
    await world.project(position)
    assert await world.everything() == before


async def test_poison_does_not_stop_the_others(world):
    await world.publish(f"events.{ORG}.run.{new_id()}.1.log.run", b'{"v": 99}')
    await world.publish("events.what.is.this", b"\xff")
    await world.append(whole_run(1))
    async with world.hints() as hints, world.projecting():
        await until(hints, at_least(4))
    assert [row["status"] for row in await world.rows("runs_v2")] == ["succeeded"]
    status = {status.name: status for status in await projection_status(world.pool)}
    assert (status["runs_v2"].position, status["runs_v2"].dead_letters) == (4, 2)
    assert status["orgs_v2"].dead_letters == 1


async def ended(task):
    """What a projector's task raised, when it ends."""
    await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), TIMEOUT_S)
    return task.exception()


async def test_a_log_that_was_made_anew_is_not_followed(world):
    await world.project(await world.append(whole_run(1)))
    await make_log_anew(world.nats)
    await world.append(whole_run(2), whole_run(3))
    before = await world.everything()
    async with world.projecting() as task:
        error = await ended(task)
    assert isinstance(error, LogRewoundError)
    assert "made anew" in error.message
    assert "dex rebuild --accept-log" in error.message
    assert await world.everything() == before


async def test_a_log_that_is_made_anew_under_a_running_projector_stops_it(world):
    async with world.hints() as hints, world.projecting() as task:
        await world.append(whole_run(1))
        await until(hints, at_least(2))
        before = await world.everything()
        await make_log_anew(world.nats)
        await world.append(whole_run(2), whole_run(3))
        assert isinstance(await ended(task), LogRewoundError)
    assert await world.everything() == before


async def test_a_shorter_log_is_noticed_while_nothing_comes(world):
    async with world.hints() as hints, world.projecting(world.projector(idle_check_s=OFTEN_S)) as task:
        await world.append(whole_run(1))
        await until(hints, at_least(2))
        await make_log_anew(world.nats)
        error = await ended(task)
    assert isinstance(error, LogRewoundError)


async def test_a_log_with_another_decision_at_the_checkpoint_is_not_followed(world):
    await world.project(await world.append(whole_run(1)))
    await world.pool.execute("UPDATE data_engine.projection_checkpoints SET decision_id = 'other'")
    async with world.projecting() as task:
        error = await ended(task)
    assert isinstance(error, LogRewoundError)
    assert "rewound" in error.message


async def test_a_log_with_a_hole_is_not_followed(world):
    """Nobody may delete from the log; who does all the same is noticed."""
    info = orjson.loads((await world.nats.request(f"$JS.API.STREAM.INFO.{subjects.EVENTS}", b"", timeout=5)).data)
    await world.append(whole_run(1), whole_run(2))
    await world.nats.request(f"$JS.API.STREAM.DELETE.{subjects.TASKS}", b"", timeout=5)
    await world.nats.request(f"$JS.API.STREAM.DELETE.{subjects.EVENTS}", b"", timeout=5)
    lax = info["config"] | {"deny_delete": False, "deny_purge": False}
    await world.nats.request(f"$JS.API.STREAM.CREATE.{subjects.EVENTS}", orjson.dumps(lax), timeout=5)
    await world.append(whole_run(1), whole_run(2))
    await world.nats.request(f"$JS.API.STREAM.MSG.DELETE.{subjects.EVENTS}", b'{"seq": 2}', timeout=5)
    await world.nats.request(f"$JS.API.STREAM.UPDATE.{subjects.EVENTS}", orjson.dumps(info["config"]), timeout=5)
    async with world.projecting() as task:
        error = await ended(task)
    assert isinstance(error, LogRewoundError)
    assert "position 2 is missing" in error.message


async def test_without_tables_it_says_what_to_do(world):
    await world.pool.execute("ALTER SCHEMA data_engine RENAME TO elsewhere")
    try:
        async with world.projecting() as task:
            error = await ended(task)
    finally:
        await world.pool.execute("ALTER SCHEMA elsewhere RENAME TO data_engine")
    assert isinstance(error, ConfigurationError)
    assert "dex migrate" in error.message


async def test_the_entry_point_runs_until_it_is_told_to_stop(world):
    stop = asyncio.Event()
    async with world.hints() as hints:
        task = asyncio.create_task(run_projector(world.settings, world.nats, stop))
        position = await world.append(whole_run(1))
        await until(hints, at_least(position))
        stop.set()
        await asyncio.wait_for(task, TIMEOUT_S)
    assert await world.positions() == {position}


async def test_a_projector_waits_for_a_database_that_is_not_there(world):
    elsewhere = world.settings.model_copy(update={"database_url": type(world.settings.database_url)(
        "postgresql://nobody@127.0.0.1:1/none")})  # fmt: skip
    stop = asyncio.Event()
    task = asyncio.create_task(run_projector(elsewhere, world.nats, stop))
    done, _ = await asyncio.wait({task}, timeout=0.5)
    assert not done
    stop.set()
    await asyncio.wait_for(task, TIMEOUT_S)


async def test_a_cancelled_projector_leaves_no_half_batch(world):
    position = await world.append(*(whole_run(number) for number in range(1, 40)))
    async with world.hints() as hints:
        task = asyncio.create_task(world.projector(batch_max=10).run(asyncio.Event()))
        await until(hints, lambda hint: hint["position"] > 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    [reached] = await world.positions()
    assert len(await world.rows("runs_v2")) == (reached + 1) // 2
    await world.project(position)
    assert len(await world.rows("step_results_v1")) == 39 * 3
