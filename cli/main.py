"""`dex`, the command line."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import credentials, database_roles, processes
from cli.audit_commands import audit_app
from cli.document_commands import docs_app
from cli.embedded import REMOTE_WORKER
from cli.key_commands import keys_app
from cli.log_commands import log_app
from cli.operator_commands import database_app, security_app
from cli.render import console, print_json, shown
from cli.replay_command import events_app, replay
from cli.shell import AsJson, api, guarded, run, running_settings
from cli.system import Endpoints, System, migrate_everything, running_endpoints
from cli.token_commands import token_app
from cli.work_commands import preview
from events.errors import ConfigurationError
from events.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they show local variables, and so secrets
    help="data-engine-x: event-sourced pipelines.",
)
org_app = typer.Typer(no_args_is_help=True, help="Orgs (the platform's operator only).")
app.add_typer(org_app, name="org")
app.add_typer(token_app, name="token")
app.add_typer(database_app, name="database")
app.add_typer(security_app, name="security")
app.add_typer(keys_app, name="keys")
app.add_typer(log_app, name="log")
app.add_typer(docs_app, name="docs")
app.add_typer(audit_app, name="audit")
app.command()(preview)
app.add_typer(events_app, name="events")
app.command("replay")(replay)


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Start everything, run real listed companies through a blueprint, and show what came of it."""
    outcome, gateway_url = run(_with_system(lambda api: _demo(api, quiet=as_json), quiet=as_json))
    if as_json:
        print_json(outcome)
    else:
        from cli.demo import show_demo

        show_demo(outcome, gateway_url)
    raise typer.Exit(0 if outcome["run"]["status"] == "succeeded" else 1)


@app.command()
def up(
    servers: Annotated[
        bool,
        typer.Option("--servers", help="NATS and Postgres only: to look and mend when a process refuses to start."),
    ] = False,
) -> None:
    """Start everything and keep it running; Ctrl-C stops it cleanly."""
    run(_up(Settings(), servers_only=servers))


