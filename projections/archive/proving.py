"""What makes the histories provable, beside the archiver and in its process: trees, checkpoints, and their way out."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.audit.checkpoint import AuditKey
from events.errors import UnavailableError
from events.logging import get_logger
from events.settings import Settings
from events.tasks import ended
from projections.archive.pushing import Pusher, targets_of
from projections.archive.signing import ReportSigner
from projections.archive.trees import TreeBuilder
from projections.database import create_pool
from projections.waiting import pause

_logger = get_logger("proving")


class Proving:
    """Follows the archive. Raises ConfigurationError when a setting is no key or no address."""

    def __init__(self, settings: Settings, connection: Client) -> None:
        self._settings = settings
        self._nc = connection
        secret = settings.audit_key
        self._key = None if secret is None else AuditKey.of(secret.get_secret_value(), settings.audit_origin)
        self._targets = targets_of(settings)
        self._builder: TreeBuilder | None = None
        if self._key is None:
            _logger.warning("no_checkpoints", reason="DATA_ENGINE_AUDIT_KEY is not set")

    def wake(self) -> None:
        """The archive has more."""
        if self._builder is not None:
            self._builder.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises ArchiveAlteredError and ConfigurationError."""
        failures = 0
        while not stop.is_set():
            try:
                pool = await create_pool(self._settings)
            except UnavailableError as error:
                await pause(stop, failures, error)
                failures += 1
                continue
            async with pool:
                self._builder = TreeBuilder(pool, self._key, told=self._tell)
                interval_s = self._settings.audit_push_interval_s
                pushers = [Pusher(pool, target, interval_s) for target in self._targets]
                signers = [] if self._key is None else [ReportSigner(self._nc, pool, self._key)]
                parts = (*(pusher.run(stop) for pusher in pushers), *(signer.run(stop) for signer in signers))
                await together(stop, self._builder.run(stop), *parts)

    async def _tell(self, position: int) -> None:
        """Wake those who wait. A hint: one that is lost costs them time, and no truth."""
        try:
            await self._nc.publish(subjects.PROVED, strictjson.dumps({"position": position}))
        except nats.errors.Error as error:
            _logger.debug("hint_lost", reason=repr(error))


async def together(stop: asyncio.Event, *parts: Coroutine[Any, Any, None]) -> None:
    """Run parts of one process until `stop` is set; when one fails the others are stopped, and its error is raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if any(task.exception() is not None for task in done):
            stop.set()
        await asyncio.gather(*tasks)
    finally:
        await ended(tasks)
