"""Every process says that it lives when asked on `health.ask`: `dex status` shows them, containers are judged by it."""

import asyncio
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import strictjson

SUBJECT = "health.ask"
"""Asks every process; `health.ask.<process>` asks one kind."""


@dataclass(frozen=True, slots=True)
class Alive:
    """One process that answered."""

    process: str
    host: str
    pid: int
    started_at: str


async def answer_health(connection: Client, process: str) -> None:
    """Answer from now on, until the connection closes."""
    alive = Alive(process, socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))
    body = strictjson.dumps(asdict(alive))

    async def answer(message: Msg) -> None:
        await message.respond(body)

    await connection.subscribe(SUBJECT, cb=answer)
    await connection.subscribe(f"{SUBJECT}.{process}", cb=answer)


async def ask_health(
    connection: Client, within_s: float, *, process: str | None = None, enough: int | None = None
) -> list[Alive]:
    """Who answers within a time, by process (all, or one kind); returns early when `enough` have."""
    answers: list[Alive] = []
    complete = asyncio.Event()
    inbox = connection.new_inbox()

    async def receive(message: Msg) -> None:
        nobody_listens = "Status" in (message.headers or {})  # answers from other accounts have headers too
        if not nobody_listens:
            answers.append(Alive(**strictjson.loads(message.data)))
        if nobody_listens or len(answers) == enough:
            complete.set()

    subscription = await connection.subscribe(inbox, cb=receive)
    try:
        await connection.publish(f"{SUBJECT}.{process}" if process else SUBJECT, b"", reply=inbox)
        async with asyncio.timeout(within_s):
            await complete.wait()
    except (TimeoutError, nats.errors.Error):
        return sorted(answers, key=lambda alive: (alive.process, alive.pid))
    finally:
        await subscription.unsubscribe()
    return sorted(answers, key=lambda alive: (alive.process, alive.pid))
