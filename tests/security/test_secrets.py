"""No secret anywhere that it can be read: not in the log, not in what the processes write down, not in an answer.

Runs after the attacks (by its name), and so looks for every token, invitation and JWT that any of them used.
"""

import asyncio
import base64
import hashlib
from pathlib import Path

import httpx
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from cli.system import Endpoints
from events import subjects
from events.connection import connect
from events.secrets import new_secret
from events.settings import Settings
from tests.security.support import LEDGER, mint, new_company, new_session, new_token, new_user, org_of
from tests.system.client import SYSTEM_JWT_SECRET

STREAMS = (subjects.EVENTS, subjects.COMMANDS, subjects.DEAD_LETTERS, subjects.TASKS)
PART = 24
"""Of a secret, so many characters from its middle are as bad as the whole; its first eight may be shown."""


async def everything_in(connection: Client, stream: str) -> list[bytes]:
    """Subject, headers and body of every message that a stream holds; one by one, as a work queue has no readers."""
    js = connection.jetstream()
    state = (await js.stream_info(stream)).state
    gate = asyncio.Semaphore(64)

    async def message(position: int) -> bytes | None:
        async with gate:
            try:
                found = await js.get_msg(stream, position)
            except NotFoundError:
                return None
        return b"%s %r %s" % ((found.subject or "").encode(), found.headers, found.data or b"")

    read = await asyncio.gather(*(message(position) for position in range(max(1, state.first_seq), state.last_seq + 1)))
    return [text for text in read if text is not None]


def forms_of(secret: str) -> set[bytes]:
    """A secret, a telling part of it, and its hash in the usual spellings."""
    digest = hashlib.sha256(secret.encode()).digest()
    middle = secret[-PART - 4 : -4]
    spelt = {digest.hex(), base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode().rstrip("=")}
    return {form.encode() for form in {secret, middle, *spelt}}


async def traffic(client: httpx.AsyncClient, endpoints: Endpoints) -> None:
    """Secrets of every kind, used well and badly, should this test run alone."""
    admin, org_id = await org_of(client, endpoints)
    company_id = await new_company(admin)
    session = await new_session(admin, org_id, "member", company_id)
    token = await new_token(admin, await new_user(admin, company_id))
    rotated = await admin.call("tokens/rotate", {"token_id": token.token_id})
    for credential in (rotated["token"], token.credential, session.credential, mint("nobody"), new_secret("dex_").text):
        for endpoint in ("orgs/get", "users/accept_invitation", "companies/create"):
            await admin.by(credential).ask(endpoint, {"invitation": credential})
            await admin.by(credential).ask(endpoint, {"token": credential, "name": 1})
    await admin.ask("tokens/get", {"token_id": token.credential})


async def test_no_secret_is_anywhere(
    client: httpx.AsyncClient, endpoints: Endpoints, system_settings: Settings
) -> None:
    await traffic(client, endpoints)
    places: dict[str, list[bytes]] = {"an answer that is an error": [error.encode() for error in LEDGER.errors]}
    connection = await connect([endpoints.nats_url], "search")
    for stream in STREAMS:
        places[stream] = await everything_in(connection, stream)
    await connection.close()
    logs = [path for path in Path(system_settings.home).rglob("*.log") if path.is_file()]
    assert {"gateway.log", "command-service.log", "projector.log", "worker.log"} <= {path.name for path in logs}
    places |= {path.name: [path.read_bytes()] for path in logs}
    secrets = {secret for secret in LEDGER.secrets if len(secret) >= 40} | {SYSTEM_JWT_SECRET}
    kinds = {kind: [s for s in secrets if s.startswith(kind)] for kind in ("dex_", "dexi_", "eyJ")}
    assert all(kinds.values()), "tokens, invitations and JWTs were used"
    assert len(places[subjects.EVENTS]) > 10
    assert len(LEDGER.errors) >= 5
    for place, texts in places.items():
        everything = b"\n".join(texts)
        found = [form for secret in secrets for form in forms_of(secret) if form in everything]
        assert not found, f"{len(found)} secrets in {place}: {found[:3]!r}"
    print({place: len(texts) for place, texts in places.items()}, "secrets", len(secrets))
