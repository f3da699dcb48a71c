"""`dex keys …`: the keys that companies' data is encrypted with. They are shown to nobody; master keys are settings."""

from collections import Counter
from typing import Annotated, Any

import typer

from cli.render import console, print_json
from cli.scrubbing import scrub_and_show
from cli.shell import AsJson, run, running_settings
from events.administration import COMPANY
from events.connection import connect
from events.errors import NotFoundError, UnavailableError, VersionConflictError
from events.key_store import KeyDocument, KeyStore
from events.keyring import Keyring, required_store
from events.keys import Owner
from events.log import EventLog
from events.settings import Settings

keys_app = typer.Typer(no_args_is_help=True, help="Keys of companies (the platform's operator only).")


@keys_app.command("status")
def status(as_json: AsJson = False) -> None:
    """How many companies have a key, by which master key it is wrapped, and how many are erased."""
    _show(run(_status(running_settings())), as_json=as_json)


@keys_app.command("rotate-master")
def rotate_master(as_json: AsJson = False) -> None:
    """Wrap all keys by the first of DATA_ENGINE_MASTER_KEYS; then the others can be taken out of the setting."""
    _show({"rewrapped": run(_rewrap(running_settings()))}, as_json=as_json)


@keys_app.command("rotate")
def rotate(
    org_id: Annotated[str, typer.Argument(help="The company's org.")],
    company_id: Annotated[str, typer.Argument(help="The company.")],
    as_json: AsJson = False,
) -> None:
    """Give a company a new key for what comes from now on; a first one, if it has none. Older ones still open."""
    _show({"generation": run(_rotate(running_settings(), Owner(org_id, company_id)))}, as_json=as_json)


@keys_app.command("scrub")
def scrub(
    lock_timeout_s: Annotated[
        float, typer.Option(min=0.01, help="How long to wait for a table's lock at a time; others queue meanwhile.")
    ] = 2.0,
    wait_s: Annotated[
        float, typer.Option(min=0, help="How long to try a table that is in use, or seen by others.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Remove what erased companies left in Postgres's own files: dead rows, statistics, WAL, copies of read models.

    Each read model is rewritten under a lock. Exit code 1 when something is left, which is named.
    """
    clean = run(scrub_and_show(running_settings(), lock_timeout_s=lock_timeout_s, wait_s=wait_s, as_json=as_json))
    raise typer.Exit(0 if clean else 1)


async def _status(settings: Settings) -> dict[str, Any]:
    connection = await connect(settings.nats_servers, "dex")
    try:
        store = required_store(connection, settings)
        documents = [document async for document in store.documents()]
        absent = await store.absent_replicas()
    finally:
        await connection.close()
    wrapped = Counter(key.partition(":")[0] for document in documents for key in document.generations)
    return {
        "companies": sum(document.erased_at is None for document in documents),
        "erased": sum(document.erased_at is not None for document in documents),
        "keys": sum(wrapped.values()),
        "keys_by_master_key": dict(wrapped),
        "not_encrypted_from_the_beginning": sum(not d.whole and d.erased_at is None for d in documents),
        "absent_replicas": absent,
    }


async def _rewrap(settings: Settings) -> int:
    """How many were wrapped. Raises UnavailableError, after all others are, when some cannot be unwrapped."""
    connection = await connect(settings.nats_servers, "dex")
    rewrapped, failures = 0, []
    try:
        store = required_store(connection, settings)
        async for document in store.documents():
            try:
                rewrapped += await _rewrap_one(store, document)
            except UnavailableError as error:
                failures.append(error.message)
    finally:
        await connection.close()
    if failures:
        raise UnavailableError(
            f"{rewrapped} companies' keys were wrapped by the first master key; {len(failures)} could not be, and are "
            f"as they were. The first: {failures[0]} Keep the old master keys in the setting, and run this again."
        )
    return rewrapped


async def _rewrap_one(store: KeyStore, document: KeyDocument) -> bool:
    while True:
        try:
            return await store.rewrap(document)
        except VersionConflictError:  # rotated or erased in this moment
            document = await store.read(document.owner)


async def _rotate(settings: Settings, owner: Owner) -> int:
    connection = await connect(settings.nats_servers, "dex")
    try:
        store = required_store(connection, settings)
        log = EventLog(connection, Keyring(store))
        if not await log.history(owner.org_id, COMPANY, owner.company_id):
            raise NotFoundError(f"The org {owner.org_id} has no company {owner.company_id}.")
        return await store.rotate(owner)
    finally:
        await connection.close()


def _show(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        console.print(f"{name.replace('_', ' ')}: {value}", highlight=False)
