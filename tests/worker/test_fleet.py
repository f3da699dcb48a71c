"""Chunks that two workers do: the same bytes as of one, whatever happens to either."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from nats.aio.client import Client

from cli.embedded import EmbeddedConfig
from events import subjects
from events.batch import Manifest, merged
from events.blobs import BlobStore
from events.connection import connect
from events.keys import Owner
from events.payload import Payload, encode_records
from services.domain.outcome import Done, Fault
from services.steps.base import Step
from services.steps.catalogue import STEPS
from services.worker import fleet as fleet_module
from services.worker import helper as helper_module
from services.worker.batches import BatchRunner, BatchStep
from services.worker.chunk_jobs import ChunkExecutor
from services.worker.fleet import Fleet
from services.worker.fleet_messages import JobAnswer, SeatRequest, Wanted
from services.worker.helper import Helper
from services.worker.isolation import StepProcesses
from services.worker.memo import Memo
from services.worker.references import TenantKeys
from services.worker.spread import Superseded
from tests.system.fleet_steps import fleet as fleet_step

MODULES = ["tests.system.fleet_steps", "services.steps.deduplicate", "services.steps.mask_fields"]
CHUNKS = 12
ROWS_A_CHUNK = 50


async def until(holds: Callable[[], bool]) -> None:
    """Until it holds, which nobody tells of."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


class CountingExecutor(ChunkExecutor):
    """Counts what it is asked."""

    asked = 0

    async def execute(self, *args, **kwargs):
        self.asked += 1
        return await super().execute(*args, **kwargs)


class Side:
    """What one worker has: its connection, its step processes."""

    def __init__(self, connection: Client, processes: StepProcesses) -> None:
        self.connection = connection
        self.worker_id = str(uuid.uuid4())
        self.processes = processes
        self.executor = CountingExecutor(BlobStore(connection), self.processes)


class Two:
    """A worker that directs, and those that help it."""

    def __init__(self, director: Side, processes: StepProcesses, folder: Path, url: str) -> None:
        self.org_id = str(uuid.uuid4())
        self.owner = Owner(self.org_id, "c")
        self.told = folder / "told"
        self.director = director
        self._processes = processes
        self._url = url
        self._stack = contextlib.AsyncExitStack()

    async def helper(
        self,
        step: Step = fleet_step,
        processes: StepProcesses | None = None,
        secret: str | None = None,
    ) -> tuple[Side, Helper]:
        """One more worker, which helps from now on."""
        connection = await connect([self._url], "helper")
        self._stack.push_async_callback(connection.close)
        side = Side(connection, processes or self._processes)
        made = Helper(
            connection, side.worker_id, {step.key: step}, side.executor, side.processes, TenantKeys(secret)
        )  # fmt: skip
        self._stack.push_async_callback(made.stop)
        await made.start()
        await connection.flush()
        return side, made

    async def close(self) -> None:
        await self._stack.aclose()

    async def batch(self, records: list[dict] | None = None) -> Payload:
        parts: list[Manifest] = []
        executor = self.director.executor
        rows = records or [{"n": n} for n in range(CHUNKS * ROWS_A_CHUNK)]
        for start in range(0, len(rows), ROWS_A_CHUNK):
            some = rows[start : start + ROWS_A_CHUNK]
            data = encode_records(some, list(range(start, start + len(some))))
            payload = await executor.blobs.store(self.owner, data, len(some))
            parts.append(await executor.manifest(self.owner, payload))
        return await executor.batches.keep(self.owner, merged(parts))

    async def run(
        self,
        source: Payload,
        step: Step = fleet_step,
        *,
        alone: bool = False,
        config: dict | None = None,
        seconds: float = 0.05,
        attempts: int = 1,
        tenant_key: bytes = b"",
        goes_on: bool = True,
    ) -> Done | Fault:
        side = self.director
        runner = BatchRunner(
            side.executor, Memo(side.connection), 1, None if alone else Fleet(side.connection, side.worker_id)
        )

        async def tell(_done: int, _total: int | None) -> bool:
            return goes_on

        plain = {"told": str(self.told), "seconds": seconds} if config is None else config
        due = BatchStep(
            self.org_id, "c", 0, 1, attempts, step, plain, source, 20, {}, tenant_key, may_reuse=False
        )  # fmt: skip
        return await runner.run(due, tell)

    def done_by(self) -> dict[int, list[int]]:
        """The first rows of the chunks that were done, by step process."""
        found: dict[int, list[int]] = {}
        for line in self.told.read_text().splitlines():
            _, pid, first = line.split()
            found.setdefault(int(pid), []).append(int(first))
        return found


