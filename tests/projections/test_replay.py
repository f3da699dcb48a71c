"""The log as callers see it: archive and hot log as one, wherever the archive's head is."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from cli.replaying import cloudevents
from events.ids import new_id
from gateway import history
from projections.queries import as_of
from projections.queries import history as queries
from projections.queries.reader import Reader, Scope
from tests.gateway.support import add_person
from tests.projections.archiving import archive_all
from tests.projections.asking import asking
from tests.projections.support import COMPANY, ORG, TIMEOUT_S, USER, History
from tests.projections.test_as_of import FIRST, some_runs
from tests.projections.trimming import trim_to

LINE_S = 10


def told(cut: int = 0) -> History:
    """Some runs, in which every second decision is of a company and causes the next one; `cut`: only so many."""
    found = some_runs()
    for index, one in enumerate(found.recorded):
        before = found.recorded[index - 1].decision.decision_id if index % 2 else one.decision.decision_id
        decision = replace(one.decision, company_id=COMPANY if index % 2 else None, causation_id=before)
        found.recorded[index] = replace(one, decision=decision)
    return History(recorded=found.recorded[:cut] if cut else found.recorded)


async def walk(ask: Any, order: str, limit: int = 2, **filters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    at: dict[str, int] = {}
    while True:
        status, page = await ask("events/list", order=order, limit=limit, **{**filters, **at})
        assert status == 200, page
        found += page["items"]
        name = "after_position" if order == "asc" else "before_position"
        following = page[f"next_{name}"]
        if following is None:
            return found
        at = {name: following}


@pytest.fixture(params=["nothing archived", "half archived", "all archived", "trimmed"])
async def logged(world, request):
    """The same log of fourteen or so decisions, of which the archive has more or less."""
    whole = told()
    half = len(whole.recorded) // 2
    await world.append(History(recorded=whole.recorded[:half]))
    if request.param in ("half archived", "trimmed"):
        await archive_all(world)
    last = await world.append(History(recorded=whole.recorded[half:]))
    if request.param == "all archived":
        await archive_all(world)
    if request.param == "trimmed":
        await trim_to(world, half)
    await world.project(last)
    return world


@pytest.mark.parametrize("looked_at_max", [queries.LOOKED_AT_MAX, 4])
async def test_both_orders_and_all_filters(logged, looked_at_max, monkeypatch):
    monkeypatch.setattr(queries, "LOOKED_AT_MAX", looked_at_max)
    monkeypatch.setattr(history, "SKEW", timedelta(0))
    decisions = told().recorded
    times = {}
    async with asking(logged) as ask:
        everything = await walk(ask, "asc", limit=3)
        assert [item["position"] for item in everything] == [one.position for one in decisions]
        assert all(item["recorded_at"] for item in everything)
        times = {item["position"]: item["recorded_at"] for item in everything}
        middle = times[len(decisions) // 2]
        cases: list[tuple[dict[str, Any], Any]] = [
            ({"run_id": FIRST}, lambda one: one.decision.aggregate_id == FIRST),
            ({"user_id": USER}, lambda one: one.decision.actor.user_id == USER),
            ({"user_id": new_id()}, lambda one: False),
            ({"company_id": COMPANY}, lambda one: one.decision.company_id == COMPANY),
            ({"kind": "run"}, lambda one: True),
            ({"kind": "company"}, lambda one: False),
            ({"topics": ["step.failed", "run.failed"]}, lambda one: any(e.TOPIC == "step.failed" for e in
                                                                       one.decision.events)),
            ({"recorded_from": middle}, lambda one: times[one.position] >= middle),
            ({"recorded_until": middle}, lambda one: times[one.position] < middle),
            ({"recorded_from": times[3], "recorded_until": times[5]}, lambda one: one.position in (3, 4)),
            ({"recorded_from": times[5], "recorded_until": times[3]}, lambda one: False),
            ({"recorded_from": times[1], "kind": "company"}, lambda one: False),
            ({"after_position": 2, "before_position": 7}, lambda one: 2 < one.position < 7),
        ]  # fmt: skip
        for filters, wanted in cases:
            expected = [one.position for one in decisions if wanted(one)]
            for order in ("asc", "desc"):
                found = [item["position"] for item in await walk(ask, order, **filters)]
                assert found == (expected if order == "asc" else expected[::-1]), (filters, order)


async def test_a_filter_that_matches_nothing_looks_at_so_many_rows_and_no_more(world, monkeypatch):
    """Otherwise a few such questions over a long archive hold every connection, for as long as a query may take."""
    monkeypatch.setattr(queries, "LOOKED_AT_MAX", 4)
    count = len(told().recorded)
    last = await world.append(told())
    await archive_all(world)
    await world.project(last)
    async with asking(world) as ask:
        for filters in ({"kind": "company"}, {"user_id": new_id()}):
            _, page = await ask("events/list", order="asc", **filters)
            assert (page["items"], page["next_after_position"]) == ([], 4)
            _, page = await ask("events/list", order="desc", **filters)
            assert (page["items"], page["next_before_position"]) == ([], count - 3)
            for order in ("asc", "desc"):
                assert await walk(ask, order, **filters) == []
        lines = (await ask.client.post("/v1/events/stream", json={"kind": "company"})).text.splitlines()
        assert [orjson.loads(line) for line in lines] == [{"position": count, "end": True}]


async def test_a_time_is_found_in_the_archive_by_halving(world):
    await world.append(told())
    await archive_all(world)
    reader = Reader(world.pool)
    rows = await reader.platform_rows("SELECT position, recorded_at FROM data_engine.event_log ORDER BY position")
    moments = [row["recorded_at"] + timedelta(microseconds=by) for row in rows for by in (-1, 0, 1)]
    for moment in (*moments, datetime.fromtimestamp(0, UTC), datetime.now(UTC) + timedelta(days=1)):
        later = [row["position"] for row in rows if row["recorded_at"] > moment]
        assert await queries.first_after(reader, Scope(ORG), moment) == (later[0] if later else None)
        earlier = [row["position"] for row in rows if row["recorded_at"] <= moment]
        assert await as_of.position_at(reader, Scope(ORG), moment) == (earlier[-1] if earlier else 0)
        assert await queries.first_after(reader, Scope(new_id()), moment) is None


async def test_newest_first_goes_on_over_many_windows(logged, monkeypatch):
    monkeypatch.setattr(history, "WINDOW_POSITIONS", 2)
    monkeypatch.setattr(history, "WINDOWS_MAX", 1)
    async with asking(logged) as ask:
        found = await walk(ask, "desc", limit=5)
        assert [item["position"] for item in found] == [one.position for one in told().recorded][::-1]


async def test_what_caused_a_decision_and_what_it_caused(logged):
    async with asking(logged) as ask:
        _, found = await ask("events/trace", position=2)
        assert ([one["position"] for one in found["causes"]], found["caused"]) == ([1], [])
        _, found = await ask("events/trace", decision_id=told().recorded[0].decision.decision_id)
        assert (found["causes"], [one["position"] for one in found["caused"]]) == ([], [2])
        assert found["complete"]
        for unknown in ({"position": 1000}, {"decision_id": new_id()}):
            assert (await ask("events/trace", **unknown))[0] == 404
        for wrong in ({}, {"position": 1, "decision_id": new_id()}):
            assert (await ask("events/trace", **wrong))[0] == 422


async def test_a_company_sees_its_own_in_list_stream_and_trace(logged):
    own = [one.position for one in told().recorded if one.decision.company_id == COMPANY]
    async with asking(logged) as ask:
        member = await add_person(logged.pool, ORG, "member", COMPANY)
        for order in ("asc", "desc"):
            answer = await ask.client.post("/v1/events/list", json={"order": order}, headers=member.headers)
            assert sorted(item["position"] for item in answer.json()["items"]) == own
        answer = await ask.client.post("/v1/events/stream", json={}, headers=member.headers)
        assert [orjson.loads(line)["position"] for line in answer.text.splitlines()[:-1]] == own
        for position in range(1, len(told().recorded) + 1):
            answer = await ask.client.post("/v1/events/trace", json={"position": position}, headers=member.headers)
            assert answer.status_code == (200 if position in own else 404)
            if position in own:
                assert answer.json()["causes"] == [], "the cause is not the company's"


async def test_a_stream_that_stops_has_all_and_says_so(logged):
    async with asking(logged) as ask:
        answer = await ask.client.post("/v1/events/stream", json={"after_position": 3})
        lines = [orjson.loads(line) for line in answer.text.splitlines()]
        assert [line["position"] for line in lines[:-1]] == [one.position for one in told().recorded][3:]
        assert lines[-1] == {"position": lines[-2]["position"], "end": True}
        assert lines[:-1] == (await walk(ask, "asc", after_position=3))
        assert ask.gateway.streams.under_way(ORG) == 0


class Following:
    """A stream that is followed, asked of the application itself: its lines come as they are sent."""

    def __init__(self, ask: Any, **body: Any) -> None:
        self._ask, self._body = ask, orjson.dumps({"follow": True, **body})
        self.lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._asked = False

    async def __aenter__(self) -> "Following":
        app = self._ask.client._transport.app
        headers = [(b"authorization", self._ask.admin.headers["Authorization"].encode()),
                   (b"content-type", b"application/json")]  # fmt: skip
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
                 "method": "POST", "path": "/v1/events/stream", "raw_path": b"/v1/events/stream", "query_string": b"",
                 "headers": headers, "scheme": "http", "server": ("gateway", 80), "client": ("127.0.0.1", 1),
                 "root_path": ""}  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gone.set()
        with suppress(Exception):
            await asyncio.wait_for(self.task, TIMEOUT_S)

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and message.get("body"):
            self.lines.put_nowait(orjson.loads(message["body"]))

    async def line(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.lines.get(), LINE_S)


async def test_following_goes_on_with_what_is_recorded_and_can_be_resumed(world):
    whole = told()
    await world.project(await world.append(told(3)))
    async with asking(world) as ask, Following(ask, heartbeat_s=1) as stream:
        assert [(await stream.line())["position"] for _ in range(3)] == [1, 2, 3]
        assert "heartbeat" in await stream.line()
        await world.project(await world.append(History(recorded=whole.recorded[3:5])))
        following = [line for line in [await stream.line() for _ in range(2)] if "heartbeat" not in line]
        while len(following) < 2:
            following += [line for line in [await stream.line()] if "heartbeat" not in line]
        assert [line["position"] for line in following] == [4, 5]
        async with Following(ask, after_position=4) as resumed:
            assert (await resumed.line())["position"] == 5
            assert ask.gateway.streams.under_way(ORG) == 2
        assert ask.gateway.streams.under_way(ORG) == 1, "whoever goes away leaves its place"
    assert ask.gateway.streams.under_way(ORG) == 0


async def test_what_others_do_wakes_a_follower_so_often_and_no_more(world, monkeypatch):
    """Thousands of others' decisions in a second: it looks a few times, and its heartbeat still comes."""
    looks, look = [], history.LogView.forward

    async def counted(self, *args):
        looks.append(args)
        return await look(self, *args)

    async def others(signals):
        for position in range(10**6, 2 * 10**6):
            signals._set_position(position)
            await asyncio.sleep(0)

    monkeypatch.setattr(history.LogView, "forward", counted)
    await world.project(await world.append(told(1)))
    async with asking(world) as ask, Following(ask, heartbeat_s=1) as stream:
        assert (await stream.line())["position"] == 1
        busy = asyncio.create_task(others(ask.gateway.signals))
        assert "heartbeat" in await stream.line()
        busy.cancel()
    assert len(looks) <= 12


