"""The options of `dex replay`, and `dex events`."""

from typing import Annotated, Any

import typer

from cli.shell import AsJson, api, guarded, run, running_settings
from events.errors import InvalidInputError

events_app = typer.Typer(no_args_is_help=True, help="The catalogue of events.")


@events_app.command("catalog")
def catalog(
    as_json: AsJson = False,
) -> None:
    """Print every event: its topic, versions, fields, and since which release it is there. As `dex docs events`."""
    from cli.event_catalogue import event_catalogue, event_facts
    from cli.render import print_json

    if as_json:
        print_json(event_facts())
    else:
        print(event_catalogue())


def replay(
    submission: Annotated[str | None, typer.Option(help="Of this submission and its runs.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Of this run.")] = None,
    company: Annotated[str | None, typer.Option(help="Of this company.")] = None,
    actor: Annotated[str | None, typer.Option(help="Decided by this user.")] = None,
    kind: Annotated[str | None, typer.Option(help="Of this kind of thing: run, company, user, …")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="With an event of this topic; may be repeated.")] = None,
    since: Annotated[str | None, typer.Option(help="Recorded at this time (RFC 3339) or later.")] = None,
    until: Annotated[str | None, typer.Option(help="Recorded before this time.")] = None,
    after: Annotated[int, typer.Option("--from", min=0, help="After this position.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is recorded; Ctrl-C ends it.")] = False,
    shown_as: Annotated[str, typer.Option("--as", help="table, json or cloudevents (1.0), one a line.")] = "table",
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="With --into (operator): a position, or a time (RFC 3339).")
    ] = None,
    into: Annotated[str | None, typer.Option(help="Build all read models at that moment into this schema.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the log, as far as the kept token may see it; or build the read models as they were at a moment."""
    from cli.replaying import Format, build_and_show_moment
    from cli.replaying import replay as print_log

    if as_of is not None or into is not None:
        run(build_and_show_moment(running_settings(), *guarded(lambda: _both(as_of, into)), as_json=as_json))
        return
    if shown_as not in list(Format):
        raise typer.BadParameter(f"--as is one of {', '.join(Format)}; not {shown_as!r}")
    wanted: dict[str, Any] = {
        "submission_id": submission,
        "run_id": run_id,
        "company_id": company,
        "user_id": actor,
        "kind": kind,
        "topics": topic or None,
        "recorded_from": since,
        "recorded_until": until,
    }
    body = {name: value for name, value in wanted.items() if value is not None}
    how = Format.JSON if as_json else Format(shown_as)
    try:
        guarded(lambda: print_log(api(), {**body, "after_position": after, "follow": follow}, how))
    except (KeyboardInterrupt, BrokenPipeError):
        raise typer.Exit(0) from None


def _both(as_of: str | None, into: str | None) -> tuple[str, str]:
    if as_of is None or into is None:
        raise InvalidInputError("--as-of and --into go together: which moment, and into which schema.")
    return as_of, into
