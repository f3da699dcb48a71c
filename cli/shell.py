"""What all commands of `dex` share: the running system's settings, its API, and errors as sentences."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import asyncpg
import typer

from cli import credentials
from cli.api import Api
from cli.render import errors, shown
from cli.system import running_endpoints
from events.errors import ConfigurationError, DataEngineError
from events.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
T = TypeVar("T")

_NOT_MIGRATED = (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)


def running_settings() -> Settings:
    """The settings, with the addresses of the running system."""
    settings = Settings()
    return guarded(lambda: running_endpoints(settings)).applied_to(settings)


def own_credentials() -> credentials.Credentials:
    """What the command line acts with. Raises ConfigurationError when it has nothing yet."""
    own = credentials.load(Settings().home)
    if own is None:
        raise ConfigurationError("There is no token yet: run `dex demo`, `dex up` or `dex org create` first.")
    return own


def api() -> Api:
    """The running system's API, with the kept credentials."""
    return Api(running_endpoints(Settings()).gateway_url, own_credentials().token)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; an error of ours is a sentence and exit code 1, never a traceback."""
    return guarded(lambda: asyncio.run(work))


def guarded(work: Callable[[], T]) -> T:
    """Call `work`; an error of ours, or a database from before this version, is a sentence and exit code 1."""
    cause: Exception
    try:
        return work()
    except DataEngineError as error:
        reason, cause = error.message, error
    except _NOT_MIGRATED as error:
        reason, cause = f"The database has not what this version needs ({error}): run `dex migrate`.", error
    errors.print(f"[red]Error:[/] {shown(reason)}", soft_wrap=True)
    raise typer.Exit(1) from cause
