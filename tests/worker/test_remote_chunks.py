"""Large batches, chunk by chunk, through a remote step: the same rows as when they come as one."""

import uuid

import pytest
from nats.aio.client import Client

from cli.embedded import EmbeddedConfig
from events.batch import Manifest, merged
from events.blobs import BlobStore
from events.keys import Owner
from events.log import EventLog
from events.payload import Payload, describe, encode_records
from services.domain.outcome import Done, Fault
from services.worker.batches import BatchRunner, BatchStep
from services.worker.chunk_jobs import ChunkExecutor
from services.worker.isolation import StepProcesses
from services.worker.memo import Memo
from services.worker.remote import Places, RemoteStep, RemoteSteps
from tests.system.remote_client import RemoteWorker, upper

ROWS_A_CHUNK = 1000


class Bench:
    """A worker's way from a batch to its outcome, without a log: chunks, processes, remote steps."""

    def __init__(self, connection: Client, url: str) -> None:
        self.org_id = str(uuid.uuid4())
        self.owner = Owner(self.org_id, "c")
        self.url = url
        self.steps: dict[str, RemoteStep] = {}
        self.key = f"chunks_{uuid.uuid4().hex}"
        self.remote = RemoteSteps(connection, EventLog(connection), [self.key], [], self._serve)
        self.blobs = BlobStore(connection)
        places = Places(StepProcesses(1, [], 2**31), self.remote)
        self.executor = ChunkExecutor(self.blobs, places)
        self._runner = BatchRunner(self.executor, Memo(connection), 1)
        self.told: list[tuple[int, int | None]] = []

    async def _serve(self, step: RemoteStep) -> None:
        self.steps[step.key] = step

    async def batch(self, records: list[dict]) -> Payload:
        """A stored batch of chunks, with ids through all of them."""
        parts: list[Manifest] = []
        for start in range(0, len(records), ROWS_A_CHUNK):
            rows = records[start : start + ROWS_A_CHUNK]
            encoded = encode_records(rows, list(range(start, start + len(rows))))
            payload = await self.blobs.store(self.owner, encoded, len(rows))
            parts.append(await self.executor.manifest(self.owner, payload))
        return await self.executor.batches.keep(self.owner, merged(parts))

    async def run(self, source: Payload, config: dict | None = None) -> Done | Fault:
        async def tell(done: int, total: int | None) -> bool:
            self.told.append((done, total))
            return True

        config = {"field": "name"} if config is None else config
        step = self.steps[self.key]
        return await self._runner.run(
            BatchStep(self.org_id, "c", 0, 1, 1, step, config, source, 20, {}, b"", False), tell
        )

    async def rows(self, payload: Payload) -> list[tuple[int, dict]]:
        """Ids and records of a stored batch."""
        manifest = await self.executor.manifest(self.owner, payload)
        found = []
        async for columns, ids in self.executor.batches.chunks(self.owner, manifest):
            names = list(columns)
            cells = [columns[name].values() for name in names]
            found += [
                (row_id, dict(zip(names, row, strict=True)))
                for row_id, row in zip(ids.to_pylist(), zip(*cells, strict=True), strict=True)
            ]
        return found


@pytest.fixture
async def bench(connection: Client, servers: EmbeddedConfig) -> Bench:
    made = Bench(connection, servers.nats_urls["remote-worker"])
    await made.remote.start()
    return made


def records(rows: int) -> list[dict]:
    return [{"name": None if n % 1000 == 500 else f"name {n}", "n": n, "more": "x" * 900} for n in range(rows)]


async def test_chunks_are_asked_about_in_parts_and_keep_their_rows_ids(bench):
    async with RemoteWorker(bench.url, upper, key=bench.key) as worker:
        assert (await worker.announce()).get("accepted")
        done = await bench.run(await bench.batch(records(3500)))
    assert isinstance(done, Done), done
    given = records(3500)
    expected = [(n, {**given[n], "name": f"NAME {n}"}) for n in range(3500) if n % 1000 != 500]
    assert await bench.rows(done.output) == expected
    rejects = [record for _, record in await bench.rows(done.rejects)]
    assert [(one["row"], one["field"], one["code"]) for one in rejects] == [
        (n, "name", "not_text") for n in (500, 1500, 2500)
    ]
    assert len(worker.requests) == 4
    assert done.step_version == "remote+1"


async def test_rows_that_were_dropped_or_doubled_are_told_of(bench):
    def doubled(request: dict) -> dict:
        kept = [row for row in range(len(request["records"])) if row % 2 for _ in range(2)]
        return {"records": [request["records"][row] for row in kept], "rows": kept}

    async with RemoteWorker(bench.url, doubled, key=bench.key) as worker:
        await worker.announce()
        done = await bench.run(await bench.batch(records(1200)))
    assert [row_id for row_id, _ in await bench.rows(done.output)] == [n for n in range(1200) if n % 2 for _ in "ab"]


async def test_a_whole_batch_is_one_request_as_long_as_it_fits(bench):
    async with RemoteWorker(bench.url, upper, key=bench.key, whole=True) as worker:
        await worker.announce()
        done = await bench.run(await bench.batch(records(2100)))
        assert isinstance(done, Done), done
        assert [len(request["records"]) for request in worker.requests] == [2100]
        fault = await bench.run(await bench.batch(records(6000)))
    assert isinstance(fault, Fault)
    assert (fault.code, fault.retryable) == ("batch_too_large", False)
    assert len(worker.requests) == 1


async def test_what_goes_wrong_with_a_chunk_fails_the_step_with_its_reason(bench):
    async with RemoteWorker(bench.url, lambda _: {"records": []}, key=bench.key) as worker:
        await worker.announce()
        source = await bench.batch(records(2000))
        fault = await bench.run(source)
        assert (fault.code, fault.retryable) == ("bad_answer", False)
        assert (await bench.run(source, {})).code == "config_invalid"
    assert (await bench.run(source)).code == "remote_unavailable"


async def test_an_empty_batch_and_one_of_records_in_json(bench):
    async with RemoteWorker(bench.url, upper, key=bench.key) as worker:
        await worker.announce()
        encoded = encode_records([])
        done = await bench.run(describe(encoded, 0))
        assert isinstance(done, Done), done
        assert await bench.rows(done.output) == []
        done = await bench.run(describe(encode_records([{"name": "a"}], [7]), 1))
        assert await bench.rows(done.output) == [(7, {"name": "A"})]
