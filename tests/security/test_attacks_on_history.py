"""Attacks on the history of a running system: erasing while others work, and readers who do not read or vanish."""

import asyncio
import socket
import struct
from urllib.parse import urlsplit

import httpx
import orjson

from cli.system import Endpoints
from events.settings import Settings
from tests.security.support import Caller, blueprint, new_company, new_session, org_of, submit, unknown

ROUNDS = 2


async def test_erasing_what_is_anothers_twice_at_once_and_during_ingestion(
    client: httpx.AsyncClient, endpoints: Endpoints
) -> None:
    """Whatever comes in between: no server error, one erasure, and no run that stays open for ever."""
    (admin, org_id), (stranger, _) = await asyncio.gather(org_of(client, endpoints), org_of(client, endpoints))
    works = await blueprint(admin, "test_count", "test_count")
    for _ in range(ROUNDS):
        company_id = await new_company(admin)
        body = {"company_id": company_id, "confirmation": company_id}
        missing = {"company_id": unknown().company_id, "confirmation": company_id}
        foreign, none = await stranger.ask("companies/erase", body), await stranger.ask("companies/erase", missing)
        assert foreign.status_code == none.status_code == 404
        company_admin = await new_session(admin, org_id, "company_admin", company_id)
        assert (await company_admin.ask("companies/erase", body)).status_code == 403
        work = {"company_id": company_id, "blueprint_id": works, "records": [{"n": 1}]}
        submitting = [asyncio.create_task(admin.ask("submissions/create", work)) for _ in range(40)]
        erasing = [asyncio.create_task(erased(admin, body)) for _ in range(3)]
        answers = await asyncio.gather(*submitting)
        assert {answer.status_code for answer in answers} <= {201, 409, 410, 404}, {a.text for a in answers}
        erasures = await asyncio.gather(*erasing)
        assert len({one["position"] for one in erasures}) == 1
        late = await admin.ask("submissions/create", work)
        assert late.status_code in (404, 409, 410), late.text
        end = (await admin.call("events/list", {"order": "desc", "limit": 1}))["items"][0]["position"]
        page = await admin.call("runs/list", {"company_id": company_id, "min_position": end, "limit": 200})
        assert page["items"] == [], "what was accepted before is gone with the company, and nothing of it is open"
    await submit(admin, await new_company(admin), works, wait_s=30)  # and the workers are at work


async def erased(admin: Caller, body: dict[str, str]) -> dict[str, int]:
    """The answer of an erasure, asked for again as long as runs are open."""
    while True:
        answer = await admin.ask("companies/erase", body)
        if answer.status_code == 200:
            return answer.json()
        assert (answer.status_code, answer.json()["code"]) == (409, "runs_open"), answer.text


async def test_readers_who_vanish_leave_their_places(
    client: httpx.AsyncClient, endpoints: Endpoints, system_settings: Settings
) -> None:
    """An org's streams are all taken, by readers who then reset their connections: time and again, and nobody waits."""
    (admin, _), (stranger, _) = await asyncio.gather(org_of(client, endpoints), org_of(client, endpoints))
    most = system_settings.streams_per_org_max
    for abruptly in (True, False):
        for _ in range(ROUNDS):
            readers = await asyncio.gather(*(following(endpoints, admin) for _ in range(most)))
            assert (await admin.ask("events/stream")).status_code == 429
            assert (await admin.ask("audit/export")).status_code in (429, 404)
            assert (await stranger.ask("events/stream")).status_code == 200
            for _reader, writer in readers:
                if abruptly:
                    reset = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                    writer.transport.abort()
                else:
                    writer.close()
            async with asyncio.timeout(10):
                while (await admin.ask("events/stream")).status_code != 200:
                    continue


async def following(endpoints: Endpoints, caller: Caller) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A reader who follows the log, and has had a line of it."""
    place = urlsplit(endpoints.gateway_url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    body = orjson.dumps({"follow": True})
    head = (
        f"POST /v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {caller.credential}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    async with asyncio.timeout(20):
        await reader.readuntil(b'{"position":')
    return reader, writer
