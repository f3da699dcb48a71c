"""`dex log …`: the two copies of the log, compared, made anew from each other, and the hot one cut (operator only)."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from nats.aio.client import Client
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cli.render import console, facts_table, print_json
from cli.shell import AsJson, run, running_settings
from events import subjects
from events.connection import connect
from events.errors import InvalidInputError
from events.settings import Settings
from migrations.streams import definitions
from projections.archive.check import CheckResult, OnProgress, Progress, check
from projections.archive.restore_archive import restore_archive
from projections.archive.restore_log import restore_log
from projections.archive.trim import trim
from projections.database import create_pool

log_app = typer.Typer(no_args_is_help=True, help="The log and its archive (the platform's operator only).")

SECONDS = {"h": 3600, "d": 86_400}
KEEP_MIN_S = 3600.0
"""Nobody may still be at work on what he read before this long."""
FAULTS_SHOWN = 20

T = TypeVar("T")
Work = Callable[[asyncpg.Pool, Client, OnProgress], Awaitable[T]]


class Copy(StrEnum):
    """Which of the two copies is made anew from the other."""

    LOG = "log"
    ARCHIVE = "archive"


@log_app.command("check")
def check_command(as_json: AsJson = False) -> None:
    """Compare archive and log: count, contiguity, chain, every common position. Exit code 1 when they differ."""
    found = run(_with_servers("Comparing", check, quiet=as_json))
    if as_json:
        print_json(as_facts(found))
    else:
        _show(found)
    raise typer.Exit(0 if found.ok else 1)


@log_app.command("restore")
def restore_command(
    copy: Annotated[Copy, typer.Argument(help="The copy that is made anew: from the other one.")],
    as_json: AsJson = False,
) -> None:
    """Make the log anew from its archive, or the archive from the log. What only one copy had is never lost."""
    settings = running_settings()

    async def log(pool: asyncpg.Pool, connection: Client, progress: OnProgress) -> Any:
        config = definitions(settings.nats_replicas, settings.events_max_bytes)[subjects.EVENTS]
        return await restore_log(pool, connection, config, progress)

    done = run(_with_servers("Restoring", log if copy is Copy.LOG else restore_archive, quiet=as_json))
    if as_json:
        print_json({"restored": copy.value if done else None, **(asdict(done) if done else {})})
    elif done is None:
        console.print(f"The {copy.value} is whole; nothing was changed.")
    else:
        console.print(f"The {copy.value} was made anew: {_told(asdict(done))}.")
        if done.dead_letters:
            console.print(f"{done.dead_letters} decisions are in DEAD_LETTERS, with the reason: dex dead-letters")


@log_app.command("trim")
def trim_command(
    keep: Annotated[str, typer.Option(help="How much of the log stays hot: 30d, 12h.")],
    as_json: AsJson = False,
) -> None:
    """Drop from the hot log what is older, archived, compared just now, and behind every follower."""
    done = run(_with_servers("Comparing", lambda pool, nats, told: trim(pool, nats, seconds_of(keep), told), as_json))
    if as_json:
        print_json(asdict(done))
    elif done.first_position == done.before:
        console.print(f"Nothing is older than {keep}; the log begins at position {done.before:,} as before.")
    else:
        console.print(f"The log begins at position {done.first_position:,} now, and began at {done.before:,} before.")


def seconds_of(keep: str) -> float:
    """30d or 12h in seconds. Raises InvalidInputError."""
    matched = re.fullmatch(r"(\d{1,5})([hd])", keep)
    seconds = int(matched[1]) * SECONDS[matched[2]] if matched else 0.0
    if seconds < KEEP_MIN_S:
        raise InvalidInputError(f"--keep {keep!r} is no time: write days or hours, as 30d or 12h; at least 1h.")
    return float(seconds)


async def _with_servers(title: str, work: Work[T], quiet: bool) -> T:
    settings: Settings = running_settings()
    connection = await connect(settings.nats_servers, "dex")
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("positions"), TimeRemainingColumn())
    bar = Bar(*columns, console=console, disable=quiet)

    def show(now: Progress) -> None:
        bar.update(task, completed=now.position, total=now.total)

    try:
        async with await create_pool(settings) as pool:
            with bar:
                task = bar.add_task(title, total=None)
                return await work(pool, connection, show)
    finally:
        await connection.close()


def as_facts(found: CheckResult) -> dict[str, Any]:
    """The result for scripts."""
    return {
        "ok": found.ok,
        "log": {
            "epoch": found.log.epoch,
            "first_position": found.log.first_position,
            "last_position": found.log.last_position,
        },
        "archive": {
            "epoch": found.archive.epoch,
            "position": found.archive.position,
            "chain": found.archive.chain.hex(),
        },
        "archived": found.archived,
        "compared": found.compared,
        "not_archived": found.not_archived,
        "faults": [asdict(fault) for fault in found.faults],
        "more_faults": found.more_faults,
    }


def _show(found: CheckResult) -> None:
    console.print(
        f"The log has positions {found.log.first_position:,} to {found.log.last_position:,}, the archive has up to "
        f"{found.archive.position:,}; {found.compared:,} are in both, {found.not_archived:,} wait for the archiver."
    )
    if found.ok:
        console.print("[green]Both are whole, and the same.[/]")
        return
    rows = ([f"{fault.position:,}", fault.kind, fault.message] for fault in found.faults[:FAULTS_SHOWN])
    console.print(facts_table("What is wrong", ("position", "kind", "what"), rows))
    total = len(found.faults) + found.more_faults
    rest = f", of which the first {FAULTS_SHOWN} are shown" if total > FAULTS_SHOWN else ""
    console.print(f"[red]{total:,} {'fault' if total == 1 else 'faults'}{rest}.[/]")
    for wrong, copy in ((found.of_archive(), Copy.ARCHIVE), (found.of_log(), Copy.LOG)):
        if wrong:
            console.print(f"The {copy.value} can be made anew from the other copy: dex log restore {copy.value}")
            return


def _told(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in facts.items())
