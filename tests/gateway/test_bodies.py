"""What cannot be stored is refused with a clear 4xx; what can, comes back unchanged."""

from typing import Any

import httpx
import orjson
import pytest

from events.ids import new_id
from tests.gateway.support import Service, World

JSON = {"Content-Type": "application/json"}


def with_records(records: str) -> str:
    return f'{{"company_id": "COMPANY", "blueprint_id": "{new_id()}", "records": {records}}}'


BAD: dict[str, str] = {
    "empty": "",
    "not json": "{",
    "trailing": "{} {}",
    "a list": "[]",
    "a number": "1",
    "NaN": with_records('[{"a": NaN}]'),
    "Infinity": with_records('[{"a": -Infinity}]'),
    "1e400": with_records('[{"a": 1e400}]'),
    "huge integer": with_records('[{"a": 18446744073709551616}]'),
    "small integer": with_records('[{"a": -9223372036854775809}]'),
    "duplicate keys": with_records('[{"a": 1, "a": 2}]'),
    "duplicate field": '{"name": "a", "name": "b"}',
    "lone surrogate": with_records('[{"a": "\\ud800"}]'),
    "lone surrogate in a key": with_records('[{"\\udc00": 1}]'),
    "too deep": with_records("[{" + '"a": ' + "[" * 250 + "]" * 250 + "}]"),
    "far too deep": "[" * 100_000,
    "no records": with_records("[]"),
    "records of numbers": with_records("[1]"),
    "records null": with_records("null"),
    "an object for records": with_records("{}"),
    "unknown field": '{"company_id": "COMPANY", "records": [{}], "recrods": []}',
    "wrong type": '{"company_id": "COMPANY", "blueprint_id": 1, "records": [{}]}',
    "bool as text": with_records('[{}], "start_run": "yes"'),
    "text as number": with_records('[{}], "wait_s": "1"'),
    "negative wait": with_records('[{}], "wait_s": -1'),
    "endless wait": with_records('[{}], "wait_s": 1e9'),
    "an id that is none": '{"company_id": "*", "blueprint_id": "a.b.>", "records": [{}]}',
    "an id in capitals": f'{{"company_id": "COMPANY", "blueprint_id": "{new_id().upper()}", "records": [{{}}]}}',
    "NUL in a name": with_records('[{}], "name": "a\\u0000b"'),
    "newline in a name": with_records('[{}], "name": "a\\nb"'),
    "blank name": with_records('[{}], "name": "  "'),
    "long name": with_records(f'[{{}}], "name": "{"x" * 201}"'),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
async def test_bad_input_is_refused_and_the_next_submission_goes_through(
    body: str, client: httpx.AsyncClient, world: World, service: Service
) -> None:
    headers = world.admin.headers | JSON
    content = body.replace("COMPANY", world.company_id).encode()
    answer = await client.post("/v1/submissions/create", content=content, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] in ("invalid_input", "invalid_json")
    assert problem["detail"]
    assert not service.commands
    good = with_records('[{"a": 1}]').replace("COMPANY", world.company_id)
    assert (await client.post("/v1/submissions/create", content=good, headers=headers)).status_code == 201


async def test_faults_have_paths(client: httpx.AsyncClient, world: World) -> None:
    body = {"company_id": "x", "records": [{}, 7], "extra": 1, "a/b~c": 2}
    answer = await client.post("/v1/submissions/create", json=body, headers=world.admin.headers)
    paths = {fault["path"] for fault in answer.json()["errors"]}
    assert paths == {"/company_id", "/blueprint_id", "/records/1", "/extra", "/a~1b~0c"}


GIVEN_BACK: list[Any] = [
    {"nul": "a\x00b", "\x00": "\x00"},
    {"integers": [2**63 - 1, -(2**63), 2**64 - 1, 0, -0.0]},
    {"floats": [1e308, 5e-324, 0.1, 1.0, 1e22]},
    {"text": "𝄞 \u2028 \ufeff \uffff é e\u0301 \x7f", "": ""},
    {"many": {f"key{number}": number for number in range(10_000)}},
    {"deep": orjson.loads("[" * 150 + "]" * 150)},
    {"b": 1, "a": 2, "null": None, "true": True, "empty": [{}, [], ""]},
    {"constructor": "__proto__", "inline": {"digest": 1}, "verifier": "x"},
]


async def test_records_come_back_unchanged(client: httpx.AsyncClient, world: World, service: Service) -> None:
    body = {"company_id": world.company_id, "blueprint_id": new_id(), "records": GIVEN_BACK, "wait_s": 10}
    content = orjson.dumps(body)
    answer = await client.post("/v1/submissions/create", content=content, headers=world.admin.headers | JSON)
    assert answer.status_code == 201, answer.text
    for step_index, kind in ((0, "input"), (0, "output")):
        asked = {"run_id": answer.json()["run_id"], "step_index": step_index, "kind": kind}
        page = await client.post("/v1/results/get", json=asked, headers=world.admin.headers)
        assert orjson.dumps(orjson.loads(page.content)["records"]) == orjson.dumps(GIVEN_BACK)


async def test_a_body_that_is_too_large(client: httpx.AsyncClient, world: World) -> None:
    headers = world.admin.headers | JSON
    content = b" " * (256 * 1024 + 1)
    declared = await client.post("/v1/submissions/create", content=content, headers=headers)

    async def chunks() -> Any:
        for _ in range(300):
            yield b" " * 1024

    chunked = await client.post("/v1/submissions/create", content=chunks(), headers=headers)
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert answer.json()["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON;charset=UTF-8", 200),
        ("application/vnd.api+json", 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
async def test_content_types(content_type: str, status: int, client: httpx.AsyncClient, world: World) -> None:
    headers = world.admin.headers | {"Content-Type": content_type}
    answer = await client.post("/v1/orgs/get", content=b"{}", headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("path", ["/steps/0/config/a/1/b", "/steps/0/config/\x00"])
async def test_blueprints_hold_no_nul(path: str, client: httpx.AsyncClient, world: World, service: Service) -> None:
    config: dict[str, Any] = {"a": [0, {"b": "x\x00"}]} if path.endswith("b") else {"\x00": 1}
    body = {"name": "b", "steps": [{"key": "first", "config": config}]}
    answer = await client.post("/v1/blueprints/create", json=body, headers=world.admin.headers)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"path": path, "message": "The text holds a NUL character."}]
    assert not service.commands


async def test_a_deep_config_goes_through(client: httpx.AsyncClient, world: World, service: Service) -> None:
    config = {"deep": orjson.loads("[" * 150 + "]" * 150), "big": 2**64 - 1, "float": 1.0}
    body = {"name": "b", "steps": [{"key": "first", "config": config}]}
    answer = await client.post("/v1/blueprints/create", json=body, headers=world.admin.headers)
    assert answer.status_code == 201, answer.text
    assert service.commands[-1].steps[0].config == config  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "fields",
    [{"steps": []}, {"steps": [{"key": "Bad Key"}]}, {"steps": [{"key": "a", "retry": {"attempts": "3"}}]},
     {"steps": [{"key": "a", "retry": {"attempts": 21}}]}, {"steps": [{"key": "a", "retires": {}}]},
     {"steps": [{"key": "a"}] * 51}, {"steps": [{"key": "a", "config": []}]},
     {"steps": [{"key": "a", "retry": {"timeout_s": 0}}]}, {"name": ""}],
    ids=str,
)  # fmt: skip
async def test_blueprints_that_are_refused(
    fields: dict[str, Any], client: httpx.AsyncClient, world: World, service: Service
) -> None:
    body = {"name": "b", "steps": [{"key": "a"}]} | fields
    answer = await client.post("/v1/blueprints/create", json=body, headers=world.admin.headers)
    assert answer.status_code == 422
    assert not service.commands


@pytest.mark.parametrize("email", ["a", "a@b", "a b@c.de", "a@b@c.de", "a\x00@b.de", "a@b.c\n", "x" * 260 + "@b.de"])
async def test_emails_that_are_none(email: str, client: httpx.AsyncClient, world: World) -> None:
    body = {"email": email, "role": "org_admin"}
    answer = await client.post("/v1/users/create", json=body, headers=world.admin.headers)
    assert answer.status_code == 422
