"""The stream EVENTS as its operator changes it: frozen while it is made anew, and the questions that this needs."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import strictjson, subjects
from events.archive import Archived
from events.errors import StateConflictError, UnavailableError
from events.log import EPOCH, TRIMMED_TO, EventLog

TIMEOUT_S = 30.0
NOT_FOUND = 10059
ENTRY = "restore."
"""Where a frozen stream takes messages: nobody but the operator may publish there. The server takes the prefix off."""


async def api(connection: Client, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One request to JetStream. Raises UnavailableError, and StateConflictError with what the server refused."""
    answer = await ask(connection, subject, body)
    if "error" in answer:
        raise StateConflictError(f"NATS refused {subject}: {answer['error'].get('description')}")
    return answer


async def ask(connection: Client, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same, with the server's refusal as an answer."""
    request = b"" if body is None else strictjson.dumps(body)
    try:
        answer = await connection.request(f"$JS.API.{subject}", request, timeout=TIMEOUT_S)
    except nats.errors.Error as error:
        raise UnavailableError("NATS does not answer.") from error
    found: dict[str, Any] = strictjson.loads(answer.data)
    return found


async def config_of(connection: Client, stream: str = subjects.EVENTS) -> dict[str, Any] | None:
    """A stream's configuration; None when there is no such stream."""
    answer = await ask(connection, f"STREAM.INFO.{stream}")
    if answer.get("error", {}).get("err_code") == NOT_FOUND:
        return None
    if "error" in answer:
        raise UnavailableError(f"The stream {stream} cannot be read: {answer['error'].get('description')}")
    config: dict[str, Any] = answer["config"]
    return config


def metadata_of(config: Mapping[str, Any]) -> dict[str, str]:
    """A stream's metadata, without the server's own."""
    return {name: value for name, value in (config.get("metadata") or {}).items() if not name.startswith("_nats")}


def frozen(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which no process can append: it waits, as if the log did not answer."""
    return {**config, "subjects": [f"{ENTRY}>"], "subject_transform": {"src": f"{ENTRY}>", "dest": ">"}}


def beginning_at(config: Mapping[str, Any], epoch: str, first_position: int) -> dict[str, Any]:
    """The configuration of a log of this epoch whose first message will have this position."""
    metadata = {EPOCH: epoch}
    if first_position > 1:
        metadata[TRIMMED_TO] = str(first_position - 1)
    return {**config, "metadata": metadata, "first_seq": first_position}


async def put_all(connection: Client, messages: Sequence[Archived]) -> None:
    """Store messages in the frozen stream, each at its own position. Raises StateConflictError when one cannot be."""
    inbox = connection.new_inbox()
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await connection.subscribe(inbox, cb=answers.put)
    try:
        for message in messages:
            await connection.publish(
                f"{ENTRY}{message.subject}",
                message.body,
                reply=inbox,
                headers={"Nats-Expected-Last-Sequence": str(message.position - 1)},
            )
        for _ in messages:
            async with asyncio.timeout(TIMEOUT_S):
                answer = strictjson.loads((await answers.get()).data)
            if "error" in answer:
                raise StateConflictError(f"A decision could not be put back: {answer['error'].get('description')}")
    except (TimeoutError, nats.errors.Error) as error:
        raise UnavailableError("The log does not answer.") from error
    finally:
        await subscription.unsubscribe()


async def accept_beginning(connection: Client) -> None:
    """Have the log begin where it does, though nobody announced that: what was before is taken for trimmed."""
    present = await config_of(connection)
    if present is None:
        raise StateConflictError("There is no log: the stream EVENTS is missing.")
    begins_at = (await EventLog(connection).state()).first_position
    metadata = metadata_of(present)
    if begins_at > int(metadata.get(TRIMMED_TO, 0)) + 1:
        metadata[TRIMMED_TO] = str(begins_at - 1)
        await api(connection, f"STREAM.UPDATE.{subjects.EVENTS}", {**present, "metadata": metadata})


async def dead_letter(connection: Client, origin: str, body: bytes, reason: str) -> int:
    """Keep a message in DEAD_LETTERS; its number there."""
    headers = {"Reason": reason, "Subject": origin}
    try:
        acknowledged = await connection.jetstream().publish(f"dead.{origin}", body, headers=headers, timeout=TIMEOUT_S)
    except nats.errors.Error as error:
        raise UnavailableError("NATS does not take a dead letter.") from error
    return acknowledged.seq