@app.command()
def migrate(
    roles: Annotated[bool, typer.Option("--roles", help="Also make the logins whose URLs are set.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database and the streams to what this version needs."""
    settings = Settings()
    applied, made = run(migrate_everything(running_endpoints(settings).applied_to(settings)))
    if roles:
        run(database_roles.ensure_given_logins(running_settings()))
    if as_json:
        print_json({"migrations_applied": applied, "streams_made": made})
        return
    console.print(f"Migrations applied: {', '.join(applied) or 'none, all were'}.")
    console.print(f"Streams made: {', '.join(made) or 'none, all were there'}.")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Health of every part, and the lag of each projection in positions. Exit code 1 when something is wrong."""
    from cli.status import gather_status, show_status

    found = run(gather_status(running_settings()))
    if as_json:
        print_json(found.as_json())
    else:
        show_status(found)
    raise typer.Exit(1 if found.faults else 0)


@app.command()
def rebuild(
    projection: Annotated[str | None, typer.Argument(help="One projection; all when left out.")] = None,
    accept_log: Annotated[
        bool, typer.Option("--accept-log", help="The log was restored or made anew: take it as it is.")
    ] = False,
    to: Annotated[
        str | None, typer.Option(help="Build this next generation, v2 for instance, here and now, and switch to it.")
    ] = None,
    accept_differences: Annotated[
        bool, typer.Option("--accept-differences", help="Switch though the generations differ in what they share.")
    ] = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Drop the tables of generations that are no longer in service.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build read models again from the log, and say whether the result equals what was there."""
    from cli.rebuilding import build_and_show, drop_old_and_show, rebuild_and_show

    if drop_old:
        run(drop_old_and_show(running_settings(), as_json=as_json))
        return
    if to is not None:
        run(build_and_show(running_settings(), projection, to, accept_differences=accept_differences, as_json=as_json))
        return
    identical = run(rebuild_and_show(running_settings(), projection, accept_log=accept_log, as_json=as_json))
    raise typer.Exit(0 if identical or accept_log else 1)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines, Parquet or XLSX (also .gz, .zst); or a .json list.")],
    blueprint: Annotated[str, typer.Option(help="Name or id of a blueprint.")],
    company: Annotated[str | None, typer.Option(help="Id of the company; the only one when left out.")] = None,
    read: Annotated[str, typer.Option(help='Config of read_file as JSON, e.g. {"delimiter": ";"}.')] = "{}",
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a file of records, and start its run."""
    from cli.submitting import submit_file

    outcome = guarded(lambda: submit_file(api(), file, blueprint, company, read=read, watch=watch, quiet=as_json))
    if as_json:
        print_json(outcome)
    raise typer.Exit(0 if outcome.get("status", "succeeded") == "succeeded" else 1)


@app.command()
def download(
    run_id: Annotated[str, typer.Argument(help="The run.")],
    output: Annotated[Path, typer.Argument(help="The file to write: .csv, .jsonl, .parquet or .arrow.")],
    step: Annotated[int | None, typer.Option(help="Index of the step, from 0; the last one when left out.")] = None,
    kind: Annotated[str, typer.Option(help="output, rejects or input.")] = "output",
    row_ids: Annotated[bool, typer.Option("--row-ids", help="With a column of row ids.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's results, or what a step rejected, into a file."""
    from cli.submitting import download_results

    body = {"step_index": step, "kind": kind, "format": output.suffix.removeprefix("."), "row_ids": row_ids}
    made = guarded(lambda: download_results(api(), run_id, output, body, quiet=as_json))
    if as_json:
        print_json(made)
    else:
        console.print(f"{shown(made['file'])}: {made['size_bytes']:,} bytes", soft_wrap=True)


@org_app.command("create")
def org_create(
    name: Annotated[str, typer.Argument(help="The org's name.")],
    admin_email: Annotated[str, typer.Option(help="E-mail of its first admin.")],
    as_json: AsJson = False,
) -> None:
    """Create an org, its first admin, and an API token, which is shown once."""
    from cli.bootstrap import create_org

    settings = running_settings()
    made = run(create_org(settings.nats_servers, settings.database_dsn, name, admin_email))
    credentials.save(Settings().home, made)
    facts = {"org_id": made.org_id, "user_id": made.user_id, "token": made.token}
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        console.print(f"{key:<8} {value}", soft_wrap=True)
    console.print("The token is shown this once. `dex submit` and `dex token create` use it from now on.")


@org_app.command("limits")
def org_limits(
    org_id: Annotated[str, typer.Argument(help="The org's id.")],
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="NAME=NUMBER, e.g. org_open_runs=500; may be repeated.")
    ] = None,
) -> None:
    """Give an org limits of its own; without --limit it has the platform's defaults again."""
    from cli.bootstrap import set_org_limits
    from cli.limits import parse_limits

    limits = guarded(lambda: parse_limits(limit or []))
    run(set_org_limits(running_settings().nats_servers, org_id, limits))
    shown = limits.model_dump(exclude_none=True)
    console.print(", ".join(f"{name}={value:g}" for name, value in shown.items()) or "The platform's defaults.")


@app.command("dead-letters")
def dead_letters(
    replay: Annotated[bool, typer.Option("--replay", help="Give each back to where it came from.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what failed beyond repair, with the reason; or give it back to be tried again."""
    from cli.deadletters import show_or_replay

    run(show_or_replay(running_settings(), replay=replay, as_json=as_json))


@app.command()
def health(process: Annotated[str, typer.Argument(help="Which process must answer on this host.")]) -> None:
    """Exit code 0 when that process of this host answers; for containers."""
    from cli.documents import is_healthy

    raise typer.Exit(0 if run(is_healthy(Settings(), process)) else 1)


@app.command()
def gateway() -> None:
    """Run the HTTP gateway (one process of a deployment)."""
    raise typer.Exit(_run_process(processes.GATEWAY))


@app.command("command-service")
def command_service() -> None:
    """Run the command service (one process of a deployment)."""
    raise typer.Exit(_run_process(processes.COMMAND_SERVICE))


@app.command()
def worker(
    module: Annotated[
        list[str] | None,
        typer.Option("--module", help="A Python module with steps, importable from here; may be repeated."),
    ] = None,
    remote: Annotated[
        list[str] | None,
        typer.Option(
            "--remote", help="Serve a step that a worker in another language announces; * for all; repeatable."
        ),
    ] = None,
) -> None:
    """Run a step worker (one process of a deployment)."""
    settings = Settings()
    if module:
        sys.path.append(str(Path.cwd()))  # as its step processes have it; at the end, so that it hides nothing of ours
        settings = settings.model_copy(update={"step_modules": tuple(module)})
    if remote:
        settings = settings.model_copy(update={"remote_steps": tuple(remote)})
    raise typer.Exit(_run_process(processes.WORKER, settings))


@app.command("remote-url")
def remote_url() -> None:
    """The NATS URL, with its password, for a step worker in another language on this machine."""
    typer.echo(guarded(_remote_url))


@app.command()
def projector() -> None:
    """Run the projector (one process of a deployment)."""
    raise typer.Exit(_run_process(processes.PROJECTOR))


@app.command()
def archiver() -> None:
    """Run the archiver (one process of a deployment)."""
    raise typer.Exit(_run_process(processes.ARCHIVER))


def _run_process(name: str, settings: Settings | None = None) -> int:
    return processes.run_process(name, settings or Settings(), processes.SERVE[name])


def _remote_url() -> str:
    url = running_endpoints(Settings()).process_nats_urls.get(REMOTE_WORKER)
    if url is None:
        raise ConfigurationError(
            f"Only the passwords of an embedded nats-server are known here: make the URL of the user {REMOTE_WORKER!r} "
            "from the password that yours was given (NATS_REMOTE_WORKER_PASSWORD)."
        )
    return url


async def _with_system(use: Any, *, quiet: bool) -> Any:
    """Start a system, call `use(api)` beside it in a thread, stop it; what was returned, and the gateway's URL."""
    from cli.api import Api

    settings = Settings()
    system = System(settings, _announce if not quiet else lambda _name, _what: None)
    endpoints = await system.start()
    try:
        own = await _own_credentials(settings, endpoints)
        api = Api(endpoints.gateway_url, own.token)
        return await asyncio.to_thread(use, api), endpoints.gateway_url
    finally:
        await system.stop()


async def _own_credentials(settings: Settings, endpoints: Endpoints) -> credentials.Credentials:
    """The credentials that are kept, or those of a new org for a system that has none."""
    from cli.bootstrap import create_org

    own = credentials.load(settings.home)
    if own is None:
        own = await create_org(endpoints.nats_url.split(","), endpoints.database_url, "My org", "admin@example.com")
        credentials.save(settings.home, own)
    return own


def _demo(api: Any, *, quiet: bool) -> dict[str, Any]:
    from cli.demo import run_demo

    return run_demo(api, quiet=quiet)


async def _up(settings: Settings, *, servers_only: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    system = System(settings, _announce)
    endpoints = await system.start(processes=()) if servers_only else await system.start()
    try:
        if servers_only:
            console.print("[green]The servers are up[/], without the processes. Ctrl-C stops them.")
            await stop.wait()
            return
        own = await _own_credentials(settings, endpoints)
        console.print(f"[green]Up.[/] API: {endpoints.gateway_url}/docs", soft_wrap=True)
        console.print(f"Data and logs: {settings.home}", soft_wrap=True)
        console.print(f"Token of your org (kept in {settings.home}/credentials.json): {own.token}", soft_wrap=True)
        console.print("Ctrl-C stops it.")
        await stop.wait()
        console.print("Stopping …")
    finally:
        await system.stop()


def _announce(name: str, what: str) -> None:
    console.print(f"  {name:<16} {what}", highlight=False)


def main() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    main()
