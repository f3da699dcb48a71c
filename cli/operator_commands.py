"""`dex database …` and `dex security …`: what the platform's operator does about roles, and asks about weaknesses."""

import typer

from cli.database_roles import make_roles
from cli.security.check import check_security, show_findings
from cli.shell import AsJson, guarded, run, running_settings
from cli.system import running_endpoints
from events.settings import Settings

database_app = typer.Typer(no_args_is_help=True, help="The database (its operator only).")
security_app = typer.Typer(no_args_is_help=True, help="What is exposed, and what is weak.")


@database_app.command("roles")
def roles(as_json: AsJson = False) -> None:
    """Make the logins of the processes, which own nothing: as their URLs say, else with new passwords."""
    run(make_roles(running_settings(), as_json=as_json))


@security_app.command("check")
def check(as_json: AsJson = False) -> None:
    """Show what is exposed on the running system. Exit code 1 when a setting is weak."""
    settings = Settings()
    findings = run(check_security(settings, guarded(lambda: running_endpoints(settings))))
    show_findings(findings, as_json=as_json)
    raise typer.Exit(1 if any(finding.severity == "weak" for finding in findings) else 0)
