"""Rebuilding: the same rows again, whatever was done to the live ones, and nobody sees anything half-built."""

import asyncio

import pytest

from events import administration as admin
from events.errors import InvalidInputError, LogRewoundError, StateConflictError
from events.ids import new_id
from projections import rebuild as rebuilding
from projections.catalogue import PROJECTIONS
from projections.rebuild import rebuild
from tests.projections.support import ORG, History, at_least, done, fault, make_log_anew, until, whole_run


def some_history() -> History:
    """A bit of everything."""
    history = History()
    history.on(admin.ORG, ORG, admin.OrgCreated, name="o")
    user_id, token_id = new_id(), new_id()
    history.on(
        admin.USER, user_id, admin.UserCreated,
        email="e", name=None, role="member", company_id=None, identity=None,
    )  # fmt: skip
    history.on(admin.TOKEN, token_id, admin.TokenCreated, name="t", user_id=user_id, hint="h", secret_id=new_id())
    history.on(admin.USER, user_id, admin.UserDeactivated)
    history.record(history.start(new_id()), *(done(index) for index in range(3)))
    state = history.record(history.start(new_id()), fault(0))
    history.record(state, fault(0, attempt=2, retryable=False))
    history.start(new_id())
    return history


@pytest.fixture
async def projected(world):
    """A world whose read models are up to date."""
    await world.project(await world.append(some_history()))
    return world


async def shadow_schemas(world) -> int:
    return await world.pool.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'data_engine_rebuild'")


async def test_a_rebuild_gives_the_same_rows(projected):
    before, checkpoints = await projected.everything(), await projected.rows("projection_checkpoints", "name")
    seen = []
    results = await rebuild(projected.pool, projected.nats, progress=seen.append)
    assert [result.name for result in results] == [projection.name for projection in PROJECTIONS]
    assert all(result.identical and result.compared for result in results)
    assert {result.name: result.rows for result in results} == {
        projection.name: sum(len(before[table.name]) for table in projection.tables) for projection in PROJECTIONS
    }
    assert await projected.everything() == before
    after = await projected.rows("projection_checkpoints", "name")
    assert [row | {"updated_at": None} for row in after] == [row | {"updated_at": None} for row in checkpoints]
    assert await shadow_schemas(projected) == 0
    history = some_history()
    assert (seen[-1].position, seen[-1].total) == (len(history.recorded),) * 2
    assert seen[-1].events == sum(len(recorded.decision.events) for recorded in history.recorded)
    by_name = {result.name: result.events for result in results}
    assert by_name["runs_v2"] == by_name["step_results_v1"] == seen[-1].events - 4


@pytest.mark.parametrize(
    ("damage", "name", "only_live", "only_rebuilt"),
    [
        ("UPDATE data_engine.runs_v2 SET status = 'succeeded' WHERE status = 'failed'", "runs_v2", 1, 1),
        ("UPDATE data_engine.users_v2 SET deactivated_at = NULL", "users_v2", 1, 1),
        ("DELETE FROM data_engine.step_results_v1 WHERE step_index = 1", "step_results_v1", 0, 2),
        ("UPDATE data_engine.tokens_v2 SET token_id = gen_random_uuid()", "tokens_v2", 1, 1),
        (
            "INSERT INTO data_engine.orgs_v2 VALUES (gen_random_uuid(), 'ghost', true, '[]', '{}', now(), 1)",
            "orgs_v2", 1, 0,
        ),
    ],
)  # fmt: skip
async def test_a_rebuild_finds_what_was_tampered_with_and_mends_it(projected, damage, name, only_live, only_rebuilt):
    before = await projected.everything()
    await projected.pool.execute(damage)
    results = {result.name: result for result in await rebuild(projected.pool, projected.nats)}
    assert (results[name].only_live, results[name].only_rebuilt) == (only_live, only_rebuilt)
    assert (len(results[name].sample_live), len(results[name].sample_rebuilt)) == (only_live, only_rebuilt)
    assert [other for other, result in results.items() if not result.identical] == [name]
    assert await projected.everything() == before
    assert all(result.identical for result in await rebuild(projected.pool, projected.nats))


async def test_only_checking_leaves_the_live_rows(projected):
    await projected.pool.execute("UPDATE data_engine.orgs_v2 SET name = 'changed'")
    before = await projected.everything()
    [result] = await rebuild(projected.pool, projected.nats, ["orgs"], check_only=True)
    assert not result.identical
    assert result.sample_live == result.sample_rebuilt == (ORG,)
    assert await projected.everything() == before


async def test_one_projection_is_rebuilt_with_what_it_requires(projected):
    before = await projected.everything()
    await projected.pool.execute("UPDATE data_engine.step_results_v1 SET attempt = 9")
    await projected.pool.execute("UPDATE data_engine.runs_v2 SET blueprint_id = gen_random_uuid()")
    [result] = await rebuild(projected.pool, projected.nats, ["step_results_v1"])
    assert result.only_live == result.only_rebuilt == len(before["step_results_v1"])
    after = await projected.everything()
    assert after["step_results_v1"] == before["step_results_v1"]
    assert after["runs_v2"] != before["runs_v2"]


