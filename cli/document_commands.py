"""`dex docs`: what the code knows of itself, as documents."""

from pathlib import Path
from typing import Annotated

import typer

from cli.render import console
from events.settings import Settings

docs_app = typer.Typer(no_args_is_help=True, help="Documents that are made from the code.")


@docs_app.command("asyncapi")
def docs_asyncapi() -> None:
    """Print the AsyncAPI document of commands and tasks."""
    from cli.documents import asyncapi

    print(asyncapi(Settings()))


@docs_app.command("openapi")
def docs_openapi() -> None:
    """Print the OpenAPI document of the HTTP API."""
    from cli.documents import openapi

    print(openapi(Settings()))


@docs_app.command("permissions")
def docs_permissions() -> None:
    """Print who may call which endpoint, as Markdown."""
    from cli.documents import permissions

    print(permissions())


@docs_app.command("events")
def docs_events() -> None:
    """Print the catalogue of events, as Markdown."""
    from cli.event_catalogue import event_catalogue

    print(event_catalogue())


@docs_app.command("steps")
def docs_steps(
    key: Annotated[str | None, typer.Argument(help="One step's page; without it, the list of all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write every page below this folder instead.")] = None,
) -> None:
    """Print the catalogue of steps, or one step's page, as Markdown."""
    from cli.step_pages import pages, write_pages

    if out is not None:
        console.print(f"{len(write_pages(out))} pages")
        return
    made = pages()
    name = "steps.md" if key is None else f"steps/{key}.md"
    if name not in made:
        raise typer.BadParameter(f"there is no step {key!r}; `dex docs steps` lists those that there are")
    print(made[name], end="")
