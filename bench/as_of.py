"""`as_of` against a plain query: runs/get and step_results/list, p50 and p95, on the running system's own runs.

    python -m bench.as_of [--runs 200] [--json]

Three questions of the same runs: as they are; as of the log's end (nothing changed since: no history is read); and as
of the position at which each began (its history is read and folded). One caller, one connection, in turn.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from cli import credentials
from cli.api import Api
from cli.system import running_endpoints
from events.settings import Settings


def main() -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    settings = Settings()
    own = credentials.load(settings.home)
    assert own is not None, "run `dex up` first"
    api = Api(running_endpoints(settings).gateway_url, own.token)
    found = measure(api, _runs(api, arguments.runs))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for name, figures in found.items():
        print(f"{name:<44} {figures}")


def _runs(api: Api, wanted: int) -> list[dict[str, Any]]:
    """The newest runs."""
    runs: list[dict[str, Any]] = []
    cursor = None
    while len(runs) < wanted:
        page = api.call("runs/list", {"limit": 200, "cursor": cursor})
        runs += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert runs, "there are no runs: run `dex demo`, or bench.pipeline, first"
    return runs[:wanted]


def measure(api: Api, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Times in ms, by question."""
    end = max(run["last_position"] for run in runs)
    questions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "plain": lambda _: {},
        "as of the end": lambda _: {"as_of": end},
        "as of its beginning": lambda run: {"as_of": run["position"]},
    }
    found: dict[str, Any] = {"runs": len(runs)}
    for endpoint in ("runs/get", "step_results/list"):
        for name, body in questions.items():
            times = [_time_ms(api, endpoint, {"run_id": run["run_id"], **body(run)}) for run in runs]
            ordered = sorted(times)
            found[f"{endpoint} {name}"] = {
                "p50_ms": round(statistics.median(ordered), 2),
                "p95_ms": round(ordered[int(len(ordered) * 0.95)], 2),
            }
    return found


def _time_ms(api: Api, endpoint: str, body: dict[str, Any]) -> float:
    began_s = time.perf_counter()
    api.call(endpoint, body)
    return (time.perf_counter() - began_s) * 1000


if __name__ == "__main__":
    main()
