"""Pushing checkpoints outside: whoever has them there can show that a history was rewritten later."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import asyncpg

from events import strictjson
from events.errors import ConfigurationError, UnavailableError
from events.logging import get_logger
from events.outbound import Outbound
from events.settings import Settings
from projections.archive import tree_sql
from projections.waiting import TROUBLE

AT_ONCE = 500
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

_logger = get_logger("checkpoints")


class Target(Protocol):
    """Somewhere outside."""

    name: str

    async def send(self, notes: Sequence[str]) -> None:
        """Returns when they are kept there. Raises UnavailableError."""


class FileTarget:
    """A file that is only appended to: `{"checkpoint": note}` a line. A line that a crash left unfinished stays so."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, notes: Sequence[str]) -> None:
        """Append and flush. Raises UnavailableError."""
        text = b"".join(strictjson.dumps({"checkpoint": note}) + b"\n" for note in notes)
        try:
            await asyncio.to_thread(self._append, text)
        except OSError as error:
            raise UnavailableError(f"Checkpoints cannot be written to {self._path}: {error}") from error

    def _append(self, text: bytes) -> None:
        with self._path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


class UrlTarget:
    """A receiver of `{"checkpoints": [note, …]}`, which answers with 2xx when it has kept them."""

    name = "url"

    def __init__(self, url: str, *, allow_internal: bool) -> None:
        self._outbound = Outbound(url, allow_internal=allow_internal)

    async def send(self, notes: Sequence[str]) -> None:
        """Post them. Raises UnavailableError."""
        await self._outbound.post(strictjson.dumps({"checkpoints": list(notes)}))


def targets_of(settings: Settings) -> list[Target]:
    """The targets that are set. Raises ConfigurationError."""
    targets: list[Target] = []
    if settings.audit_push_file is not None:
        targets.append(FileTarget(settings.audit_push_file))
    if settings.audit_push_url is not None:
        url = settings.audit_push_url.get_secret_value()
        targets.append(UrlTarget(url, allow_internal=settings.audit_push_internal))
    if targets and settings.audit_key is None:
        raise ConfigurationError("Checkpoints are to be pushed, and there is no DATA_ENGINE_AUDIT_KEY to sign them.")
    return targets


class Pusher:
    """Sends one target, at an interval, the latest checkpoint of each org whose history grew. After a start, all of
    them: a receiver must not mind to be told one twice."""

    def __init__(self, pool: asyncpg.Pool, target: Target, interval_s: float) -> None:
        self._pool = pool
        self._target = target
        self._interval_s = interval_s
        self._after = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Push until `stop` is set; what fails is tried again, with longer and longer pauses."""
        failures = 0
        while not stop.is_set():
            try:
                await self.push()
                failures, pause_s = 0, self._interval_s
            except TROUBLE as error:
                pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                _logger.warning("checkpoints_not_pushed", target=self._target.name, reason=str(error), pause_s=pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await stop.wait()
            except TimeoutError:
                continue

    async def push(self) -> int:
        """Send the checkpoints that are new; how many there were. Raises UnavailableError, and what asyncpg raises."""
        sent, (pushable,) = 0, await self._pool.fetch(tree_sql.PUSHABLE)
        while self._after < pushable["last"]:  # not to the end of all: a history that grows meanwhile has its next turn
            rows = await self._pool.fetch(tree_sql.LATEST_NOTES, self._after, AT_ONCE)
            if not rows:
                break  # whoever has no key has built them meanwhile
            await self._target.send([row["note"] for row in rows])
            self._after = rows[-1]["position"]
            sent += len(rows)
        if pushable["unsigned"] is not None:  # it is signed later than what came after it, and must be sent too
            self._after = min(self._after, pushable["unsigned"] - 1)
        return sent
