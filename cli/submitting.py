"""`dex submit`: a file in, a run to watch. `dex download`: what came of it."""

import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cli.api import Api
from cli.render import console, harmless, shown, steps_table
from cli.submit import find_blueprint, parts_of, read_records, step_results, the_company, watch_run
from events.errors import InvalidInputError

FORMATS = ("csv", "jsonl", "parquet", "arrow")

ARRAY_SUFFIX = ".json"
"""A file that holds one JSON text: its records are sent as such. Any other is uploaded as it is."""


def submit_file(
    api: Api, file: Path, blueprint: str, company: str | None, *, read: str, watch: bool, quiet: bool
) -> dict[str, Any]:
    """Submit a file's records; with `watch` follow the run to its end. What was made, and the run's status."""
    if not file.is_file():
        raise InvalidInputError(f"There is no file {file}.")
    told = {
        "company_id": the_company(api, company),
        "blueprint_id": find_blueprint(api, blueprint),
        "name": file.name,
    }
    if file.suffix.lower() == ARRAY_SUFFIX:
        made = api.create("submissions/create", {**told, "records": read_records(file)})
    else:
        made = _upload(api, file, {**told, "read": read}, quiet=quiet)
    if not quiet:
        console.print(
            f"{shown(file.name)} submitted: submission {made['submission_id']}, run {made['run_id']}", soft_wrap=True
        )
    if not watch:
        return made
    run = watch_in_table(api, made["run_id"], made["position"], quiet=quiet)
    results = step_results(api, made["run_id"])
    if quiet:
        return {**made, "status": run["status"], "step_results": results}
    console.print(steps_table(results))
    console.print(f"The run {made['run_id']} has {run['status']}.", soft_wrap=True)
    if run["error"] is not None:
        console.print(harmless(f"{run['error']['code']}: {run['error']['message']}"), soft_wrap=True, markup=False)
    return {**made, "status": run["status"]}


def watch_in_table(api: Api, run_id: str, min_position: int, *, quiet: bool) -> dict[str, Any]:
    """Follow a run to its end, with a table of its steps that is gone then; the run."""
    if quiet:
        return watch_run(api, run_id, min_position, lambda _: None)
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        return watch_run(api, run_id, min_position, lambda results: live.update(steps_table(results)))


def download_results(api: Api, run_id: str, output: Path, body: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Write a run's results into a file, which is there only when it is whole. The file's name and size."""
    if body["format"] not in FORMATS:
        raise InvalidInputError(
            f"{output}: say by the file's name what is wanted, as in rows.{', rows.'.join(FORMATS)}."
        )
    parts = output.with_name(f"{output.name}.part")
    size_bytes = 0
    try:
        with _bar(quiet) as progress, parts.open("wb") as file:
            task = progress.add_task(shown(output.name), total=None)
            for part in api.download("results/download", {"run_id": run_id, **body}):
                size_bytes += file.write(part)
                progress.advance(task, len(part))
        parts.replace(output)
    except OSError as error:
        raise InvalidInputError(f"{output} cannot be written: {error}") from error
    finally:
        with suppress(OSError):  # there is none after all went well, nor where none could be made
            parts.unlink(missing_ok=True)
    return {"file": str(output), "size_bytes": size_bytes}


def _upload(api: Api, file: Path, told: dict[str, str], *, quiet: bool) -> dict[str, Any]:
    with _bar(quiet) as progress:
        task = progress.add_task(shown(file.name), total=file.stat().st_size)
        parts = parts_of(file, lambda size: progress.advance(task, size))
        return api.upload("submissions/upload", told, parts, key=str(uuid.uuid4()))


def _bar(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, disable=quiet)
