"""What the parts of `dex security check` share: a finding, and the system that is looked at."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from cli.embedded import NATS_PROCESSES, REMOTE_WORKER
from cli.system import Endpoints
from events.settings import Settings

Severity = Literal["weak", "notice", "ok"]
Area = Literal["ports", "postgres", "nats", "secrets", "files", "tokens"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `todo` is empty when it is well; `details` are for who reads the JSON."""

    area: Area
    where: str
    what: str
    severity: Severity = "ok"
    todo: str = ""
    details: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Audited:
    """The settings, the URLs and the processes of the system that is looked at."""

    settings: Settings
    endpoints: Endpoints
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def in_development(self) -> bool:
        """Whether weak secrets and missing TLS are only worth a notice."""
        return self.settings.environment == "development"

    @property
    def unless_development(self) -> Severity:
        """How bad it is, what development may do."""
        return "notice" if self.in_development else "weak"

    @property
    def nats_users(self) -> list[str]:
        """Who connects to NATS besides the operator: our processes, and remote workers where their URL is known."""
        return [*NATS_PROCESSES, *({REMOTE_WORKER} & self.endpoints.process_nats_urls.keys())]

    def url_of(self, server: Literal["nats", "database"], process: str) -> str:
        """What a process connects to; the operator's own URL when it has been given no other."""
        if server == "nats":
            return self.endpoints.process_nats_urls.get(process, self.endpoints.nats_url)
        return self.endpoints.process_database_urls.get(process, self.endpoints.database_url)


def parts_of(url: str) -> SplitResult:
    """A URL's parts; of several with commas, those of the first."""
    return urlsplit(url.split(",")[0].strip())


def is_loopback(host: str | None) -> bool:
    """Whether only this machine reaches a host."""
    if host in (None, "", "localhost"):
        return host == "localhost"
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
