"""`dex security check`: what a running system exposes, and where a setting is weak. Never prints a secret."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from cli.render import console, print_json
from cli.security_local import check_files, check_ports, check_secrets
from cli.security_nats import check_nats
from cli.security_postgres import check_postgres
from cli.security_report import Audited, Finding, Severity
from cli.system import Endpoints, read_state
from events.settings import Settings

_ORDER: dict[Severity, int] = {"weak": 0, "notice": 1, "ok": 2}
_STYLES: dict[Severity, str] = {"weak": "red", "notice": "yellow", "ok": "green"}


async def check_security(settings: Settings, endpoints: Endpoints) -> list[Finding]:
    """All findings on the running system, the weak ones first. What does not answer is a finding too."""
    audited = Audited(settings, endpoints, read_state(settings.home))
    local = [*check_ports(audited), *check_secrets(audited), *check_files(audited)]
    postgres, nats = await asyncio.gather(check_postgres(audited), check_nats(audited))
    return sorted([*local, *postgres, *nats], key=lambda finding: _ORDER[finding.severity])


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """A table for people, a document for scripts."""
    weak = sum(finding.severity == "weak" for finding in findings)
    if as_json:
        print_json({"weak": weak, "findings": [asdict(finding) for finding in findings]})
        return
    table = Table(title="Security", title_justify="left")
    for name in ("", "area", "where", "what", "what to do"):
        table.add_column(name, overflow="fold")
    for found in findings:
        mark = f"[{_STYLES[found.severity]}]{found.severity}[/]"
        table.add_row(mark, found.area, found.where, found.what, found.todo)
    console.print(table)
    console.print(f"[red]{weak} weak settings.[/]" if weak else "[green]No weak setting was found.[/]")
