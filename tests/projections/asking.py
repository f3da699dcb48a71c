"""A gateway on the servers of these tests, and an admin who asks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.app import create_app
from gateway.state import open_gateway
from tests.gateway.support import AT, add_person, insert
from tests.projections.support import ORG


@asynccontextmanager
async def asking(world: Any) -> AsyncIterator[Any]:
    """`ask(endpoint, …)` as an admin of the org: the status and the answer."""
    await insert(
        world.pool, "orgs_v2", org_id=ORG, name="Acme", members_may_work=True, sign_in_rules="[]", limits="{}",
        created_at=AT, position=1,
    )  # fmt: skip
    admin = await add_person(world.pool, ORG, "org_admin", None)
    settings = world.settings.model_copy(update={"access_log": False})
    async with open_gateway(settings) as gateway:
        transport = httpx.ASGITransport(create_app(settings, gateway), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=admin.headers) as client:

            async def ask(endpoint: str, **body: Any) -> tuple[int, Any]:
                response = await client.post(f"/v1/{endpoint}", json=body)
                return response.status_code, response.json()

            ask.client, ask.gateway, ask.admin = client, gateway, admin  # type: ignore[attr-defined]
            yield ask
