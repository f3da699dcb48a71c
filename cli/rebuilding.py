"""`dex rebuild`: read models again from the log, with a bar, and the verdict."""

from collections.abc import Sequence
from dataclasses import asdict

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cli.render import console, facts_table, print_json
from events.connection import connect
from events.errors import InvalidInputError
from events.keyring import use_keys, wrapper_of
from events.settings import Settings
from projections.database import create_pool
from projections.generations import Building, BuildProgress, drop_old, successions
from projections.rebuild import Progress, RebuildResult, rebuild


def _bar(what: str, *, quiet: bool) -> Bar:
    return Bar(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("positions, {task.fields[rate]:,.0f} events/s"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
    )


async def rebuild_and_show(settings: Settings, name: str | None, *, accept_log: bool, as_json: bool) -> bool:
    """Rebuild, show what was found, and return whether everything was what the log gives."""
    connection = await connect(settings.nats_servers, "dex")
    use_keys(connection, wrapper_of(settings))
    bar = _bar("Rebuilding", quiet=as_json)

    def show(now: Progress) -> None:
        bar.update(task, completed=now.position, total=now.total, rate=now.events_per_s)

    try:
        async with await create_pool(settings) as pool:
            with bar:
                task = bar.add_task("rebuild", total=None, rate=0.0)
                results = await rebuild(pool, connection, [name] if name else [], show, accept_log=accept_log)
    finally:
        await connection.close()
    identical = all(result.identical for result in results)
    if as_json:
        print_json({"identical": identical, "projections": [_as_json(result) for result in results]})
    else:
        _show(results, identical=identical)
    return identical


async def build_and_show(
    settings: Settings, name: str | None, generation: str, *, accept_differences: bool, as_json: bool
) -> None:
    """Build the next generation of a read model beside the one in service, and switch to it.

    Raises InvalidInputError when there is nothing of that name to build, NotSwitchedError.
    """
    connection = await connect(settings.nats_servers, "dex")
    use_keys(connection, wrapper_of(settings))
    bar = _bar("Building", quiet=as_json)

    def show(now: BuildProgress) -> None:
        bar.update(task, completed=now.position, total=now.total, rate=now.events_per_s)

    try:
        async with await create_pool(settings) as pool:
            async with pool.acquire() as database:
                found = {s.new.name: s for s in await successions(database)}
            wanted = f"{name}_{generation}"
            if wanted not in found:
                choices = ", ".join(found) or "none; every read model is of the generation that this version has"
                raise InvalidInputError(f"{wanted} is not to be built. To be built: {choices}.")
            with bar:
                task = bar.add_task("build", total=None, rate=0.0)
                building = Building(pool, connection, found[wanted], rest_share=0)
                switched = await building.run(show, accept_differences=accept_differences)
    finally:
        await connection.close()
    if as_json:
        print_json(asdict(switched))
        return
    console.print(
        f"{switched.new} took the place of {switched.old} at position {switched.position:,}; {switched.rows:,} rows. "
        "The old tables are there until: dex rebuild --drop-old"
    )


async def drop_old_and_show(settings: Settings, *, as_json: bool) -> None:
    """Drop what no longer serves, and say what that was."""
    async with await create_pool(settings) as pool, pool.acquire() as database:
        dropped = await drop_old(database)
    if as_json:
        print_json({"dropped": dropped})
    else:
        console.print(f"Dropped: {', '.join(dropped)}." if dropped else "There was nothing to drop.")


def _show(results: Sequence[RebuildResult], *, identical: bool) -> None:
    columns = ("projection", "rows", "events", "compared", "only there", "only rebuilt")
    rows = (
        (
            result.name,
            f"{result.rows:,}",
            f"{result.events:,}",
            _verdict(result),
            ", ".join(result.sample_live),
            ", ".join(result.sample_rebuilt),
        )
        for result in results
    )
    console.print(facts_table("Rebuilt from the log", columns, rows))
    if results:
        console.print(f"Position {max(result.position for result in results):,} in {results[0].seconds:.2f} s.")
    if identical:
        console.print("[green]Every read model was exactly what the log gives.[/]")
    else:
        console.print("[red]Some read models were not what the log gives; now they are.[/]")


def _verdict(result: RebuildResult) -> str:
    if not result.compared:
        return "not compared"
    return "identical" if result.identical else f"DIFFERS: {result.only_live} / {result.only_rebuilt} rows"


def _as_json(result: RebuildResult) -> dict[str, object]:
    return {
        "name": result.name,
        "position": result.position,
        "rows": result.rows,
        "events": result.events,
        "identical": result.identical,
        "compared": result.compared,
        "only_live": result.only_live,
        "only_rebuilt": result.only_rebuilt,
        "seconds": round(result.seconds, 3),
    }
