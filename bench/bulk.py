"""A million rows from a CSV file to a Parquet file: through the whole system, and by scripts of pandas and Polars.

The work is that of `bench.bulk_work`: names, e-mail, phones, domain, mapping, dedupe. The engine's time runs from the
first byte of the upload until the Parquet file is on disk; a script's begins after its imports. The second run is of
the same submission, whose results are there already. It ends with 1 when one of its checks does not hold.

    uv run python -m bench.bulk --rows 1000000 --json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from bench import bulk_data
from bench.bulk_work import PIPELINE, rows_digest
from bench.memory import MemoryMeter
from cli.bootstrap import create_org
from cli.system import System
from events.settings import Settings

WAIT_S = 30
READ_BYTES = 256 * 1024
PROCESS_MAX_MB = 600
SECOND_RUN_TIMES_FASTER = 20
UNLIMITED_PER_S = 1e12
PEERS = ("pandas", "polars")


class Client:
    """The HTTP client: uploads a file, waits for runs, downloads."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def post(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call."""
        async with self._http.post(f"/v1/{endpoint}", json=body) as response:
            return await _answer(response)

    async def upload(self, path: Path, **query: str) -> dict[str, Any]:
        """Hand in a file as it is read."""
        async with self._http.post("/v1/submissions/upload", params=query, data=_parts(path)) as response:
            return await _answer(response)

    async def finish(self, started: dict[str, Any]) -> dict[str, Any]:
        """The run that an answer tells of, once it has ended. Raises RuntimeError when it did not succeed."""
        body = {"run_id": started["run_id"], "min_position": started["position"], "wait_s": WAIT_S}
        while (run := await self.post("runs/get", body))["status"] == "running":
            pass
        if run["status"] != "succeeded":
            raise RuntimeError(f"the run {run['status']}: {run['error']}")
        return run

    async def download(self, run_id: str, path: Path) -> None:
        """Write the run's output to a Parquet file, and the file to disk."""
        body = {"run_id": run_id, "format": "parquet"}
        async with self._http.post("/v1/results/download", json=body) as response:
            if response.status != 200:
                await _answer(response)
            with path.open("wb") as file:
                async for part in response.content.iter_chunked(READ_BYTES):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())


async def _answer(response: aiohttp.ClientResponse) -> dict[str, Any]:
    answer: dict[str, Any] = await response.json(content_type=None)
    if response.status >= 300:
        raise RuntimeError(f"{response.url.path} answered {response.status}: {answer}")
    return answer


async def _parts(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            yield part


async def through_engine(source: Path, target: Path, home: Path) -> dict[str, Any]:
    """Start a system of its own, drive it, and gather the figures."""
    limits = dict.fromkeys(("limit_org_bytes_per_s", "limit_token_bytes_per_s"), UNLIMITED_PER_S)
    settings = Settings(home=home, port=0, log_level="warning", **limits)  # type: ignore[arg-type]
    system = System(settings, lambda _name, _what: None)
    endpoints = await system.start()
    try:
        org = await create_org([endpoints.nats_url], endpoints.database_url, "Bench", f"{uuid.uuid4()}@example.com")
        headers = {"Authorization": f"Bearer {org.token}"}
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(endpoints.gateway_url, headers=headers, timeout=timeout) as http:
            client = Client(http)
            company = await client.post("companies/create", {"name": "Bench"})
            blueprint = await client.post("blueprints/create", {"name": "bulk", "steps": PIPELINE})
            ids = {"company_id": company["company_id"], "blueprint_id": blueprint["blueprint_id"]}
            pids = {name: running.pid for name, running in system.supervisor.processes.items()}
            with MemoryMeter(pids) as memory:
                figures = await _drive(client, ids, source, target)
    finally:
        await system.stop()
    return figures | {"peak_mb": memory.peak_mb()}


async def _drive(client: Client, ids: dict[str, str], source: Path, target: Path) -> dict[str, Any]:
    """The first run from the upload on, then the memoised one; seconds of each part."""
    began = time.perf_counter()
    submission = await client.upload(source, **ids)
    uploaded = time.perf_counter()
    run = await client.finish(submission)
    ended = time.perf_counter()
    await client.download(run["run_id"], target)
    on_disk = time.perf_counter()
    again = await client.post("runs/create", {"submission_id": submission["submission_id"]})
    await client.finish(again)
    second_s = time.perf_counter() - on_disk
    items = (await client.post("step_results/list", {"run_id": run["run_id"]}))["items"]
    steps = {f"{item['step_index']} {item['step_key']}": round(item["duration_us"] / 1e6, 2) for item in items}
    return {
        "wall_s": round(on_disk - began, 2),
        "upload_s": round(uploaded - began, 2),
        "run_s": round(ended - uploaded, 2),
        "download_s": round(on_disk - ended, 2),
        "second_run_s": round(second_s, 3),
        "second_run_times_faster": round((ended - uploaded) / second_s, 1),  # than the first without upload, download
        "step_s": steps,
    }


def by_script(peer: str, source: Path, target: Path) -> dict[str, Any]:
    """Run a script in a process of its own; its seconds and peak memory. Raises CalledProcessError."""
    argv = [sys.executable, "-m", f"bench.bulk_{peer}", str(source), str(target)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process, MemoryMeter({peer: process.pid}) as memory:
        output, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return {"wall_s": round(json.loads(output)["seconds"], 2), "peak_mb": memory.peak_mb()}


def measure(rows: int, seed: int, peers: list[str], folder: Path) -> dict[str, Any]:
    """Make the file, do the work in each way, one after the other, and compare what came out."""
    source = folder / "crm.csv"
    size_bytes = bulk_data.write(source, rows, seed)
    figures: dict[str, Any] = {"rows": rows, "seed": seed, "file_mb": round(size_bytes / 2**20, 1)}
    digests: dict[str, tuple[int, str]] = {}
    for name in ("engine", *peers):
        target = folder / f"{name}.parquet"
        if name == "engine":
            figures[name] = uvloop.run(through_engine(source, target, folder / "home"))
        else:
            figures[name] = by_script(name, source, target)
        digests[name] = rows_digest(target)
        target.unlink()
    figures["rows_out"], figures["sha256"] = digests["engine"]
    checks = {"same_rows": len(set(digests.values())) == 1}
    checks["memory"] = max(figures["engine"]["peak_mb"].values()) <= PROCESS_MAX_MB
    if "pandas" in peers:
        figures["pandas_times_engine"] = round(figures["pandas"]["wall_s"] / figures["engine"]["wall_s"], 2)
        checks["no_slower_than_pandas"] = figures["pandas_times_engine"] >= 1
    checks["memoised"] = figures["engine"]["second_run_times_faster"] >= SECOND_RUN_TIMES_FASTER
    return figures | {"checks": checks, "digests": digests}


def main() -> None:
    """The command line. Ends with 1 when a check does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="scripts to run beside it")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dex-bench-") as folder:
        figures = measure(arguments.rows, arguments.seed, arguments.peers, Path(folder))
    print(json.dumps(figures) if arguments.json else "\n".join(f"{k:<22} {v}" for k, v in figures.items()))
    sys.exit(0 if all(figures["checks"].values()) else 1)


if __name__ == "__main__":
    main()
