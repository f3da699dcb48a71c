"""Signing the reports of verifications: each is made anew from the archive, so nothing is signed that was only told."""

import asyncio

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import strictjson, subjects
from events.archive import Archive, Database
from events.audit.checkpoint import AuditKey
from events.errors import DataEngineError, StateConflictError
from events.keyring import keyring_of
from events.logging import get_logger
from events.processing import RUN
from events.verification import report, statement, verifies_of

QUEUE = "signers"

_logger = get_logger("signing")


class ReportSigner:
    """Answers {"org_id", "verification_run_id"} with {"note"}, or with {"refused"} that says why not."""

    def __init__(self, connection: Client, database: Database, key: AuditKey) -> None:
        self._nc = connection
        self._archive = Archive(database, keyring_of(connection))
        self._key = key

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        subscription = await self._nc.subscribe(subjects.SIGN_REPORT, queue=QUEUE, cb=self._hear)
        try:
            await stop.wait()
        finally:
            if self._nc.is_connected:
                await subscription.unsubscribe()

    async def note(self, org_id: str, run_id: str) -> str:
        """The signed statement of a verification that has ended. Raises NotFoundError, StateConflictError."""
        history = await self._archive.history(org_id, RUN, run_id)
        verified = await self._archive.history(org_id, RUN, verifies_of(run_id, history).run_id)
        made = report(run_id, history, verified)
        if made["verdict"] == "running":
            raise StateConflictError(f"The verification {run_id} has not ended, as far as the archive goes.")
        return self._key.sign_text(org_id, statement(made))

    async def _hear(self, message: Msg) -> None:
        try:
            asked = strictjson.loads(message.data)
            answer = {"note": await self.note(str(asked["org_id"]), str(asked["verification_run_id"]))}
        except DataEngineError as error:
            answer = {"refused": error.message}
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("request_not_understood", error=repr(error))
            answer = {"refused": "The request is not understood."}
        try:
            await message.respond(strictjson.dumps(answer))
        except (nats.errors.Error, OSError) as error:
            _logger.warning("not_answered", error=repr(error))
