"""`dex token …`: API tokens of the org that the command line acts for, over HTTP like every other client."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.render import console, print_json
from cli.shell import AsJson, api, guarded, own_credentials

DAY_S = 86_400
COLUMNS = ("name", "role", "active", "expires_at", "last_used_at", "token_id")


token_app = typer.Typer(no_args_is_help=True, help="API tokens.")


@token_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    user: Annotated[str | None, typer.Option(help="Id of the user it acts as; yourself when left out.")] = None,
    role: Annotated[str | None, typer.Option(help="Narrows it: company_admin or member.")] = None,
    company: Annotated[str | None, typer.Option(help="Id of the company that it is for.")] = None,
    expires_days: Annotated[int | None, typer.Option(min=1, help="Days until it ends by itself.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create an API token, which is shown once."""
    body = {
        "name": name,
        "user_id": user or guarded(own_credentials).user_id,
        "role": role,
        "company_id": company,
        "expires_in_s": None if expires_days is None else expires_days * DAY_S,
    }
    _show_secret(guarded(lambda: api().create("tokens/create", body)), as_json=as_json)


@token_app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the tokens that you may see, newest first; never their secrets."""
    found = guarded(lambda: api().call("tokens/list", {"limit": 200}))
    if as_json:
        print_json(found)
        return
    for token in found["items"]:
        console.print("  ".join(_shown(token, column) for column in COLUMNS), soft_wrap=True, highlight=False)
    if found["next_cursor"]:
        console.print("There are more; `tokens/list` pages through them.")


@token_app.command("rotate")
def rotate(
    token_id: Annotated[str, typer.Argument(help="The token's id.")],
    overlap_hours: Annotated[int, typer.Option(min=0, help="Hours for which the old secret stays valid.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Give a token a new secret, which is shown once."""
    body = {"token_id": token_id, "overlap_s": overlap_hours * 3600}
    _show_secret(guarded(lambda: api().create("tokens/rotate", body)), as_json=as_json)


@token_app.command("revoke")
def revoke(
    token_id: Annotated[str, typer.Argument(help="The token's id.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a token; it is out of use everywhere when this returns."""
    done = guarded(lambda: api().create("tokens/revoke", {"token_id": token_id}))
    if as_json:
        print_json(done)
    else:
        console.print("Revoked." if done.get("in_force") else "Recorded; it takes effect in a moment.")


def _shown(token: dict[str, Any], column: str) -> str:
    """One fact of a token; times without their fractions."""
    value = token[column]
    if column == "active":
        return "[green]active[/]" if value else "[dim]ended[/]"
    if column.endswith("_at"):
        return f"{column.removesuffix('_at').replace('_', ' ')} {value[:16].replace('T', ' ') if value else 'never'}"
    return escape(str(value or "as its user"))


def _show_secret(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        console.print(f"token_id {made['token_id']}\ntoken    {made['token']}", soft_wrap=True)
        console.print("The token is shown this once.")
