"""What the processes are on Postgres: logins that own nothing, and the check that they are no more than that.

The migrations make the group roles with their grants; here are the logins that are members of them. Nothing needs a
superuser: on a managed Postgres the operator has CREATEROLE and made the groups (PostgreSQL 16 and later give their
maker the right to grant them).
"""

import hashlib
import hmac
import os
import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg
from pydantic import SecretStr

from cli.render import console, print_json
from events.errors import ConfigurationError, UnavailableError
from events.logging import get_logger
from events.settings import Settings

SCRAM_ITERATIONS = 4096
"""PostgreSQL's own number; the passwords are random, so that more would only cost time at each connection."""
CONNECT_TIMEOUT_S = 10.0
SECRET_BYTES = 24

GROUPS = {
    "gateway": "data_engine_gateway",
    "projector": "data_engine_projector",
    "archiver": "data_engine_archiver",
    "command-service": "data_engine_services",
    "worker": "data_engine_services",
}
"""The group role of each process; command service and worker only read the archive, and only of a trimmed log."""
MAY_DO_WITHOUT = ("command-service", "worker")
"""These are given a login of their own or none, never the operator's."""
LOGINS = {process: f"data_engine_{process.replace('-', '_')}_login" for process in GROUPS}
"""Names of the logins where no URL names others."""

_LOCK_KEY = 0x64_65_79  # after the migrations' own: one at a time

_FACTS = """
SELECT current_user AS name, rolsuper AS superuser, rolbypassrls AS bypass_rls, rolcreaterole AS create_role,
       EXISTS (SELECT FROM pg_roles AS other WHERE (other.rolsuper OR other.rolbypassrls)
               AND pg_has_role(current_user, other.oid, 'MEMBER')) AS may_become_superuser,
       ARRAY(SELECT class.relname::text FROM pg_class AS class
             JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
             WHERE namespace.nspname = 'data_engine' AND class.relkind IN ('r', 'p', 'v', 'm')
             AND pg_has_role(current_user, class.relowner, 'MEMBER') ORDER BY 1) AS owned_tables
FROM pg_roles WHERE rolname = current_user
"""

_logger = get_logger("database")


