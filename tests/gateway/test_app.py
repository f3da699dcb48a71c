"""The application as a whole: OpenAPI, problems of routing, health, and the process."""

import asyncio
import gc
import socket
from typing import Any

import httpx
import jsonschema
import pytest

from events.errors import DataEngineError
from events.settings import Settings
from gateway import problems
from gateway.app import create_app
from gateway.permissions import ENDPOINTS
from gateway.server import serve
from tests.gateway.support import World, session

UPLOAD = "/v1/submissions/upload"
OF_JSON = [path for path in ENDPOINTS if path != UPLOAD]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()


def test_every_endpoint_is_a_post_and_has_a_rule(document: dict[str, Any]) -> None:
    assert {path for path in document["paths"] if path != "/health"} == set(ENDPOINTS)
    assert all(set(document["paths"][path]) == {"post"} for path in ENDPOINTS)


def test_an_upload_is_told_of_in_the_query_string(document: dict[str, Any]) -> None:
    operation = document["paths"][UPLOAD]["post"]
    assert list(operation["requestBody"]["content"]) == ["application/octet-stream"]
    told = {parameter["name"]: parameter for parameter in operation["parameters"] if parameter["in"] == "query"}
    assert set(told) == {"company_id", "blueprint_id", "name", "start_run", "reuse_results", "read"}
    assert [name for name, parameter in told.items() if parameter["required"]] == ["blueprint_id"]


@pytest.mark.parametrize("path", OF_JSON)
def test_every_operation_has_examples_that_fit(path: str, document: dict[str, Any]) -> None:
    operation = document["paths"][path]["post"]
    assert operation["description"]
    assert operation["security"] == [{"bearer": []}]
    components = {"components": document["components"]}
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    request = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    for example in request["examples"]:
        jsonschema.validate(example, body | components)
    for status, response in operation["responses"].items():
        for content in response["content"].values():
            jsonschema.validate(content["example"], content["schema"] | components)
        assert status in ("default", "429") or status.startswith("2")


async def test_request_examples_are_accepted_as_they_stand(client: httpx.AsyncClient, world: World) -> None:
    """None is refused as malformed: what an example names does not exist, so 404 and the like are right."""
    document = (await client.get("/openapi.json")).json()
    for path in OF_JSON:
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        example = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["examples"][0]
        example.pop("min_position", None)
        headers = session(world.admin) if ENDPOINTS[path].session else world.admin.headers
        answer = await client.post(path, json=example, headers=headers)
        assert answer.status_code in (200, 201, 202, 404, 503), (path, answer.text)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nothing/get", 404),
        ("GET", "/v1/runs/get", 405),
        ("POST", "/v1/runs/get/", 404),
        ("POST", "/", 404),
    ],
)
async def test_problems_of_routing(method: str, path: str, status: int, client: httpx.AsyncClient) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == f"http_{status}"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    if status == 405:
        assert answer.headers["Allow"] == "POST"


async def test_an_unexpected_error_tells_nothing(
    client: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr("gateway.routers.orgs.administration.org", broken)
    answer = await client.post("/v1/orgs/get", json={}, headers=world.admin.headers)
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_the_table_knows_every_error() -> None:
    def subclasses(kind: type[DataEngineError]) -> list[type[DataEngineError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in subclasses(child))]

    for kind in subclasses(DataEngineError):
        assert 400 <= problems.kind_of(kind("x")).status < 600
    assert problems.from_error(DataEngineError("secret"), "r").status_code == 500
    assert b"secret" not in problems.from_error(DataEngineError("secret"), "r").body


@pytest.mark.parametrize("given", ["ok-1.2:3_4", "", "has space", "x" * 65, "ä"])
async def test_request_ids(given: str, client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/orgs/get", headers={"X-Request-Id": given.encode("latin-1")})  # type: ignore[dict-item]
    kept = answer.headers["X-Request-Id"] == given
    assert kept == (given == "ok-1.2:3_4")
    assert answer.headers["X-Request-Id"]


async def test_health(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health")
    assert answer.status_code == 200
    assert {**answer.json(), "projected_position": 0} == {
        "status": "ok", "nats": "ok", "database": "ok", "projected_position": 0,
    }  # fmt: skip


async def test_the_process_serves_counts_and_stops(settings: Settings, client: httpx.AsyncClient, world: World) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(settings.model_copy(update={"port": port}), stop))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as real:
        await _until_up(real)

        async def chunks() -> Any:
            for _ in range(64):
                yield b" " * 65536

        headers = world.admin.headers | {"Content-Type": "application/json"}
        too_large = await real.post("/v1/submissions/create", content=chunks(), headers=headers)
        assert too_large.status_code == 413
        assert (await real.post("/v1/orgs/get", json={}, headers=world.admin.headers)).status_code == 200
    stop.set()
    async with asyncio.timeout(10):
        await serving
    gc.collect()


async def _until_up(real: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                if (await real.get("/health")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.02)