@pytest.fixture(scope="module")
async def processes() -> AsyncIterator[list[StepProcesses]]:
    """Those of the worker that directs, and those of its helpers."""
    made = [StepProcesses(size, MODULES, 2**31) for size in (1, 2)]
    yield made
    await asyncio.gather(*(pool.close() for pool in made))


@pytest.fixture
async def two(servers: EmbeddedConfig, processes: list[StepProcesses], tmp_path: Path) -> AsyncIterator[Two]:
    url = servers.nats_urls["worker"]  # with a worker's permissions
    connection = await connect([url], "director")
    made = Two(Side(connection, processes[0]), processes[1], tmp_path, url)
    yield made
    await made.close()
    await connection.close()


async def test_two_workers_share_a_batch_and_give_the_bytes_of_one(two):
    source = await two.batch()
    alone = await two.run(source, alone=True)
    side, _ = await two.helper()
    both = await two.run(source)
    assert isinstance(both, Done), both
    assert both.output.digest == alone.output.digest
    assert 0 < side.executor.asked < CHUNKS
    assert two.director.executor.asked < 2 * CHUNKS
    assert side.executor.asked + two.director.executor.asked == 2 * CHUNKS, "no chunk was done twice"
    assert len(two.done_by()) >= 2, "one process here, and some there"


async def test_a_barrier_is_shared_but_for_its_middle(two):
    step = next(step for step in STEPS if step.key == "deduplicate")
    source = await two.batch([{"n": n % 400, "text": "é" * (n % 7)} for n in range(CHUNKS * ROWS_A_CHUNK)])
    config = {"keys": [["n"]]}
    alone = await two.run(source, step, alone=True, config=config)
    side, _ = await two.helper(step)
    both = await two.run(source, step, config=config)
    assert both.output.digest == alone.output.digest
    assert both.output.rows == 400
    assert both.report == alone.report
    assert side.executor.asked > 0


async def test_nobody_helps_with_another_version_of_the_step(two):
    side, _ = await two.helper(replace(fleet_step, version="2"))
    assert isinstance(await two.run(await two.batch()), Done)
    assert side.executor.asked == 0


async def test_nobody_helps_with_a_step_that_has_effects(two):
    step = replace(fleet_step, has_effects=True)
    side, _ = await two.helper(step)
    assert isinstance(await two.run(await two.batch(), step), Done)
    assert side.executor.asked == 0


async def test_nobody_helps_who_is_busy(two):
    side, _ = await two.helper()
    config = {"told": str(two.told), "seconds": 60}
    records = encode_records([{"n": 0}])
    busy = [asyncio.create_task(side.processes.execute("test_fleet", records, config, 60)) for _ in range(2)]
    await until(lambda: side.processes.idle == 0)
    assert isinstance(await two.run(await two.batch()), Done)
    assert side.executor.asked == 0
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    assert side.processes.idle == 2


async def test_a_helper_without_the_orgs_key_is_of_no_use_and_one_with_it_is(two):
    step = next(step for step in STEPS if step.key == "mask_fields")
    keys = TenantKeys("a secret of the platform, 32 long")
    source = await two.batch([{"n": f"p{n}@example.com"} for n in range(CHUNKS * ROWS_A_CHUNK)])
    config = {"fields": ["n"], "method": "pseudonym"}
    key = keys.of(two.org_id)
    stranger, _ = await two.helper(step, secret="another secret that is 32 long....")
    alone = await two.run(source, step, config=config, tenant_key=key)
    assert isinstance(alone, Done), alone
    assert stranger.executor.asked == 0
    fellow, _ = await two.helper(step, secret="a secret of the platform, 32 long")
    both = await two.run(source, step, config=config, tenant_key=key)
    assert both.output.digest == alone.output.digest
    assert fellow.executor.asked > 0


