"""Two lanes, end to end: a backlog of one org, and what it does to the runs of others. Order in the log, no clocks."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

import pytest

from cli.system import System
from events import subjects
from events.connection import connect
from events.follow import follow
from events.keyring import use_keys
from events.keys import MasterKeys
from events.log import EventLog
from services.open_runs import QUICK_RUNS
from tests.conftest import SYSTEM_MASTER_KEYS
from tests.system.client import Org, new_org

BACKLOG = 200
AT_ONCE = 16
PATIENCE_S = 120


@pytest.fixture
async def log(system: System) -> AsyncIterator[EventLog]:
    connection = await connect([system.endpoints.nats_url], "check")
    use_keys(connection, MasterKeys(SYSTEM_MASTER_KEYS))
    yield EventLog(connection)
    await connection.close()


@contextmanager
def no_worker(system: System) -> Iterator[None]:
    """While nobody works, a backlog grows."""
    system.supervisor.kill("worker", signal.SIGSTOP)
    try:
        yield
    finally:
        system.supervisor.kill("worker", signal.SIGCONT)


async def submit_many(org: Org, blueprint: str, count: int) -> list[str]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def submit(number: int) -> str:
        async with gate:
            return (await org.submit(blueprint, [{"n": number}]))["run_id"]

    return list(await asyncio.gather(*(submit(number) for number in range(count))))


async def ends_of(log: EventLog, org: Org, count: int) -> dict[str, int]:
    """The position of each run's end, when so many have ended."""
    found: dict[str, int] = {}
    ends = follow(log._nc, subjects.EVENTS, [f"events.{org.org_id}.run.*.*.end.*"], after=0)
    async with asyncio.timeout(PATIENCE_S), aclosing(ends):
        async for batch in ends:
            for message in batch:
                assert message.subject.endswith(".end.succeeded")
                run_id = subjects.Address.parse(message.subject).aggregate_id
                assert run_id not in found, "a run ends once"
                found[run_id] = message.position
            if len(found) >= count:
                return found
    raise AssertionError("unreachable")


async def lanes_of(log: EventLog, org: Org, run_id: str) -> list[str]:
    routings = [recorded.decision.routing for recorded in await log.history(org.org_id, "run", run_id)]
    return [subjects.lane_of(routing) for routing in routings if subjects.is_task(routing)]


async def bucket_of(log: EventLog, org: Org) -> int:
    """Which bulk queue an org's waiting tasks are in."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            info = await log._nc.jetstream().stream_info(
                subjects.BULK_TASKS, subjects_filter=f"bulk.*.*.{org.org_id}.>"
            )
            if info.state.subjects:
                return int(next(iter(info.state.subjects)).split(".")[1])
            await asyncio.sleep(0.05)  # the server sources in a moment


async def test_a_small_run_does_not_wait_for_anothers_backlog(system, org, other_org, log):
    blueprint, small = await org.blueprint("test_count"), await other_org.blueprint("test_count")
    with no_worker(system):
        hogs = await submit_many(org, blueprint, BACKLOG)
        made = await other_org.submit(small)
    ends = await ends_of(log, org, BACKLOG)
    small_end = (await ends_of(log, other_org, 1))[made["run_id"]]
    before = sum(position < small_end for position in ends.values())
    assert set(ends) == set(hogs)
    assert before < BACKLOG // 2, f"{before} of {BACKLOG} runs of the other org, all submitted before, ended before"
    lanes = [(await lanes_of(log, org, run_id))[0] for run_id in hogs]
    assert lanes.count(subjects.QUICK) <= QUICK_RUNS
    assert await lanes_of(log, other_org, made["run_id"]) == [subjects.QUICK]


async def test_two_hogs_go_on_side_by_side(system, org, log):
    others: list[Org] = []
    first = await org.blueprint("test_count")
    try:
        with no_worker(system):
            mine = await submit_many(org, first, BACKLOG)
            bucket = await bucket_of(log, org)
            while not others or await bucket_of(log, others[-1]) == bucket:
                at = system.endpoints
                others.append(await new_org(at.gateway_url, at.nats_url, at.database_url))
                theirs = await submit_many(others[-1], await others[-1].blueprint("test_count"), BACKLOG // 2)
        ends, later = await ends_of(log, org, BACKLOG), await ends_of(log, others[-1], BACKLOG // 2)
    finally:
        for other in others:
            await other.http.aclose()
    assert (set(ends), set(later)) == (set(mine), set(theirs))
    middle = sorted(later.values())[len(later) // 2]
    assert middle < max(ends.values()), "who came later, with less, is half done before the first one is through"


async def test_a_run_keeps_its_lane_over_steps_and_attempts(system, org, log, tmp_path):
    flaky = {
        "key": "test_flaky",
        "config": {"marker": str(tmp_path / "attempts"), "failures": 2},
        "retry": {"attempts": 3, "backoff_s": 0.05},
    }
    effect = {"key": "test_slow", "config": {"seconds": 0.01}}
    filler, long = await org.blueprint("test_count"), await org.blueprint(flaky, effect, "test_count")
    with no_worker(system):
        await submit_many(org, filler, QUICK_RUNS)
        made = await org.submit(long)
    assert (await org.ended(made))["status"] == "succeeded"
    lanes = await lanes_of(log, org, made["run_id"])
    assert len(lanes) >= 5, "three attempts, and two steps after them"
    assert set(lanes) == {subjects.BULK}
    again = await org.submit(filler)
    await org.ended(again)
    assert await lanes_of(log, org, again["run_id"]) == [subjects.QUICK], "the backlog is gone"


async def test_a_worker_that_is_killed_amid_bulk_work_loses_nothing(system, org, log):
    blueprint = await org.blueprint("test_count", {"key": "test_slow", "config": {"seconds": 0.02}}, "test_count")
    with no_worker(system):
        made = await submit_many(org, blueprint, 60)
    await ends_of(log, org, 15)
    system.supervisor.kill("worker")
    assert set(await ends_of(log, org, len(made))) == set(made)
    for run_id in made:
        history = await log.history(org.org_id, "run", run_id)
        topics = [event.TOPIC for recorded in history for event in recorded.decision.events]
        assert topics.count("step.succeeded") == 3


async def test_a_task_that_is_delivered_again_while_the_worker_is_at_it_is_not_done_twice(system, org, tmp_path):
    """As after a pause of the process that is longer than its tasks' time (a cold, loaded machine)."""
    marker = tmp_path / "attempts"
    long = {"key": "test_flaky", "config": {"marker": str(marker), "failures": 0, "seconds": 5.0}}
    records = [{"n": n, "text": "x" * 100} for n in range(1000)]  # large, so it runs in a step process
    made = await org.submit(await org.blueprint(long), records)
    while (await org.steps(made))[0]["status"] != "running":
        await org.call("runs/get", {"run_id": made["run_id"], "wait_s": 0.1})
    worker = system.supervisor.processes["worker"].process
    worker.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3)  # the outage itself: longer than task_ack_wait_s, shorter than the step
    worker.send_signal(signal.SIGCONT)
    assert (await org.ended(made))["status"] == "succeeded"
    assert len(marker.read_bytes()) == 1
