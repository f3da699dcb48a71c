"""Submitting records and watching their run to its end."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cli.api import Api
from events.errors import InvalidInputError

WATCH_WAIT_S = 0.5
PART_BYTES = 1024 * 1024

Watcher = Callable[[list[dict[str, Any]]], None]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a .json file, which is read as a whole. Raises InvalidInputError saying where it is not one."""
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InvalidInputError(f"{path} must hold a list of objects.")
    return records


def parts_of(path: Path, told: Callable[[int], None]) -> Iterator[bytes]:
    """A file's bytes, part by part; `told` is told how many have gone. Raises InvalidInputError."""
    try:
        with path.open("rb") as file:
            while part := file.read(PART_BYTES):
                yield part
                told(len(part))
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error


def find_blueprint(api: Api, name_or_id: str) -> str:
    """The id of the newest blueprint of that name, or with that id. Raises InvalidInputError naming what there is."""
    names = []
    cursor = None
    while True:
        page = api.call("blueprints/list", {"archived": False, "limit": 200, "cursor": cursor})
        for blueprint in page["items"]:
            if name_or_id in (blueprint["blueprint_id"], blueprint["name"]):
                return str(blueprint["blueprint_id"])
            names.append(blueprint["name"])
        cursor = page["next_cursor"]
        if cursor is None:
            raise InvalidInputError(f"There is no blueprint {name_or_id!r}. There are: {', '.join(names) or 'none'}.")


def the_company(api: Api, company_id: str | None) -> str:
    """The company given, or the only one there is. Raises InvalidInputError when that is not clear."""
    if company_id is not None:
        return company_id
    companies = api.call("companies/list", {"limit": 2})["items"]
    if len(companies) != 1:
        raise InvalidInputError("Say which company with --company: there is not exactly one.")
    return str(companies[0]["company_id"])


def watch_run(api: Api, run_id: str, min_position: int, watcher: Watcher, timeout_s: float = 3600) -> dict[str, Any]:
    """Follow a run to its end, telling the watcher of its step results on the way; the run at the end."""
    deadline = time.monotonic() + timeout_s
    while True:
        run: dict[str, Any] = api.call(
            "runs/get", {"run_id": run_id, "wait_s": WATCH_WAIT_S, "min_position": min_position}
        )
        watcher(step_results(api, run_id))
        if run["status"] != "running" or time.monotonic() > deadline:
            return run


def step_results(api: Api, run_id: str) -> list[dict[str, Any]]:
    """The results of a run's steps, pending ones included."""
    items: list[dict[str, Any]] = api.call("step_results/list", {"run_id": run_id})["items"]
    return items