async def test_what_fails_there_is_tried_here(two):
    strangers = StepProcesses(1, ["services.steps.mask_fields"], 2**31)  # which do not know the step
    side, _ = await two.helper(processes=strangers)
    done = await two.run(await two.batch())
    assert isinstance(done, Done), done
    assert side.executor.asked > 0
    await strangers.close()
    assert sorted(first for chunks in two.done_by().values() for first in chunks) == list(
        range(0, CHUNKS * ROWS_A_CHUNK, ROWS_A_CHUNK)
    )


async def test_what_fails_for_good_there_fails_the_step(two):
    await two.helper()
    rows = [{"n": n} for n in range(CHUNKS * ROWS_A_CHUNK)]
    fault = await two.run(await two.batch([*rows[:-1], {"n": "no number"}]), attempts=3)
    assert isinstance(fault, Fault)
    assert (fault.code, fault.retryable) == ("step_exception", False)


class SilentHelper:
    """Takes a seat and a job, and says nothing of it."""

    def __init__(self, connection: Client) -> None:
        self.connection = connection
        self.job: asyncio.Future = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        await self.connection.subscribe(subjects.chunk_offer(fleet_step.key), cb=self._sit)
        await self.connection.flush()

    async def _sit(self, offer) -> None:
        if self.job.done():
            return
        subject = self.connection.new_inbox()
        seat = await self.connection.subscribe(subject)
        answer = await self.connection.request(offer.reply, SeatRequest(subject=subject).encode(), timeout=5)
        assert Wanted.model_validate_json(answer.data).wanted
        self.job.set_result(await seat.next_msg(timeout=5))


async def test_a_silent_helpers_chunk_is_done_here_and_its_late_answer_is_dropped(two, monkeypatch):
    monkeypatch.setattr(fleet_module, "SILENCE_MAX_S", 0.5)
    source = await two.batch()
    alone = await two.run(source, alone=True)
    silent = SilentHelper(two.director.connection)
    await silent.start()
    running = asyncio.create_task(two.run(source, seconds=0.2))
    job = await asyncio.wait_for(silent.job, 20)
    first = orjson.loads(job.data)["chunk"]["first"]
    await until(lambda: two.told.read_text().count(f" {first}\n") == 2)  # once alone, once in its place
    late = JobAnswer(kind="done", done={"output": None, "rejects": None, "report": None})
    answer = await two.director.connection.request(job.reply, late.encode(), timeout=5)
    assert not Wanted.model_validate_json(answer.data).wanted
    done = await running
    assert done.output.digest == alone.output.digest


async def test_helpers_stop_when_the_run_is_not_wanted_any_more(two):
    side, _ = await two.helper()
    with pytest.raises(Superseded):
        await two.run(await two.batch(), seconds=0.6, goes_on=False)
    await until(lambda: side.processes.idle == 2)
    assert side.executor.asked < CHUNKS


async def test_a_helper_that_leaves_hands_its_chunk_back_at_once(two):
    source = await two.batch()
    side, helper = await two.helper()
    running = asyncio.create_task(two.run(source, seconds=0.3))
    await until(lambda: side.executor.asked > 0)
    await helper.stop()
    done = await running
    assert isinstance(done, Done), done
    firsts = [first for chunks in two.done_by().values() for first in chunks]
    assert set(firsts) == set(range(0, CHUNKS * ROWS_A_CHUNK, ROWS_A_CHUNK))


async def test_a_helper_leaves_its_seat_for_others_now_and_then(two, monkeypatch):
    monkeypatch.setattr(helper_module, "JOBS_MAX", 1)
    side, _ = await two.helper()
    done = await two.run(await two.batch(), seconds=0.3)
    assert isinstance(done, Done), done
    assert 1 <= side.executor.asked < CHUNKS


async def test_nonsense_on_the_subjects_of_the_fleet_is_ignored(two):
    side, _ = await two.helper()
    for body in (b"", b"nonsense", b"{}"):
        await two.director.connection.publish(subjects.chunk_offer(fleet_step.key), body)
    assert isinstance(await two.run(await two.batch()), Done)
    assert side.executor.asked > 0