async def test_an_unknown_name_is_refused_with_the_names_there_are(world):
    with pytest.raises(InvalidInputError, match=r"no projection 'tuns'.*runs_v2"):
        await rebuild(world.pool, world.nats, ["tuns"])


async def test_read_models_that_are_not_there_yet_are_built_to_the_end_of_the_log(world):
    position = await world.append(some_history())
    results = await rebuild(world.pool, world.nats)
    assert all(result.identical and not result.compared for result in results)
    assert await world.positions() == {position}
    built = await world.everything()
    await world.project(await world.append(whole_run(1)))
    for name in ("orgs_v2", "users_v2", "tokens_v2"):
        assert (await world.everything())[name] == built[name]


async def test_an_empty_log_gives_empty_read_models(world):
    results = await rebuild(world.pool, world.nats)
    assert all(result.rows == 0 and result.identical for result in results)


async def test_projectors_go_on_during_rebuilds(world):
    async with world.hints() as hints, world.projecting(world.projector(batch_max=3)):
        await until(hints, lambda hint: "reset" in hint)
        await until(hints, at_least(await world.append(whole_run(200))))
        differing: list[str] = []
        appending = asyncio.create_task(world.append(*(whole_run(number) for number in range(1, 200))))
        while not appending.done():
            results = await rebuild(world.pool, world.nats)
            differing += [result.name for result in results if not (result.compared and result.identical)]
        position = await appending
        assert differing == []
        await until(hints, at_least(position))
    assert [row["status"] for row in await world.rows("runs_v2")] == ["succeeded"] * 200
    assert all(result.identical for result in await rebuild(world.pool, world.nats))


async def test_readers_never_see_anything_half_built(projected):
    count = "SELECT count(*) FROM data_engine.step_results_v1"
    whole = await projected.pool.fetchval(count)
    await projected.pool.execute("UPDATE data_engine.step_results_v1 SET attempt = 9")
    rebuilt = asyncio.create_task(rebuild(projected.pool, projected.nats))
    seen = set()
    while not rebuilt.done():
        seen.add(await projected.pool.fetchval(count))
    await rebuilt
    assert seen == {whole}


async def test_another_log_is_refused_and_then_accepted(projected):
    before = await projected.everything()
    await make_log_anew(projected.nats)
    await projected.append(whole_run(1))
    with pytest.raises(LogRewoundError, match=r"made anew.*--accept-log"):
        await rebuild(projected.pool, projected.nats)
    assert await projected.everything() == before
    results = {r.name: r for r in await rebuild(projected.pool, projected.nats, accept_log=True)}
    assert not results["runs_v2"].identical
    assert await projected.positions() == {2}
    assert [row["status"] for row in await projected.rows("runs_v2")] == ["succeeded"]
    assert await projected.rows("orgs_v2") == []
    await projected.project(await projected.append(whole_run(2)))
    assert len(await projected.rows("runs_v2")) == 2


async def test_an_empty_log_can_be_accepted_too(projected):
    await make_log_anew(projected.nats)
    await rebuild(projected.pool, projected.nats, accept_log=True)
    assert await projected.positions() == {0}
    assert not any((await projected.everything()).values())
    await projected.project(await projected.append(whole_run(2)))


async def test_dead_letters_are_those_of_the_rebuild(projected):
    await projected.publish(f"events.{ORG}.run.{new_id()}.1.log.run", b"{}")
    await projected.project((await projected.log.state()).last_position)
    letters = await projected.rows("projection_dead_letters", "name")
    await projected.pool.execute("UPDATE data_engine.projection_dead_letters SET position = 1, reason = 'old'")
    results = {result.name: result for result in await rebuild(projected.pool, projected.nats)}
    assert (results["runs_v2"].dead_letters, results["orgs_v2"].dead_letters) == (1, 0)
    after = await projected.rows("projection_dead_letters", "name")
    assert [row | {"at": None} for row in after] == [row | {"at": None} for row in letters]


async def test_a_rebuild_gives_way_to_a_later_one(projected, monkeypatch):
    before = await projected.everything()

    class Overtaken(rebuilding._Building):
        async def begin(self):
            await super().begin()
            monkeypatch.setattr(rebuilding, "_Building", original)
            await rebuild(projected.pool, projected.nats)

    original = rebuilding._Building
    monkeypatch.setattr(rebuilding, "_Building", Overtaken)
    with pytest.raises(StateConflictError, match="Another rebuild"):
        await rebuild(projected.pool, projected.nats)
    assert await projected.everything() == before
    assert all(result.identical for result in await rebuild(projected.pool, projected.nats))


async def test_a_rebuild_that_fails_leaves_nothing_behind(projected):
    before = await projected.everything()

    def fail(_progress):
        raise KeyError("the caller's fault")

    with pytest.raises(KeyError):
        await rebuild(projected.pool, projected.nats, progress=fail)
    assert await projected.everything() == before
    assert await shadow_schemas(projected) == 0
