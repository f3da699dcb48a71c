"""`dex submit`: a file in, a run to watch."""

from pathlib import Path
from typing import Any

from rich.live import Live

from cli.api import Api
from cli.render import console, steps_table
from cli.submit import find_blueprint, read_records, step_results, the_company, watch_run


def submit_file(
    api: Api, file: Path, blueprint: str, company: str | None, *, watch: bool, quiet: bool
) -> dict[str, Any]:
    """Submit the records of a file; with `watch` follow the run to its end. What was made, and the run's status."""
    records = read_records(file)
    body = {
        "company_id": the_company(api, company),
        "blueprint_id": find_blueprint(api, blueprint),
        "name": file.name,
        "records": records,
    }
    made = api.create("submissions/create", body)
    if not quiet:
        console.print(f"{len(records):,} records submitted: submission {made['submission_id']}", soft_wrap=True)
    if not watch:
        return made
    if quiet:
        run = watch_run(api, made["run_id"], made["position"], lambda _: None)
        return {**made, "status": run["status"], "step_results": step_results(api, made["run_id"])}
    with Live(console=console, refresh_per_second=8) as live:
        run = watch_run(api, made["run_id"], made["position"], lambda results: live.update(steps_table(results)))
    console.print(f"The run {made['run_id']} has {run['status']}.", soft_wrap=True)
    return {**made, "status": run["status"]}
