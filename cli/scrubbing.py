"""`dex keys scrub`: Postgres's files without what erased companies left in them, and what is still to be done."""

from typing import Any

import asyncpg
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from cli.render import console, facts_table, print_json
from events.connection import connect
from events.errors import ConfigurationError, UnavailableError
from events.key_store import KeyStore
from events.keyring import required_store
from events.settings import Settings
from projections.database import CONNECT_TIMEOUT_S
from projections.scrubbing import Scrubbed, erased_companies, scrub

_GONE = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)


async def scrub_and_show(settings: Settings, *, lock_timeout_s: float, wait_s: float, as_json: bool) -> bool:
    """Scrub, show what came of it, and return whether nothing is left. Raises ConfigurationError, UnavailableError."""
    if settings.database_pooling == "transaction":
        raise ConfigurationError(
            "This needs a session of its own: set DATA_ENGINE_DATABASE_URL to the database itself, not to a "
            "transaction pooler, and DATA_ENGINE_DATABASE_POOLING=session."
        )
    connection = await connect(settings.nats_servers, "dex")
    try:
        database = await _connect(settings.database_dsn)
        try:
            kept = await _keys_kept(required_store(connection, settings), database)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Bar(*columns, console=console, disable=as_json) as bar:
                task = bar.add_task("looking", total=None)

                def show(what: str, at: int, of: int) -> None:
                    bar.update(task, description=what, completed=at, total=of)

                try:
                    found = await scrub(database, connection, show, lock_timeout_s=lock_timeout_s, wait_s=wait_s)
                except _GONE as error:
                    raise UnavailableError("Postgres went away in the middle of it: run this again.") from error
        finally:
            await database.close()
    finally:
        await connection.close()
    found.left[:0] = kept
    if as_json:
        print_json(_as_json(found))
    else:
        _show(found)
    return not found.left


async def _connect(dsn: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise UnavailableError(f"Postgres does not answer at {dsn.rpartition('@')[2]}: {error!r}") from error


async def _keys_kept(store: KeyStore, database: asyncpg.Connection) -> list[str]:
    """Where keys may still be: of companies whose erasure is recorded, and on nodes that are not there."""
    absent = [
        f"The node {name} of KEYS is not there: what was erased meanwhile is still in its files when it is back. See "
        "docs/security.md, what an operator must know."
        for name in await store.absent_replicas()
    ]
    return absent + [
        f"The key of the company {owner.company_id} is not destroyed yet: start a command service, which does it."
        for owner in await erased_companies(database)
        if (await store.read(owner)).erased_at is None
    ]


def _as_json(found: Scrubbed) -> dict[str, Any]:
    tables = [
        {"table": t.table, "before_bytes": t.before_bytes, "after_bytes": t.after_bytes, "seconds": round(t.seconds, 3)}
        for t in found.tables
    ]
    return {
        "erased_companies": found.companies,
        "copies": found.copies,
        "tables": tables,
        "wal_segments_overwritten": found.wal_segments,
        "left": found.left,
        "elsewhere": found.elsewhere,
    }


def _show(found: Scrubbed) -> None:
    if not found.companies:
        console.print("No company was erased: there is nothing to scrub.")
        return
    rows = [(t.table, f"{t.before_bytes:,}", f"{t.after_bytes:,}", f"{t.seconds:.2f}") for t in found.tables]
    console.print(facts_table(f"Scrubbed of {found.companies:,} erased companies",
                              ("table", "bytes before", "after", "seconds"), rows))  # fmt: skip
    console.print(f"{found.wal_segments} WAL files overwritten.")
    if found.copies:
        console.print(f"Copies made by `dex replay --into`, scrubbed too: {', '.join(found.copies)}.")
    for sentence in found.elsewhere:
        console.print(f"[yellow]Elsewhere:[/] {sentence}", soft_wrap=True)
    for sentence in found.left:
        console.print(f"[red]Left:[/] {sentence}", soft_wrap=True)
    if not found.left:
        reached = "what can be reached from here" if found.elsewhere else "the files of this server"
        console.print(f"Nothing of them is left in {reached}.")
