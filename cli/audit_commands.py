"""`dex audit …`: the history as a file, checkpoints of it, and what an auditor does with them offline."""

from pathlib import Path
from typing import Annotated

import typer

from cli.auditing import download_export, fetch_checkpoint, show_report, signing_key, verify_file
from cli.embedded import new_key
from cli.render import console, print_json, shown
from cli.shell import AsJson, api, guarded
from cli.work_commands import verify_report, verify_run
from events.settings import Settings

audit_app = typer.Typer(no_args_is_help=True, help="Proof of the history (docs/audit-format.md).")
audit_app.command("verify-run")(verify_run)
audit_app.command("verify-report")(verify_report)


@audit_app.command("new-key")
def new_key_() -> None:
    """Print a new private key, for DATA_ENGINE_AUDIT_KEY."""
    print(new_key())


@audit_app.command("key")
def key(
    org: Annotated[str | None, typer.Option(help="Id of an org: the key under the name of its checkpoints.")] = None,
) -> None:
    """Print the public key that checkpoints are verified with: give it to auditors by a way that they trust."""
    print(guarded(lambda: signing_key(Settings()).verifier(org)))


@audit_app.command("checkpoint")
def checkpoint(
    position: Annotated[
        int | None, typer.Option(help="The earliest that was kept with this position in it; else the latest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the org's signed checkpoint."""
    found = guarded(lambda: fetch_checkpoint(api(), position))
    if as_json:
        print_json(found)
    else:
        print(found["checkpoint"], end="")


@audit_app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; compressed when it ends in .gz.")],
    run: Annotated[str | None, typer.Option(help="Only this run.")] = None,
    submission: Annotated[str | None, typer.Option(help="Only this submission, with its runs.")] = None,
    company: Annotated[str | None, typer.Option(help="Only this company.")] = None,
    from_position: Annotated[int | None, typer.Option(help="From this position of the log.")] = None,
    to_position: Annotated[int | None, typer.Option(help="Up to this position of the log.")] = None,
    min_position: Annotated[int | None, typer.Option(help="Wait until the history is proved up to here.")] = None,
    previous_size: Annotated[
        list[int] | None, typer.Option(help="Size of an earlier checkpoint; puts in a proof. May be repeated.")
    ] = None,
    open_sealed: Annotated[
        bool, typer.Option("--open", help="With what sealed decisions say, to be read offline: keep the file safe.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the org's history into a file that `dex audit verify` checks offline."""
    body = {
        "run_id": run,
        "submission_id": submission,
        "company_id": company,
        "from_position": from_position,
        "to_position": to_position,
        "min_position": min_position,
        "previous_sizes": previous_size or [],
        "gzip": file.suffix == ".gz",
        "open_sealed": open_sealed,
    }
    made = guarded(lambda: download_export(api(), file, body, quiet=as_json))
    if as_json:
        print_json(made)
    else:
        console.print(f"{shown(made['file'])}: {made['size_bytes']:,} bytes", soft_wrap=True)


@audit_app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="An export.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="A file with a checkpoint that you trust; - for standard input.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The public key, as `dex audit key` prints it.")] = None,
    previous: Annotated[
        list[Path] | None,
        typer.Option(help="A file with earlier checkpoints, as they were pushed or printed. May be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify an export without any server. Exit code 1 when something was altered, removed, inserted or moved."""
    report = guarded(lambda: verify_file(file, checkpoint, key, previous or [], quiet=as_json))
    if as_json:
        print_json(report.as_json())
    else:
        show_report(report)
    raise typer.Exit(0 if report.ok else 1)
