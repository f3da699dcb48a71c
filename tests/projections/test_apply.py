"""Applying batches: all or nothing, at most once; poison is set aside for the projection that it is poison to."""

import asyncpg
import pytest

from events import administration as admin
from events.follow import Followed
from events.mapper import encode_decision
from events.subjects import ERASED_ROUTING
from projections import apply as applying
from projections import checkpoints
from projections.apply import apply
from projections.base import LIVE_SCHEMA
from projections.batch import decode
from projections.catalogue import EARLIER, PROJECTIONS
from projections.checkpoints import CheckpointsMovedError
from services.domain import run as runs
from tests.projections.support import COMPANY, ORG, History, an_id, done, whole_run

NAMES = [projection.name for projection in PROJECTIONS]
EPOCH = "epoch"
GOOD, BAD = an_id(70), an_id(71)


def messages(history: History) -> list[Followed]:
    return [Followed(r.position, subject_of(r), encode_decision(r.decision), 0) for r in history.recorded]


def subject_of(recorded) -> str:
    decision = recorded.decision
    return f"events.{decision.org_id}.{decision.kind}.{decision.aggregate_id}.{decision.version}.{decision.routing}"


async def at(world):
    async with world.pool.acquire() as connection:
        return await checkpoints.load(connection, LIVE_SCHEMA, NAMES)


async def apply_now(world, batch, where=None):
    where = where or await at(world)
    async with world.pool.acquire() as connection:
        return await apply(connection, LIVE_SCHEMA, PROJECTIONS, where, decode(batch), EPOCH)


async def test_rows_and_checkpoints_go_together(world):
    moved = await apply_now(world, messages(whole_run(1)))
    assert moved == await at(world)
    assert {(c.position, c.epoch, c.decision_id) for c in moved.values()} == {(2, EPOCH, an_id(10_002))}
    assert len(await world.rows("step_results_v1")) == 3


async def test_who_comes_second_changes_nothing(world):
    where = await at(world)
    await apply_now(world, messages(whole_run(1)), where)
    before = await world.everything()
    with pytest.raises(CheckpointsMovedError) as raised:
        await apply_now(world, messages(whole_run(2)), where)
    assert raised.value.found == await at(world)
    assert await world.everything() == before


async def test_a_projection_that_is_ahead_is_left_alone(world):
    batch = messages(whole_run(1))
    await apply_now(world, batch[:1])
    await world.pool.execute("UPDATE data_engine.projection_checkpoints SET position = 2 WHERE name = 'runs_v2'")
    await apply_now(world, batch)
    assert await world.positions() == {2}
    [row] = await world.rows("runs_v2")
    assert row["status"] == "running"


async def test_what_cannot_be_decoded_is_a_dead_letter_of_the_projections_of_its_kind(world):
    batch = messages(whole_run(1))
    broken = [
        Followed(1, f"events.{ORG}.run.{BAD}.1.log.run", b"{}", 0),
        Followed(2, "events.nonsense", b"\xff\x00", 0),
        Followed(3, f"events.{ORG}.company.{BAD}.1.log.x", b'{"v":1,"id":7,"at":3}', 0),
    ]
    shifted = [Followed(m.position + 3, m.subject, m.body, 0) for m in batch]
    await apply_now(world, broken + shifted)
    letters = {(row["name"], row["position"]) for row in await world.rows("projection_dead_letters")}
    assert letters == (
        {("submissions_v1", 1), ("runs_v2", 1), ("step_results_v1", 1), ("verifications_v1", 1), ("companies_v1", 3)}
        | {(name, 2) for name in NAMES}
    )
    assert [row["status"] for row in await world.rows("runs_v2")] == ["succeeded"]
    assert await world.positions() == {5}


