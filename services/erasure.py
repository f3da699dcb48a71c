"""Keys of companies: made before a company is, destroyed when it is erased, whatever crashes in between.

What the log says counts. Whoever records `company.erased` destroys the key at once; every command service follows these
decisions from the first one, and so destroys what somebody could not before it died. It begins with the first one again
after each reconnection: NATS may have been restored from a backup in which a destroyed key still was.
"""

import asyncio
from datetime import datetime

import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.archive import Archived
from events.errors import StateConflictError, UnavailableError
from events.follow import Followed, follow
from events.history import WholeLog
from events.keyring import Keyring
from events.keys import Owner
from events.logging import get_logger

REQUEST_TIMEOUT_S = 10.0
RETRY_S = 1.0

_logger = get_logger("erasure")


class _ReconnectedError(Exception):
    """The server was away, and may have come back with other files."""


class CompanyKeyKeeper:
    """Makes and destroys keys. Without master keys there are none to make, and none to destroy."""

    def __init__(self, connection: Client, keyring: Keyring) -> None:
        self._nc = connection
        self._keyring = keyring

    async def make(self, owner: Owner) -> None:
        """The key of a company that is about to be recorded; nothing when it has one. Raises UnavailableError."""
        if self._keyring.store is not None:
            await self._keyring.store.create(owner)
            self._keyring.look_again(owner)

    async def must_be_erasable(self, owner: Owner) -> None:
        """Raises StateConflictError `not_encrypted` for a company of which something was stored in plain text."""
        keys = await self._keyring.of(owner)
        if keys is None or not (keys.whole or keys.erased):
            raise StateConflictError(
                f"The company {owner.company_id} was not encrypted from its beginning, so that what it handed in "
                "cannot be erased. Set DATA_ENGINE_MASTER_KEYS before a company is created.",
                code="not_encrypted",
            )

    async def destroy(self, owner: Owner, at: datetime) -> None:
        """Destroy a company's key, and forget its results; done again, it does the rest. Raises UnavailableError."""
        self._keyring.forget(owner)
        if self._keyring.store is None:
            raise UnavailableError("No master key is set here, so that a company's key cannot be destroyed.")
        begun = (await self._keyring.store.read(owner)).erased_at is not None
        await self._keyring.store.erase(owner, at)
        await self._purge_memo(owner)
        await self._nc.publish(subjects.ERASED, strictjson.dumps({"org": owner.org_id, "company": owner.company_id}))
        if not begun:
            _logger.info("key_destroyed", org_id=owner.org_id, company_id=owner.company_id)

    async def catch_up(self, log: WholeLog) -> None:
        """Destroy what the log says is erased, from its beginning on; runs until it is cancelled.

        Also where a tombstone says that it was: who wrote it may have died before the key's bytes were overwritten.
        """
        while True:
            try:
                await self._follow_erasures(log, self._nc.stats["reconnects"])
            except _ReconnectedError:
                _logger.info("erasures_looked_at_again")
            except UnavailableError as error:
                _logger.warning("erasures_not_looked_at_yet", reason=error.message)
                await asyncio.sleep(RETRY_S)  # the pause between two attempts

    async def _follow_erasures(self, log: WholeLog, reconnections: int) -> None:
        async def must_be_connected_still(_after: int) -> None:
            if self._nc.stats["reconnects"] != reconnections:
                raise _ReconnectedError

        async for trimmed in log.trimmed_erasures():
            await self._destroy_in_the_end(trimmed)
        followed = follow(self._nc, subjects.EVENTS, [subjects.ERASURES], after=0, before_open=must_be_connected_still)
        async for batch in followed:
            for message in batch:
                await self._destroy_in_the_end(message)

    async def _destroy_in_the_end(self, erased: Followed | Archived) -> None:
        address = subjects.Address.parse(erased.subject)
        owner = Owner(address.org_id, address.aggregate_id)
        at = datetime.fromisoformat(strictjson.loads(erased.body)["at"])
        while True:
            try:
                await self.destroy(owner, at)
                return
            except UnavailableError as error:
                _logger.warning("key_not_destroyed_yet", company_id=owner.company_id, reason=error.message)
                await asyncio.sleep(RETRY_S)  # the pause between two attempts

    async def _purge_memo(self, owner: Owner) -> None:
        request = strictjson.dumps({"filter": subjects.memo(owner.org_id, owner.company_id, ">")})
        try:
            answer = await self._nc.request(f"$JS.API.STREAM.PURGE.{subjects.MEMO}", request, timeout=REQUEST_TIMEOUT_S)
        except nats.errors.Error as error:
            raise UnavailableError("The memo of results does not answer.") from error
        if error_ := strictjson.loads(answer.data).get("error"):
            raise UnavailableError(f"The memo of results was not purged: {error_.get('description')}")
