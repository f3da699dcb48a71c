"""`dex rebuild`: read models again from the log, with a bar, and the verdict."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.render import console, facts_table
from events.connection import connect
from events.settings import Settings
from projections.database import create_pool
from projections.rebuild import Rebuilt, rebuild


async def rebuild_and_show(settings: Settings, name: str | None, *, accept_log: bool, as_json: bool) -> bool:
    """Rebuild, show what was found, and return whether everything was what the log gives."""
    from cli.main import print_json

    names = [name] if name else []
    connection = await connect(settings.nats_servers, "dex")
    bar = Progress(
        TextColumn("Rebuilding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("positions"),
        TimeRemainingColumn(),
        console=console,
        disable=as_json,
    )
    try:
        async with await create_pool(settings) as pool:
            with bar:
                task = bar.add_task("rebuild", total=None)
                rebuilt = await rebuild(
                    pool,
                    connection,
                    names,
                    progress=lambda position, last: bar.update(task, completed=position, total=last),
                    accept_log=accept_log,
                )
    finally:
        await connection.close()
    if as_json:
        print_json(_as_json(rebuilt))
    else:
        _show(rebuilt)
    return rebuilt.identical


def _show(rebuilt: Rebuilt) -> None:
    rows = (
        (r.name, f"{r.rows:,}", "identical" if r.identical else "DIFFERS", _samples(r.sample_live), _samples(r.sample_rebuilt))
        for r in rebuilt.results
    )
    columns = ("projection", "rows", "compared with what was there", "only there", "only in the rebuilt")
    console.print(facts_table("Rebuilt from the log", columns, rows))
    rate = rebuilt.events / rebuilt.seconds if rebuilt.seconds else 0
    console.print(f"{rebuilt.events:,} events in {rebuilt.seconds:.2f} s ({rate:,.0f} events/s).")
    if rebuilt.identical:
        console.print("[green]Every read model was exactly what the log gives.[/]")
    else:
        console.print("[red]Some read models were not what the log gives; now they are.[/]")


def _samples(keys: list[str]) -> str:
    return ", ".join(keys)


def _as_json(rebuilt: Rebuilt) -> dict[str, object]:
    return {
        "identical": rebuilt.identical,
        "decisions": rebuilt.decisions,
        "events": rebuilt.events,
        "seconds": round(rebuilt.seconds, 3),
        "events_per_s": round(rebuilt.events / rebuilt.seconds) if rebuilt.seconds else 0,
        "projections": [
            {
                "name": result.name,
                "rows": result.rows,
                "identical": result.identical,
                "only_live": result.only_live,
                "only_rebuilt": result.only_rebuilt,
            }
            for result in rebuilt.results
        ],
    }
