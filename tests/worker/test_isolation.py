"""Step processes: one org's steps that never end, and the steps of another org."""

import asyncio

import orjson
import pytest

from events.payload import encode_records
from events.subjects import BULK, QUICK, Lane
from services.worker import isolation
from services.worker.execution import Executed, Failure
from services.worker.isolation import StepProcesses
from services.worker.slots import ON_BEHALF_OF

PATIENCE_S = 240.0


async def test_steps_that_never_end_hold_up_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "START_TIMEOUT_S", PATIENCE_S)
    processes = StepProcesses(1, ("tests.system.faulty_steps",), 2**31)

    async def execute(org: str, step: str, lane: Lane) -> Executed | Failure:
        ON_BEHALF_OF.set(org)
        return await processes.execute(step, encode_records([{"n": 1}]), {}, PATIENCE_S, lane)

    hanging = [asyncio.create_task(execute("evil", "test_hang", its)) for its in (BULK, QUICK) * 4]
    try:
        async with asyncio.timeout(PATIENCE_S):
            for lane in (QUICK, BULK):
                done = await asyncio.create_task(execute("good", "test_count", lane))
                assert isinstance(done, Executed), done
                assert orjson.loads(done.output) == [{"n": 2}]
        assert not any(task.done() for task in hanging)
        assert processes._slots[QUICK]._held == {"evil": 2}
    finally:
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await processes.close()
    assert not processes._slots[QUICK]._held