async def test_what_postgres_refuses_is_a_dead_letter_and_its_neighbours_are_applied(world):
    """A run whose company is no id: asyncpg refuses it; its later decisions change a run that is not there."""
    history = History()
    good = history.start(GOOD)
    bad = history.start(BAD)
    first = history.recorded[1].decision.events[0].model_copy(update={"company_id": "no id"})
    broken = history.recorded[1].decision
    object.__setattr__(broken, "events", (first, *broken.events[1:]))
    history.record(good, *(done(index) for index in range(3)))
    history.record(bad, done(0))
    await apply_now(world, messages(history))
    letters = await world.rows("projection_dead_letters")
    assert [(row["name"], row["position"]) for row in letters] == [
        ("runs_v2", 2), ("runs_v2", 4), ("step_results_v1", 4),
    ]  # fmt: skip
    assert "invalid input for query argument $" in letters[0]["reason"]
    assert "no id" not in letters[0]["reason"], "what a reason quotes could not be erased"
    assert BAD in letters[1]["reason"]
    assert [(row["run_id"], row["status"]) for row in await world.rows("runs_v2")] == [(GOOD, "succeeded")]
    assert len(await world.rows("step_results_v1")) == 3
    assert await world.positions() == {4}


async def test_an_erased_company_is_gone_from_generations_that_are_out_of_service_too(world):
    history = whole_run(1)
    await apply_now(world, messages(history))
    await world.pool.execute("INSERT INTO data_engine.runs_v1 SELECT (jsonb_populate_record(NULL::data_engine.runs_v1, "
                             "to_jsonb(r))).* FROM data_engine.runs_v2 r")  # fmt: skip
    erased = admin.CompanyErased(originator_id=COMPANY, originator_version=1)
    history.decide(admin.COMPANY, COMPANY, erased, routing=ERASED_ROUTING)
    await apply_now(world, messages(history)[2:])
    for table in ("runs_v1", "runs_v2", "step_results_v1", "submissions_v1"):
        assert await world.rows(table) == [], table


async def test_whatever_has_rows_of_companies_can_be_erased(world):
    """A read model that is added and forgets to is found here."""
    of_companies = await world.pool.fetch(
        "SELECT DISTINCT table_name AS name FROM information_schema.columns JOIN information_schema.tables "
        "USING (table_schema, table_name) WHERE table_schema = 'data_engine' AND column_name = 'company_id' "
        "AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'event_log%'"
    )
    erasing = " ".join(sql for projection in (*PROJECTIONS, *EARLIER) for sql in projection.erase)
    assert {row["name"] for row in of_companies if f".{row['name']} " not in erasing} == set()


@pytest.mark.parametrize("number", [2**31, 2**63])
async def test_a_number_that_no_column_holds_is_a_dead_letter(world, number):
    history = History()
    state = history.start(GOOD)
    succeeded, scheduled = runs.record(state, [done(0)], history.at(2))
    history.run(GOOD, [succeeded.model_copy(update={"attempt": number}), scheduled])
    await apply_now(world, messages(history))
    [letter] = await world.rows("projection_dead_letters")
    assert (letter["name"], letter["position"]) == ("step_results_v1", 2)


async def test_a_text_too_long_for_an_index_is_a_dead_letter(world):
    history = History()
    noise = "".join(chr(0x4E00 + (index * 7919) % 20_000) for index in range(8000))
    history.on(
        admin.USER, GOOD, admin.UserCreated,
        email="e", name=None, role="member", company_id=None, identity=noise,
    )  # fmt: skip
    await apply_now(world, messages(history))
    [letter] = await world.rows("projection_dead_letters")
    assert (letter["name"], letter["position"]) == ("users_v2", 1)


async def test_many_poisoned_among_many_good(world):
    history = History()
    for number in range(60):
        history.start(an_id(200 + number))
    bad = {7, 8, 31, 59}
    for index in bad:
        decision = history.recorded[index].decision
        first = decision.events[0].model_copy(update={"submission_id": "no id"})
        object.__setattr__(decision, "events", (first, *decision.events[1:]))
    await apply_now(world, messages(history))
    letters = await world.rows("projection_dead_letters")
    assert [(row["name"], row["position"]) for row in letters] == [("runs_v2", index + 1) for index in sorted(bad)]
    assert len(await world.rows("runs_v2")) == 56


async def test_trouble_with_postgres_is_not_poison(world, monkeypatch):
    monkeypatch.setattr(applying, "SETTINGS", "SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(asyncpg.InterfaceError, match="connection is closed"):
        await apply_now(world, messages(whole_run(1)))
    assert await world.rows("projection_dead_letters") == []
    assert await world.positions() == {0}
