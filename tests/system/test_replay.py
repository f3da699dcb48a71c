"""The log as clients replay it: filtered, streamed from any position, followed, and traced from cause to effect."""

import asyncio
import json
from contextlib import aclosing

import httpx
import pytest

from events.archive import Archive
from projections.database import create_pool
from tests.system.client import Org

STEP = {"key": "normalize_text", "config": {"fields": ["name"]}}
TIMEOUT_S = 30.0


async def ran(org: Org, blueprint: str, **more) -> dict:
    return await org.ended(await org.submit(blueprint, [{"name": " a "}], **more))


async def archived(settings, position: int) -> None:
    """Until the archive has a position."""
    async with await create_pool(settings) as pool, asyncio.timeout(TIMEOUT_S):
        while (await Archive(pool).head()).position < position:
            pass


async def lines_of(org: Org, **body) -> list[dict]:
    response = await org.post("events/stream", body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, end = [json.loads(line) for line in response.text.splitlines()]
    assert end["end"]
    return lines


@pytest.fixture(params=["archived", "as it comes"])
async def told(request, org, settings):
    """An org with two submissions, whose decisions are in the archive, or perhaps not yet."""
    blueprint = await org.blueprint(STEP)
    runs = [await ran(org, blueprint), await ran(org, blueprint)]
    if request.param == "archived":
        await archived(settings, runs[-1]["last_position"])
    return org, runs


async def test_a_stream_is_the_list_and_goes_on_from_any_position(told):
    org, (first, _) = told
    listed = (await org.call("events/list", {"limit": 500}))["items"]
    streamed = await lines_of(org)
    assert streamed == listed
    assert await lines_of(org, after_position=streamed[2]["position"]) == listed[3:]
    assert await lines_of(org, run_id=first["run_id"]) == [item for item in listed if item["id"] == first["run_id"]]
    assert await lines_of(org, topics=["run.failed"]) == []


async def test_following_gives_each_decision_once_as_it_comes(org, other_org):
    blueprint = await org.blueprint(STEP)
    foreign = await other_org.blueprint(STEP)
    seen: list[dict] = []
    async with (
        asyncio.timeout(TIMEOUT_S),
        org.http.stream("POST", "events/stream", json={"follow": True, "kind": "run"}) as response,
        aclosing(response.aiter_lines()) as lines,
    ):
        runs = [asyncio.create_task(ran(org, blueprint)) for _ in range(5)]
        strange = await ran(other_org, foreign)
        async for line in lines:
            seen.append(json.loads(line))
            if sum(event["topic"] == "run.succeeded" for item in seen for event in item.get("events", ())) == 5:
                break
    ended = await asyncio.gather(*runs)
    positions = [item["position"] for item in seen]
    assert positions == sorted(set(positions))
    assert {item["id"] for item in seen} == {run["run_id"] for run in ended}
    assert strange["run_id"] not in {item["id"] for item in seen}


async def test_a_follower_whose_token_is_revoked_is_cut_off(org):
    made = await org.call("tokens/create", {"user_id": await _user(org), "name": "reader"})
    await org.call("orgs/get", {"min_position": made["position"]})
    headers = {"Authorization": f"Bearer {made['token']}"}
    body = {"follow": True, "after_position": made["position"]}
    async with (
        httpx.AsyncClient(base_url=org.http.base_url, headers=headers, timeout=TIMEOUT_S) as http,
        http.stream("POST", "events/stream", json=body) as response,
    ):
        assert response.status_code == 200
        revoked = await org.call("tokens/revoke", {"token_id": made["token_id"]})
        assert revoked["in_force"]
        lines = [json.loads(line) for line in (await response.aread()).splitlines()]
    assert lines[-1]["problem"]["status"] == 401


async def _user(org: Org) -> str:
    return (await org.call("users/list"))["items"][0]["user_id"]


async def test_an_org_has_so_many_streams_at_once_and_no_more(org, system_settings):
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=org.http.base_url, headers=org.http.headers, limits=limits) as http:
        streams = [
            http.stream("POST", "events/stream", json={"follow": True})
            for _ in range(system_settings.streams_per_org_max)
        ]
        responses = [await stream.__aenter__() for stream in streams]
        assert {response.status_code for response in responses} == {200}
        refused = await org.post("events/stream", {"follow": True})
        assert (refused.status_code, refused.json()["code"]) == (429, "limit_streams")
        for stream in streams:
            await stream.__aexit__(None, None, None)
    async with asyncio.timeout(TIMEOUT_S):
        while (await org.post("events/stream", {})).status_code == 429:
            pass


async def test_a_decision_is_traced_to_its_cause_and_to_its_effects(told):
    org, (first, _) = told
    history = (await org.call("events/list", {"run_id": first["run_id"]}))["items"]
    traced = await org.call("events/trace", {"position": history[0]["position"]})
    assert traced["causes"] == []
    assert [effect["position"] for effect in traced["caused"]] == [item["position"] for item in history[1:]]
    assert traced["complete"]
    last = await org.call("events/trace", {"decision_id": history[-1]["decision_id"]})
    assert last["decision"] == history[-1]
    assert [cause["position"] for cause in last["causes"]] == [history[0]["position"]]
    assert last["caused"] == []
    assert (await org.post("events/trace", {})).status_code == 422


async def test_nobody_traces_what_is_anothers(told, other_org):
    _, (first, _) = told
    position = first["position"]
    foreign, nothing = [await other_org.post("events/trace", {"position": p}) for p in (position, 10**9)]
    assert foreign.status_code == nothing.status_code == 404
    assert foreign.json()["detail"] == nothing.json()["detail"]