@pytest.mark.parametrize("change", ["revoked_at = now()", "role = 'member'"])
async def test_access_that_is_withdrawn_ends_a_stream(world, change):
    await world.project(await world.append(told(2)))
    async with asking(world) as ask, Following(ask, heartbeat_s=1) as stream:
        assert [(await stream.line())["position"] for _ in range(2)] == [1, 2]
        await world.pool.execute(f"UPDATE data_engine.tokens_v2 SET {change}")
        ask.gateway.authenticator.cache.forget(None)
        while "heartbeat" in (last := await stream.line()):
            continue
        assert last["problem"]["status"] == 401
        await asyncio.wait_for(stream.task, TIMEOUT_S)
        assert ask.gateway.streams.under_way(ORG) == 0


async def test_an_org_has_so_many_streams_and_no_more(world):
    await world.project(await world.append(told(1)))
    world.settings = world.settings.model_copy(update={"streams_per_org_max": 1})
    async with asking(world) as ask:
        async with Following(ask) as stream:
            assert (await stream.line())["position"] == 1
            status, problem = await ask("events/stream")
            assert (status, problem["code"], problem["limit"]) == (429, "limit_streams", 1)
        assert (await ask.client.post("/v1/events/stream", json={})).status_code == 200


async def test_cloudevents_have_what_the_specification_asks_for(world):
    await world.project(await world.append(told()))
    async with asking(world) as ask:
        decisions = (await ask("events/list"))[1]["items"]
    made = [event for decision in decisions for event in cloudevents(decision, ORG)]
    assert len({(event["source"], event["id"]) for event in made}) == len(made)
    for event in made:
        assert event["specversion"] == "1.0"
        assert {"id", "source", "type", "subject", "time", "data"} <= event.keys()
        extensions = event.keys() - {"data"}
        assert all(name.isalnum() and name.islower() and len(name) <= 20 for name in extensions)
