"""What only the platform's operator does, and never over HTTP: create orgs with a first admin, and set their limits."""

import asyncio
import contextlib

import asyncpg
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from cli.credentials import Credentials
from events import strictjson, subjects
from events.commands import Answer, Command, CreateOrg, SetOrgLimits
from events.connection import connect
from events.context import PLATFORM_ACTOR
from events.errors import DataEngineError, UnavailableError, rejection_from_json
from events.ids import new_id
from events.limits import Limits
from events.secrets import TOKEN_PREFIX, Secret, new_secret, verifier_of
from projections.queries.access import ADD_CREDENTIAL

_TIMEOUT_S = 15.0


async def create_org(servers: list[str], dsn: str, name: str, admin_email: str) -> Credentials:
    """Ask the command service for a new org; `dsn` is the database as its owner. Raises UnavailableError."""
    token = new_secret(TOKEN_PREFIX)
    org_id = new_id()
    await _keep_hash(dsn, org_id, token)
    command = CreateOrg(
        command_id=new_id(),
        org_id=org_id,
        aggregate_id=org_id,
        actor=PLATFORM_ACTOR,
        digest="",
        name=name,
        admin_user_id=new_id(),
        admin_email=admin_email,
        token_id=new_id(),
        token_hint=token.hint,
        token_secret_id=token.secret_id,
    )
    await _ask(servers, command)
    return Credentials(org_id, command.admin_user_id, token.text)


async def _keep_hash(dsn: str, org_id: str, token: Secret) -> None:
    """Before the org: without its decision the hash opens nothing."""
    try:
        database = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            await database.execute(ADD_CREDENTIAL, verifier_of(token.text), token.secret_id, org_id)
        finally:
            await database.close()
    except (OSError, asyncpg.PostgresError) as error:
        raise UnavailableError(f"The database does not take the token: {error!r}") from error


async def set_org_limits(servers: list[str], org_id: str, limits: Limits) -> None:
    """Give an org limits of its own. Raises NotFoundError and UnavailableError."""
    command = SetOrgLimits(
        command_id=new_id(), org_id=org_id, aggregate_id=org_id, actor=PLATFORM_ACTOR, digest="", limits=limits
    )
    await _ask(servers, command)


async def _ask(servers: list[str], command: Command) -> None:
    """Ask the command service as the platform's operator, and wait until the read models have what it decided."""
    connection = await connect(servers, "dex")
    projected = await _Projected.listen(connection)
    try:
        reply = await connection.request(
            subjects.ask(command.NAME), command.model_dump_json().encode(), timeout=_TIMEOUT_S
        )
        answer = Answer.model_validate_json(reply.data)
        if answer.rejected is not None:
            raise rejection_from_json(answer.rejected)
        if answer.accepted is None:
            raise DataEngineError(f"It was not done: {answer.unavailable}")
        await projected.reached(answer.accepted.position)
    except nats.errors.Error as error:
        raise UnavailableError("The command service does not answer; is the system up? (dex status)") from error
    finally:
        await connection.close()


class _Projected:
    """The projector's position, as it tells of it: a token is known to the gateway once it is projected."""

    def __init__(self) -> None:
        self._position = 0
        self._moved = asyncio.Event()

    @classmethod
    async def listen(cls, connection: Client) -> "_Projected":
        """Hear of every position from now on."""
        projected = cls()
        await connection.subscribe(subjects.PROJECTED, cb=projected._hear)
        await connection.flush()
        return projected

    async def reached(self, position: int) -> None:
        """Wait until the read models have a position; no longer than the projector may take to come back."""
        with contextlib.suppress(TimeoutError):  # it is in the log; without a projector it is known later
            async with asyncio.timeout(_TIMEOUT_S):
                while self._position < position:
                    self._moved.clear()
                    await self._moved.wait()

    async def _hear(self, message: Msg) -> None:
        self._position = strictjson.loads(message.data)["position"]
        self._moved.set()
