"""`dex security check`: what a running system exposes, and where a setting is weak. Never prints a secret."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape

from cli.render import console, print_json
from cli.security.local import check_files, check_ports, check_secrets
from cli.security.nats import check_nats
from cli.security.postgres import check_postgres
from cli.security.report import Audited, Finding, Severity
from cli.system import Endpoints, read_state
from events.settings import Settings

_ORDER: dict[Severity, int] = {"weak": 0, "notice": 1, "ok": 2}
_MARKS: dict[Severity, str] = {"weak": "✗", "notice": "!", "ok": "✓"}
_STYLES: dict[Severity, str] = {"weak": "red", "notice": "yellow", "ok": "green"}


async def check_security(settings: Settings, endpoints: Endpoints) -> list[Finding]:
    """All findings on the running system, the weak ones first. What does not answer is a finding too."""
    audited = Audited(settings, endpoints, read_state(settings.home))
    local = [*check_ports(audited), *check_secrets(audited), *check_files(audited)]
    postgres, nats = await asyncio.gather(check_postgres(audited), check_nats(audited))
    return sorted([*local, *postgres, *nats], key=lambda finding: _ORDER[finding.severity])


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """A list by area for people, the worst first; a document for scripts, with what each user may do."""
    weak = sum(finding.severity == "weak" for finding in findings)
    if as_json:
        print_json({"weak": weak, "findings": [asdict(finding) for finding in findings]})
        return
    for area in dict.fromkeys(finding.area for finding in findings):
        console.print(f"[bold]{area}[/]")
        for found in (finding for finding in findings if finding.area == area):
            mark = f"[{_STYLES[found.severity]}]{_MARKS[found.severity]}[/]"
            todo = f" [dim]→ {escape(found.todo)}[/]" if found.todo else ""
            console.print(
                f"  {mark} {escape(found.where)}: {escape(found.what)}{todo}", soft_wrap=True, highlight=False
            )
    console.print(f"[red]{weak} weak settings.[/]" if weak else "[green]No weak setting was found.[/]")
