"""An HTTP client for the tests: calls endpoints by name, and knows an org of its own."""

import base64
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx

from cli.bootstrap import create_org

SYSTEM_JWT_SECRET = "the-secret-of-the-sessions-of-the-system-under-test"
SYSTEM_MASTER_KEYS = ",".join(f"{name}:{base64.b64encode(name.encode() * 8).decode()}" for name in ("main", "next"))
"""Of all that seals on this run's servers: a process without the key of a decision waits for it."""


@dataclass
class Org:
    """An org with a company, and calls in its name."""

    base_url: str
    org_id: str
    token: str
    company_id: str = ""
    position: int = 0
    http: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.AsyncClient(
            base_url=f"{self.base_url}/v1/", headers={"Authorization": f"Bearer {self.token}"}, timeout=120
        )

    async def post(self, endpoint: str, body: dict[str, Any] | None = None, key: str | None = None) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return await self.http.post(endpoint, json=body or {}, headers=headers)

    async def call(self, endpoint: str, body: dict[str, Any] | None = None, key: str | None = None) -> dict[str, Any]:
        response = await self.post(endpoint, body, key)
        assert response.status_code < 300, (endpoint, response.status_code, response.text)
        return response.json()

    async def blueprint(self, *steps: str | dict[str, Any]) -> str:
        listed = [{"key": step} if isinstance(step, str) else step for step in steps]
        made = await self.call("blueprints/create", {"name": f"b {uuid.uuid4()}", "steps": listed})
        return made["blueprint_id"]

    async def submit(self, blueprint_id: str, records: list | None = None, key: str | None = None, **more) -> dict:
        body = {"company_id": self.company_id, "blueprint_id": blueprint_id, "records": records or [{"n": 0}], **more}
        return await self.call("submissions/create", body, key)

    async def ended(self, made: dict[str, Any], wait_s: float = 60) -> dict[str, Any]:
        run = await self.call(
            "runs/get", {"run_id": made["run_id"], "wait_s": wait_s, "min_position": made["position"]}
        )
        assert run["status"] != "running", run
        return run

    async def steps(self, made: dict[str, Any], min_position: int | None = None) -> list[dict[str, Any]]:
        body = {"run_id": made["run_id"], "min_position": min_position or made["position"]}
        return (await self.call("step_results/list", body))["items"]


async def new_org(base_url: str, nats_url: str, database_url: str) -> Org:
    made = await create_org([nats_url], database_url, f"org {uuid.uuid4()}", "admin@example.com")
    org = Org(base_url, made.org_id, made.token)
    company = await org.call("companies/create", {"name": "Acme"})
    org.company_id, org.position = company["company_id"], company["position"]
    return org
