"""A builder of trees in a process of its own that kills itself at a named point: DATABASE_URL SECRET FILE POINT."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from events.audit.checkpoint import AuditKey
from events.settings import Settings
from projections.archive.pushing import FileTarget, Pusher
from projections.archive.trees import TreeBuilder
from projections.database import create_pool

AFTER_PUSH, WITHIN_PUSH = "after_push", "within_push"
ORIGIN = "history.example"


async def main(database_url: str, secret: str, file: str, point: str) -> None:
    """Build and push until the point is reached."""

    def die(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    async with await create_pool(Settings(_env_file=None, database_url=database_url)) as pool:
        builder = TreeBuilder(pool, AuditKey.of(secret, ORIGIN), reached=die, batch_max=5)
        while await builder.step():
            continue
        while await Pusher(pool, FileTarget(Path(file)), 1.0).push():
            die(AFTER_PUSH)
            with Path(file).open("r+b") as pushed:  # as if it had been killed while the line was written
                pushed.truncate(Path(file).stat().st_size - 20)
            die(WITHIN_PUSH)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
