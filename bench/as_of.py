"""`as_of` against a plain query: runs/get and step_results/list, p50 and p95, over HTTP.

    python -m bench.as_of [--runs 500] [--json]

A system of its own does so many runs of five steps (bench.pipeline). Then three questions of each of them, in turn, by
one caller over one connection: as it is; as of the log's end (nothing changed since, so that no history is read); and
as of the position at which it began (its history is read and folded).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.meter import percentile
from bench.pipeline import Client, drive, running

INFLIGHT = 64
PAGE = 200


async def measure(runs: int, home: Path) -> dict[str, Any]:
    """Times in ms, by endpoint and question."""
    async with running(home, "create") as (client, _system):
        await drive(client.run_one, runs, INFLIGHT)
        done = await listed(client, runs)
        end = max(run["last_position"] for run in done)
        found: dict[str, Any] = {"runs": len(done)}
        for endpoint in ("runs/get", "step_results/list"):
            times_ms: dict[str, list[float]] = {"plain": [], "as_of_end": [], "as_of_begin": []}
            for run in done:  # the questions in turn, so that all see the same machine
                asked = {"plain": {}, "as_of_end": {"as_of": end}, "as_of_begin": {"as_of": run["position"]}}
                for name, moment in asked.items():
                    times_ms[name].append(await time_ms(client, endpoint, {"run_id": run["run_id"], **moment}))
            for name, times in times_ms.items():
                found[f"{endpoint} {name}"] = {
                    "p50_ms": round(percentile(times, 50), 2),
                    "p95_ms": round(percentile(times, 95), 2),
                }
        return found


async def listed(client: Client, wanted: int) -> list[dict[str, Any]]:
    """The newest runs."""
    runs: list[dict[str, Any]] = []
    cursor = None
    while len(runs) < wanted:
        page = await client.post("runs/list", {"limit": PAGE, "cursor": cursor})
        runs += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(runs) >= wanted, f"{len(runs)} runs instead of {wanted}"
    return runs[:wanted]


async def time_ms(client: Client, endpoint: str, body: dict[str, Any]) -> float:
    """One question."""
    began_s = time.perf_counter()
    await client.post(endpoint, body)
    return (time.perf_counter() - began_s) * 1000


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dex-bench-") as folder:
        found = uvloop.run(measure(arguments.runs, Path(folder)))
    print(json.dumps(found) if arguments.json else "\n".join(f"{name:<32} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
