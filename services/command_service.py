"""The command service: FastStream handlers for commands that are asked now, and for those that were deferred.

`ask.<command>` is answered over the reply subject and is not stored: what counts is the decision in the log. What
nobody answered is in COMMANDS and is done when a service is there again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig

from events import subjects
from events.commands import COMMANDS, Answer, Command
from events.deferral import open_command
from events.errors import PoisonedMessageError, RejectedError, UnavailableError, rejection_to_json
from events.keyring import use_keys, wrapper_of
from events.logging import get_logger
from events.settings import Settings
from events.tasks import ended
from services import observe
from services.archive import ArchiveReader
from services.broker import raw_message
from services.command_handlers import CommandHandlers
from services.erasure import CompanyKeyKeeper
from services.open_runs import OpenRuns
from services.repository import Repository
from services.settle import Broken, Done, Outcome, after_failure, deliveries_of, settle

QUEUE = "commands"
ASKED_AT_ONCE = 64
DEFERRED_BATCH = 16
DEFERRED_ACK_WAIT_S = 30

_logger = get_logger("commands")


class CommandService:
    """The command service's handlers on a broker; `start` and `stop` run it."""

    def __init__(self, broker: NatsBroker, settings: Settings) -> None:
        self.broker = broker
        self._wrapper = wrapper_of(settings)
        self._archive = ArchiveReader(settings)
        self._handlers: CommandHandlers | None = None
        self._following: list[asyncio.Task[None]] = []
        self._connection: Client | None = None
        for kind in COMMANDS.values():
            subscriber = broker.subscriber(
                subjects.ask(kind.NAME),
                queue=QUEUE,
                description=kind.__doc__,
                decoder=raw_message,
                max_workers=ASKED_AT_ONCE,
            )
            subscriber(self._ask(kind))
        self._deferred_subscriber()

    async def start(self) -> Client:
        """Connect, and begin to answer; the connection."""
        self._connection = await self.broker.connect()
        self._keyring = use_keys(self._connection, self._wrapper)
        log, open_runs = self._archive.log(self._connection), OpenRuns()
        repository = Repository(log)
        keeper = CompanyKeyKeeper(self._connection, self._keyring)
        self._handlers = CommandHandlers(repository, open_runs, keeper)
        self._following = [
            asyncio.create_task(repository.keep_fresh(self._connection)),
            asyncio.create_task(keeper.catch_up(log)),
        ]
        await open_runs.listen(self._connection)
        await self.broker.start()
        return self._connection

    async def stop(self) -> None:
        """Answer what is in hand, and leave."""
        await ended(self._following)
        await self.broker.stop()
        await self._archive.close()

    async def answer(self, command: Command, headers: Mapping[str, str] | None = None) -> Answer:
        """Do a command, of the trace that its message's headers name; every refusal is an answer."""
        assert self._handlers is not None, "the service has not started"
        try:
            with observe.command(command, headers) as seen:
                return Answer(accepted=seen.accepted(await self._handlers.handle(command)))
        except RejectedError as error:
            return Answer(rejected=rejection_to_json(error))

    def _ask(self, kind: type[Command]) -> Callable[..., Awaitable[Any]]:
        async def ask(command: Any) -> bytes:
            try:
                answer = await self.answer(kind.model_validate_json(command.data), command.headers)
            except UnavailableError as error:
                answer = Answer(unavailable=error.message, code=error.code)
            return answer.model_dump_json().encode()

        ask.__name__ = kind.NAME
        ask.__annotations__ = {"command": kind, "return": bytes}
        return ask

    def _deferred_subscriber(self) -> None:
        subscriber = self.broker.subscriber(
            "commands.>",
            durable="command-service",
            stream=JStream(subjects.COMMANDS, declare=False),
            pull_sub=PullSub(batch_size=DEFERRED_BATCH, timeout=5),
            config=ConsumerConfig(ack_wait=DEFERRED_ACK_WAIT_S, max_ack_pending=1000),
            ack_policy=AckPolicy.MANUAL,
            max_workers=DEFERRED_BATCH,
            decoder=raw_message,
            description="Commands that no service answered when they were sent.",
        )

        @subscriber
        async def deferred_command(message: Any) -> None:
            assert self._connection is not None
            outcome = await self._deferred(message)
            await settle(self._connection, message, outcome)

    async def _deferred(self, message: Msg) -> Outcome:
        kind = COMMANDS.get(message.subject.rsplit(".", 1)[-1])
        if kind is None:
            return Broken("no such command")
        try:
            body = await open_command(self._keyring, message.subject, message.data)
            if body is None:
                return Done()  # of a company that was erased meanwhile
            command = kind.model_validate_json(body)
        except UnavailableError as error:
            return after_failure(deliveries_of(message), error)
        except (PoisonedMessageError, ValueError) as error:
            return Broken(f"not a {kind.NAME} command: {error}"[:2000])
        try:
            answer = await self.answer(command, message.headers)
        except Exception as error:  # noqa: BLE001 - settled by policy: again later, and in the end a dead letter
            return after_failure(deliveries_of(message), error)
        _logger.info("deferred_command_done", command=kind.NAME, command_id=command.command_id, **_told(answer))
        return Done()


def _told(answer: Answer) -> dict[str, Any]:
    """What the log says of an answer: no message, since those quote what was sent."""
    if answer.accepted is not None:
        return {"position": answer.accepted.position, "repeated": answer.accepted.repeated}
    return {"rejected": (answer.rejected or {}).get("code")}
