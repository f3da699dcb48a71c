"""Commands about work that leave no result: `dex preview`, and `dex audit verify-run`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.render import harmless, print_json
from cli.shell import AsJson, api, guarded


def preview(
    file: Annotated[Path, typer.Argument(help="Records: any file that `dex submit` takes.")],
    blueprint: Annotated[str, typer.Option(help="Name or id of a blueprint, or a .json file of steps.")],
    company: Annotated[str | None, typer.Option(help="Id of the company; the only one when left out.")] = None,
    read: Annotated[str, typer.Option(help='Config of read_file as JSON, e.g. {"delimiter": ";"}.')] = "{}",
    rows: Annotated[int, typer.Option(help="How many rows, 1 to 200.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what each step of a blueprint does with a file's first rows; nothing is submitted."""
    from cli.previewing import preview_file

    made = guarded(lambda: preview_file(api(), file, blueprint, company, read=read, rows=rows, quiet=as_json))
    if as_json:
        print_json(made)
    raise typer.Exit(0 if made["succeeded"] else 1)


def verify_run(
    run_id: Annotated[str, typer.Argument(help="A run that has succeeded.")],
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait for the end, at most.")] = 3600,
    out: Annotated[Path | None, typer.Option(help="Also write the report into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Execute a run again, and compare each step's output with the recorded one.

    Exit code 0: reproduced; 1: not, or not to be verified; 2: it runs still.
    """
    from cli.verifying import show_verification, verify

    made = guarded(lambda: verify(api(), run_id, wait_s, out))
    if as_json:
        print_json(made)
    else:
        show_verification(made)
    raise typer.Exit({"reproduced": 0, "running": 2}.get(made["report"]["verdict"], 1))


def verify_report(
    file: Annotated[Path, typer.Argument(help="What `dex audit verify-run --out` wrote.")],
    key: Annotated[str, typer.Option(help="The verifier's line, as `dex audit key` prints it.")],
    export: Annotated[
        Path | None, typer.Option(help="An export of the run, made with --open: does it record what the report says?")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check offline that a report is the signed one, and that a proved history says the same. Exit code 0: so it is."""
    from cli.verifying import check_recorded, check_report

    report = guarded(lambda: check_report(file, key))
    recorded = None if export is None else guarded(lambda: check_recorded(report, export, key, quiet=as_json))
    if as_json:
        print_json(report)
        return
    print(harmless(f"Signed: run {report['run_id']} {report['verdict'].replace('_', ' ')}."))
    if recorded is not None:
        print(f"Recorded: {export} proves of each step (there are {recorded}) what the report says is recorded.")
