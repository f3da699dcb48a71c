"""Which lane a run starts in, by plain counting; and slots that are given in turn."""

import asyncio

import pytest

from events import subjects
from events.subjects import BULK, QUICK
from services.open_runs import REMEMBERED_S, OpenRuns
from services.worker.slots import FairSlots

ORG, RUN = "0f4c6d1e-9d55-4a57-8d0c-3f0f6a0b7c01", "7d0a3a52-2f0e-5b8e-9a34-0c4b7e6f1a11"


def test_the_first_open_runs_of_an_org_are_quick_and_the_others_are_bulk():
    runs = OpenRuns(quick_runs=3)
    assert [runs.start("a", f"r{n}") for n in range(5)] == [QUICK, QUICK, QUICK, BULK, BULK]
    assert runs.start("b", "r0") == QUICK, "another org's runs do not count"


def test_an_end_makes_room_once():
    runs = OpenRuns(quick_runs=2)
    for run in ("r0", "r1", "r2"):
        runs.start("a", run)
    runs.end("r0")
    runs.end("r0")
    assert runs.start("a", "r3") == BULK, "two are still open"
    runs.end("r1")
    runs.end("r2")
    assert runs.start("a", "r4") == QUICK
    runs.end("r0")


def test_a_run_that_is_started_again_counts_once():
    runs = OpenRuns(quick_runs=2)
    assert [runs.start("a", "r0") for _ in range(5)] == [QUICK] * 5


def test_memory_is_bounded_and_a_backlog_beyond_it_stays_bulk():
    runs = OpenRuns(quick_runs=2, counted_max=4)
    assert [runs.start("a", f"r{n}") for n in range(1000)][2:] == [BULK] * 998
    assert len(runs._open["a"]) == 4
    for n in range(4):
        runs.end(f"r{n}")
    assert runs._open == runs._orgs == {}


def test_an_end_that_was_missed_is_forgotten_after_a_time():
    now = [0.0]
    runs = OpenRuns(quick_runs=1, now_s=lambda: now[0])
    assert [runs.start("a", "r0"), runs.start("a", "r1")] == [QUICK, BULK]
    now[0] = REMEMBERED_S + 1
    assert runs.start("a", "r2") == QUICK
    runs.end("r0")
    assert runs.start("a", "r3") == BULK


@pytest.mark.parametrize(
    ("task", "routing"),
    [(f"tasks.clean.{ORG}.{RUN}.3", "due.clean"), (f"bulk.5.clean.{ORG}.{RUN}.3", "bulk.clean")],
)
def test_a_tasks_subject_tells_the_decision_that_it_came_from(task, routing):
    assert subjects.scheduled_by(task) == f"events.{ORG}.run.{RUN}.3.{routing}"
    assert subjects.is_task(routing)
    assert subjects.lane_of(routing) == (BULK if task.startswith("bulk") else QUICK)


@pytest.mark.parametrize("subject", ["tasks.clean", f"bulk.clean.{ORG}.{RUN}.3", f"other.clean.{ORG}.{RUN}.3", "x"])
def test_what_is_no_task_is_said_to_be_none(subject):
    with pytest.raises(ValueError):
        subjects.scheduled_by(subject)


async def test_slots_go_to_the_keys_in_turn():
    slots, order = FairSlots(1), []

    async def work(key: str) -> None:
        await slots.acquire(key)
        order.append(key)
        slots.release(key)

    await slots.acquire("first")
    waiting = [asyncio.create_task(work(key)) for key in "aaaaabbc"]
    while len(slots._waiting) < 3:
        await asyncio.sleep(0)
    slots.release("first")
    await asyncio.gather(*waiting)
    assert "".join(order) == "abcabaaa"


async def test_nobody_holds_all_slots():
    slots = FairSlots(3, each_max=2)
    await slots.acquire("a")
    await slots.acquire("a")
    third = asyncio.create_task(slots.acquire("a"))
    while not slots._waiting:
        await asyncio.sleep(0)
    await asyncio.wait_for(slots.acquire("b"), 5)
    slots.release("b")
    await asyncio.wait_for(slots.acquire("b"), 5)
    other = asyncio.create_task(slots.acquire("b"))
    while len(slots._waiting) < 2:
        await asyncio.sleep(0)
    slots.release("b")
    await asyncio.wait_for(other, 5)
    assert not third.done(), "its key has all that it may have"
    slots.release("a")
    await asyncio.wait_for(third, 5)


async def test_who_leaves_the_line_costs_no_slot():
    slots = FairSlots(1)
    await slots.acquire("a")
    leaving, given = asyncio.create_task(slots.acquire("b")), asyncio.create_task(slots.acquire("c"))
    while len(slots._waiting) < 2:
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    slots.release("a")
    given.cancel()  # it has the slot already, and does not know it yet
    await asyncio.gather(given, return_exceptions=True)
    await asyncio.wait_for(slots.acquire("d"), 5)
