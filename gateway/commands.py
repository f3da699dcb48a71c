"""Commands on their way to a service: built once, asked, and deferred when nobody answers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nats.errors
import orjson
from nats.aio.client import Client
from pydantic import BaseModel

from events import metrics, strictjson, subjects, tracing
from events.commands import Accepted, Answer, Command
from events.context import Actor, AuthContext
from events.deferral import seal_command
from events.errors import LogRewoundError, UnavailableError, rejection_from_json
from events.ids import derive_id
from events.keyring import keyring_of

DEFER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Deferred:
    """The command is on disk and will be done when a service is there again."""

    command_id: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every command carries, made from the call: its id derives from the org, the endpoint and the key."""

    key: str
    command_id: str
    org_id: str
    actor: Actor
    digest: str
    request_id: str

    @classmethod
    def of(cls, auth: AuthContext, endpoint: str, key: str, digest: str, request_id: str) -> "Envelope":
        """The envelope of a call with this Idempotency-Key. Callers of two companies never meet in one."""
        company = () if auth.company_id is None else (auth.company_id,)
        command_id = derive_id(auth.org_id, *company, endpoint, key)
        return cls(key, command_id, auth.org_id, Actor.of(auth), digest, request_id)

    def new_id(self, kind: str) -> str:
        """The id of what the command creates: the same for the same command, for ever."""
        return derive_id(self.command_id, kind)

    def fields(self) -> dict[str, Any]:
        """The fields of `Command` but for the aggregate."""
        return {
            "command_id": self.command_id,
            "org_id": self.org_id,
            "actor": self.actor,
            "digest": self.digest,
            "request_id": self.request_id,
        }


def digest_of(body: BaseModel | Mapping[str, Any]) -> str:
    """SHA-256 of a body's canonical JSON: what must be the same when an Idempotency-Key is used again."""
    content = body.model_dump() if isinstance(body, BaseModel) else body
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


class CommandSender:
    """Asks the command service over NATS."""

    def __init__(self, connection: Client, timeout_s: float) -> None:
        self._nc = connection
        self._timeout_s = timeout_s
        self._keyring = keyring_of(connection)

    async def send(self, command: Command) -> Accepted | Deferred:
        """Ask, and give the answer; when no service answers, keep the command on disk for one that will.

        Raises the RejectedError that the service answered with, and UnavailableError when the command could not even
        be deferred (it may have been done all the same: repeat it with the same key to know), or when the log is not
        the one that the service wrote (code log_rewound).
        """
        accepted, body = await self._answer(command)
        if accepted is not None:
            return accepted
        await self._defer(command, body)
        return Deferred(command.command_id)

    async def check(self, command: Command) -> None:
        """Raise the RejectedError that the service answers with; when none answers, there is nothing to say yet."""
        await self._answer(command)

    async def send_now(self, command: Command) -> Accepted:
        """As `send`, for a command that is of no use later. Raises UnavailableError when no service answers."""
        accepted, _ = await self._answer(command)
        if accepted is None:
            raise UnavailableError("No command service answers; repeat the call with the same Idempotency-Key.")
        return accepted

    async def _answer(self, command: Command) -> tuple[Accepted | None, bytes]:
        """The acceptance, or None when no service could decide; and the command as it was sent."""
        if not self._nc.is_connected:
            raise UnavailableError("NATS does not answer.")
        body = command.model_dump_json().encode()
        answer = await self._ask(command, body)
        if answer is not None and answer.accepted is not None:
            return answer.accepted, body
        if answer is not None and answer.rejected is not None:
            raise rejection_from_json(answer.rejected)
        if answer is not None and answer.unavailable is not None and answer.code == LogRewoundError.code:
            raise UnavailableError(answer.unavailable, code=answer.code)
        return None, body

    async def _ask(self, command: Command, body: bytes) -> Answer | None:
        """The answer, or None when nobody gave one in time."""
        try:
            reply = await self._nc.request(
                subjects.ask(command.NAME), body, timeout=self._timeout_s, headers=tracing.carried() or None
            )
            return Answer.model_validate_json(reply.data)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            return None
        except nats.errors.Error as error:
            raise UnavailableError("The command could not be sent.") from error

    async def _defer(self, command: Command, body: bytes) -> None:
        subject = subjects.deferred(command.org_id, command.NAME)
        stored = await seal_command(self._keyring, subject, command, body)
        # of an encrypted command not the whole digest, by which a guess of its body could be checked for certain
        digest = command.digest if stored is body else command.digest[:8]
        headers = {"Nats-Msg-Id": f"{command.command_id}.{digest}", **tracing.carried()}
        try:
            reply = await self._nc.request(subject, stored, timeout=DEFER_TIMEOUT_S, headers=headers)
        except nats.errors.Error as error:
            raise UnavailableError("No command service answers, and the command could not be deferred.") from error
        failure = strictjson.loads(reply.data).get("error")
        if failure:
            raise UnavailableError(f"The command could not be deferred: {failure.get('description')}")
        metrics.COMMANDS_DEFERRED.labels(command.NAME).inc()
