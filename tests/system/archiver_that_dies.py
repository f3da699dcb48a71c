"""An archiver in a process of its own that kills itself at a named point: NATS_URL DATABASE_URL POINT."""

import asyncio
import os
import signal
import sys

from events.connection import connect
from events.settings import Settings
from projections.archive.archiver import Archiver
from projections.database import create_pool


async def main(nats_url: str, database_url: str, point: str) -> None:
    """Archive until the point is reached."""

    def die(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    connection = await connect([nats_url], "dies")
    async with await create_pool(Settings(_env_file=None, database_url=database_url)) as pool:
        await Archiver(pool, connection, reached=die).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
