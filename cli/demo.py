"""The demo: real listed companies through a five-step blueprint, over HTTP, as a client would do it."""

from typing import Any

from cli.api import Api
from cli.demo_data import BLUEPRINT, companies
from cli.render import console, records_table, shown, steps_table
from cli.submit import step_results
from cli.submitting import watch_in_table

SAMPLE_ROWS = 8
BEFORE_COLUMNS = ("name", "symbol", "country", "website", "employees")
AFTER_COLUMNS = ("company_name", "ticker", "country_code", "domain", "listings")


def run_demo(api: Api, *, quiet: bool) -> dict[str, Any]:
    """Make a company and a blueprint, submit, watch, and gather what there is to show."""
    records = companies()
    company = api.create("companies/create", {"name": "Listed companies"})
    blueprint = api.create("blueprints/create", {"name": "clean-companies", "steps": BLUEPRINT})
    submission = api.create(
        "submissions/create",
        {
            "company_id": company["company_id"],
            "blueprint_id": blueprint["blueprint_id"],
            "name": "companies of the world's stock indices",
            "records": records,
        },
    )
    run_id = submission["run_id"]
    run = watch_in_table(api, run_id, submission["position"], quiet=quiet)
    after = api.call("results/get", {"run_id": run_id, "limit": 1000})["records"] if _succeeded(run) else []
    return {
        "run": run,
        "submission_id": submission["submission_id"],
        "company_id": company["company_id"],
        "blueprint_id": blueprint["blueprint_id"],
        "step_results": step_results(api, run_id),
        "before": records[:SAMPLE_ROWS],
        "after": _counterparts(records[:SAMPLE_ROWS], after),
    }


def show_demo(outcome: dict[str, Any], gateway_url: str) -> None:
    """The table of steps, rows before and after, and what to try next."""
    run = outcome["run"]
    console.print(steps_table(outcome["step_results"]))
    console.print(records_table("Before (as submitted)", outcome["before"], BEFORE_COLUMNS))
    console.print(records_table("After (the same companies, of the results)", outcome["after"], AFTER_COLUMNS))
    if not _succeeded(run):
        console.print(f"[red]The run has {run['status']}[/]: {shown(run.get('error'))}")
        return
    console.print(f"[green]The run {run['run_id']} succeeded.[/] Every fact of it is in the log. Next:\n")
    for command, meaning in (
        ("uv run dex up", f"keep the system running (the API: {gateway_url}/docs)"),
        ("uv run dex status", "health of every part, and the lag of each projection"),
        ("uv run dex rebuild", "build every read model again from the log, and compare"),
        ("uv run dex submit FILE.csv --blueprint clean-companies --watch", "your own file"),
    ):
        console.print(f"  [bold]{command:<66}[/]{meaning}", soft_wrap=True)


def _succeeded(run: dict[str, Any]) -> bool:
    return bool(run["status"] == "succeeded")


def _counterparts(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results that came of the sampled rows (a rejected or merged row has none of its own)."""
    by_ticker = {record.get("ticker"): record for record in after}
    return [by_ticker[record["symbol"]] for record in before if record["symbol"] in by_ticker]
