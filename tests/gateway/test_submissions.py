import asyncio

import httpx
import pytest
from tests.gateway.support import Service, World

from events.errors import NotFoundError
from events.ids import derive_id, new_id
from gateway.routers.runs import Run
from gateway.routers.submissions import SubmissionCreated

RECORDS = [{"name": "Globex", "n": 1.5, "odd": "nul \x00 in a text", "deep": {"a": [None, True, 2**63]}}]


async def submit(client: httpx.AsyncClient, world: World, **fields: object) -> httpx.Response:
    body = {"company_id": world.company_id, "blueprint_id": new_id(), "records": RECORDS, **fields}
    headers = world.admin.headers | {"Idempotency-Key": fields.pop("key", None) or new_id()}  # type: ignore[dict-item]
    body.pop("key", None)
    return await client.post("/v1/submissions/create", json=body, headers=headers)


async def test_waits_for_the_run_and_embeds_its_results(
    client: httpx.AsyncClient, world: World, service: Service
) -> None:
    answer = await submit(client, world, wait_s=10, include_results=True)
    assert answer.status_code == 201, answer.text
    created = SubmissionCreated.model_validate_json(answer.content)
    assert created.run is not None
    assert created.run.status == "succeeded"
    assert [step.status for step in created.run.steps] == ["succeeded", "succeeded"]
    assert answer.json()["run"]["results"] == {"rows": 1, "records": [{**RECORDS[0], "done": True}]}
    assert not service._tasks