@dataclass(frozen=True, slots=True)
class Login:
    """A login that a process connects as."""

    name: str
    password: str

    def url(self, operator_url: str) -> str:
        """The operator's URL with this login in it."""
        parts = urlsplit(operator_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{quote(self.name, safe='')}:{quote(self.password, safe='')}@{host}"))

    @classmethod
    def of_url(cls, url: str) -> "Login":
        """The login that a URL names. Raises ConfigurationError when it has no user or no password."""
        parts = urlsplit(url)
        if not parts.username or not parts.password:
            raise ConfigurationError("A process's database URL needs a user and a password.")
        return cls(unquote(parts.username), unquote(parts.password))


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """What a role may do that matters: all of it is too much for a process."""

    name: str
    superuser: bool
    bypass_rls: bool
    create_role: bool
    may_become_superuser: bool
    owned_tables: tuple[str, ...]

    def excess(self) -> list[str]:
        """Why row-level security would not hold for this role; empty when it does."""
        reasons = []
        if self.superuser:
            reasons.append("is a superuser")
        if self.bypass_rls:
            reasons.append("has BYPASSRLS")
        if self.may_become_superuser and not (self.superuser or self.bypass_rls):
            reasons.append("is a member of a role that is a superuser or has BYPASSRLS")
        if self.owned_tables and not self.superuser:
            reasons.append(f"owns {len(self.owned_tables)} tables of data_engine")
        return reasons


async def role_facts(connection: asyncpg.Connection) -> RoleFacts:
    """What the role of a connection is."""
    row = await connection.fetchrow(_FACTS)
    assert row is not None, "a connection has a role"
    return RoleFacts(**{**row, "owned_tables": tuple(row["owned_tables"])})


async def refuse_privileged_role(settings: Settings, process: str) -> None:
    """Raises ConfigurationError when row-level security would not bind this process; in development it only warns."""
    connection = await _connect(settings.database_dsn)
    try:
        facts = await role_facts(connection)
    finally:
        await connection.close()
    if not (excess := facts.excess()):
        return
    message = (
        f"The {process} connects to Postgres as {facts.name}, which {' and '.join(excess)}: row-level security would "
        "not bind it. Make a login for it (dex database roles) and set its URL; or DATA_ENGINE_ENVIRONMENT=development."
    )
    if settings.environment != "development":
        raise ConfigurationError(message)
    _logger.warning("privileged_database_role", reason=message)


async def ensure_logins(operator_url: str, logins: Mapping[str, Login]) -> None:
    """Make each process's login, or give it its password again; safe at every start, and beside another one.

    Raises ConfigurationError when the operator may not, when the migrations have not made the groups, or when a login
    of that name is more than a process may be.
    """
    connection = await _connect(operator_url)
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
            for process, login in logins.items():
                await _ensure(connection, login, GROUPS[process])
    except asyncpg.UndefinedObjectError as error:
        raise ConfigurationError(f"{error}. Run first: dex migrate") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(f"DATA_ENGINE_DATABASE_URL may not make logins (CREATEROLE): {error}.") from error
    finally:
        await connection.close()


async def _ensure(connection: asyncpg.Connection, login: Login, group: str) -> None:
    known = await connection.fetchrow("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = $1", login.name)
    if known is not None and (known["rolsuper"] or known["rolbypassrls"]):
        raise ConfigurationError(f"{login.name} is a superuser or has BYPASSRLS; give the process a login of its own.")
    # the verifier and not the password: what is executed may be logged
    await _execute(
        connection,
        ("CREATE" if known is None else "ALTER") + " ROLE %I LOGIN PASSWORD %L",
        login.name,
        scram_verifier(login.password),
    )
    await _execute(connection, "GRANT %I TO %I", group, login.name)


async def _execute(connection: asyncpg.Connection, template: str, *names: str) -> None:
    """Run a statement that takes no parameters, with the server's own quoting."""
    arguments = ", ".join(f"${number + 1}::text" for number in range(len(names) + 1))
    await connection.execute(await connection.fetchval(f"SELECT format({arguments})", template, *names))


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """What PostgreSQL keeps of a password (RFC 5802, RFC 7677). ASCII only, which SASLprep leaves as it is."""
    if not password.isascii():
        raise ConfigurationError("The password of a database login must be ASCII.")
    salt = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    keys = ":".join(b64encode(key).decode() for key in (stored, server))
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{b64encode(salt).decode()}${keys}"


def wanted_logins(settings: Settings) -> dict[str, Login]:
    """The logins that the process URLs name; those without a URL get a name and a password here."""
    return {
        process: Login.of_url(url) if url else Login(LOGINS[process], new_password())
        for process, url in _given_urls(settings).items()
    }


def _given_urls(settings: Settings) -> dict[str, str | None]:
    """The database URL of each process in the settings, None where there is none."""
    urls: dict[str, SecretStr | None] = {
        process: getattr(settings, f"{process.replace('-', '_')}_database_url") for process in GROUPS
    }
    return {process: url.get_secret_value() if url else None for process, url in urls.items()}


async def ensure_given_logins(settings: Settings) -> None:
    """Make the logins whose URLs are set, and no others."""
    logins = {process: Login.of_url(url) for process, url in _given_urls(settings).items() if url}
    await ensure_logins(settings.database_dsn, logins)


async def make_roles(settings: Settings, *, as_json: bool) -> None:
    """Make the logins on a database, and show the URLs that were not given: this is the only time."""
    logins = wanted_logins(settings)
    await ensure_logins(settings.database_dsn, logins)
    given = _given_urls(settings)
    fresh = {
        f"DATA_ENGINE_{process.replace('-', '_').upper()}_DATABASE_URL": login.url(settings.database_dsn)
        for process, login in logins.items()
        if given[process] is None
    }
    if as_json:
        print_json({"logins": {process: login.name for process, login in logins.items()}, "urls": fresh})
        return
    for process, login in logins.items():
        console.print(f"{process:<16} {login.name}, a member of {GROUPS[process]}", highlight=False)
    for name, url in fresh.items():
        console.print(f"{name}={url}", soft_wrap=True, highlight=False)
    if fresh:
        console.print("These passwords are shown this once; each process gets its own as DATA_ENGINE_DATABASE_URL.")


def new_password() -> str:
    """A password of 192 random bits."""
    return secrets.token_urlsafe(SECRET_BYTES)


async def _connect(url: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise UnavailableError(f"Postgres does not answer at {url.rpartition('@')[2]}: {error!r}") from error
