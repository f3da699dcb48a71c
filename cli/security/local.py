"""What can be seen on this machine: who listens where, how good the secrets are, who may read the files."""

import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import psutil

from cli.database_roles import GROUPS
from cli.security.report import Audited, Finding, is_loopback, parts_of
from cli.system import state_path

COMMON_PASSWORDS = frozenset(
    ("password", "passwort", "secret", "changeme", "change-me", "dex", "postgres", "nats", "admin", "data_engine",
     "test", "guest", "default", "supersecret", "super-secret-jwt-token-with-at-least-32-characters-long")
)  # fmt: skip
"""The last is the well-known default of a local Supabase."""
PASSWORD_MIN_CHARS = 12
JWT_SECRET_MIN_BYTES = 32
SERVERS = ("nats", "postgres")


def check_ports(audited: Audited) -> Iterator[Finding]:
    """Where the parts listen: from the processes themselves where they are ours, else from the URLs."""
    listening = dict(_listening(audited))
    for name, addresses in listening.items():
        for host, port in addresses:
            yield _port_finding(name, host, port)
    for name, url in {"nats": audited.endpoints.nats_url, "postgres": audited.endpoints.database_url}.items():
        if name not in listening:
            parts = parts_of(url)
            yield Finding("ports", f"{parts.hostname}:{parts.port or ''}", f"{name}, not started by us")


def _port_finding(name: str, host: str, port: int) -> Finding:
    where = f"{host}:{port}"
    if is_loopback(host):
        return Finding("ports", where, f"{name} listens on this machine only")
    if name in SERVERS:
        return Finding("ports", where, f"{name} is open to the network", "weak", "let it listen on 127.0.0.1")
    return Finding(
        "ports", where, f"{name} is open to the network", "notice", "a proxy with TLS in front, or 127.0.0.1"
    )


def _listening(audited: Audited) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """The addresses on which each process of ours listens."""
    for name, process in audited.state.get("processes", {}).items():
        try:
            found = psutil.Process(process["pid"]).net_connections(kind="tcp")
        except psutil.Error:
            continue  # gone, or another user's: its address is taken from the URL
        addresses = {(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN}
        if addresses:
            yield name, sorted(addresses)


def check_secrets(audited: Audited) -> Iterator[Finding]:
    """Passwords in the URLs, and what sessions are checked with."""
    urls = {"operator (nats)": audited.endpoints.nats_url, "operator (postgres)": audited.endpoints.database_url}
    urls |= {f"{name} (nats)": audited.url_of("nats", name) for name in audited.nats_users}
    urls |= {f"{name} (postgres)": audited.url_of("database", name) for name in GROUPS}
    for where, url in urls.items():
        parts = parts_of(url)
        fault = password_fault(unquote(parts.username or ""), unquote(parts.password or ""))
        if fault:
            yield Finding("secrets", where, f"the password {fault}", audited.unless_development, "a random one")
        else:
            yield Finding("secrets", where, f"the password of {parts.username} is long and no common one")
    yield from _check_sessions(audited)


def password_fault(user: str, password: str) -> str | None:
    """Why a password is weak, or None."""
    if not password:
        return "is missing"
    if password.lower() == user.lower():
        return "is the user's name"
    if password.lower() in COMMON_PASSWORDS:
        return "is a common one"
    return f"is shorter than {PASSWORD_MIN_CHARS} characters" if len(password) < PASSWORD_MIN_CHARS else None


def _check_sessions(audited: Audited) -> Iterator[Finding]:
    settings = audited.settings
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else ""
    if not secret and not settings.jwt_jwks_url:
        yield Finding("secrets", "sessions", "no key is configured: every session is refused, API tokens only")
        return
    faults = {
        f"DATA_ENGINE_JWT_SECRET is shorter than {JWT_SECRET_MIN_BYTES} bytes": bool(secret)
        and len(secret.encode()) < JWT_SECRET_MIN_BYTES,
        "DATA_ENGINE_JWT_SECRET is a common one": secret.lower() in COMMON_PASSWORDS,
        "the keys come over plain http (DATA_ENGINE_JWT_JWKS_URL)": (settings.jwt_jwks_url or "").startswith("http:"),
        "DATA_ENGINE_JWT_ISSUER is not set: tokens of any issuer with the key are taken": not settings.jwt_issuer,
        "DATA_ENGINE_JWT_AUDIENCE is not set: tokens for other services are taken": not settings.jwt_audience,
    }
    found = [what for what, is_so in faults.items() if is_so]
    for what in found:
        yield Finding("secrets", "sessions", what, audited.unless_development, "see .env.example")
    if not found:
        yield Finding("secrets", "sessions", "key, issuer and audience are set")


def check_files(audited: Audited) -> Iterator[Finding]:
    """Files with secrets are for their owner only."""
    home = audited.settings.home
    for path in (home / "embedded.json", home / "credentials.json", home / "nats" / "nats.conf", state_path(home)):
        if path.exists():
            yield _file_finding(path)


def _file_finding(path: Path) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding("files", str(path), f"others can open it (mode {mode:04o})", "weak", f"chmod 600 {path}")
    return Finding("files", str(path), "for its owner only")
