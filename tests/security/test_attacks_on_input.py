"""Attacks through what a tenant sends: fields that are not its to set, ids and names that would mean something to NATS
or SQL, cursors, headers, and Idempotency-Keys. Never a server error, never another's data, and given back unchanged.
"""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cli.system import Endpoints
from gateway.permissions import ENDPOINTS
from tests.security.support import (
    Caller,
    World,
    new_company,
    new_id,
    new_session,
    new_token,
    new_user,
    org_of,
)  # fmt: skip
from tests.security.test_matrix import CASES, LISTS

RLM = "‮؜evil‏"
PAYLOADS: dict[str, str] = {
    "star": "*",
    "all": ">",
    "dot": ".",
    "token": "a.b.>",
    "space": " a b ",
    "crlf": "a\r\nNats-Rollup: all\r\n\r\nPUB events.x 1\r\nx\r\n",
    "nul": "a\0b",
    "quotes": "'\"`; DROP TABLE data_engine.users_v2; --",
    "or": "' OR '1'='1",
    "expansion": "${jndi:ldap://127.0.0.1/x}{{7*7}}%(x)s%s",
    "path": "../../../../etc/passwd",
    "markup": "<script>alert(1)</script>",
    "bidi": RLM,
    "astral": "😀\U0010ffff\ufffe",
    "separators": "a\u2028b\u2029c\u0085",
    "long": "x" * 10_000,
}
LONE = '"\\ud800"'
"""As JSON text: Python could not encode it."""


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a body has texts."""
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in items:
        if isinstance(value, str):
            yield (*path, name)
        yield from places(value, (*path, name))


def planted(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(body))
    at = copy
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return copy


OPTIONAL: dict[str, dict[str, Any]] = {
    "/v1/submissions/create": {"name": "n"},
    "/v1/blueprints/create": {"description": "d", "steps": [{"key": "map_fields", "config": {"k": "v"}}]},
    "/v1/users/create": {"name": "n"},
    "/v1/users/invite": {"name": "n"},
    "/v1/tokens/create": {"role": "member", "company_id": "c"},
    "/v1/runs/cancel": {"reason": "r"},
    "/v1/runs/list": {"status": "failed", "company_id": "c", "submission_id": "s", "blueprint_id": "b", "cursor": "c"},
    "/v1/companies/list": {"name_prefix": "p", "cursor": "c"},
    "/v1/results/get": {"kind": "input", "cursor": "c"},
    "/v1/users/list": {"role": "member", "cursor": "c"},
    "/v1/users/accept_invitation": {"invitation": "i"},
}


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_injection_through_every_text(path: str, world: World) -> None:
    """Each text of each body in turn, as every role's admin would send it: no server error, nobody else's data."""
    caller = world.callers["org_admin", "jwt"]
    cases = CASES[path] or ()
    bodies = [case.body(world.own, world.own) for case in cases] or [{}]
    bodies = [body | OPTIONAL.get(path, {}) for body in bodies]
    foreign = world.things["other org"]

    async def attack(body: dict[str, Any], at: tuple[Any, ...], name: str, value: str) -> None:
        answer = await caller.ask(path, planted(body, at, value))
        assert answer.status_code < 500, (path, at, name, answer.text)
        assert not [thing for thing in (*foreign.ids(), foreign.org_id) if thing in answer.text], (path, at, name)

    async def lone(body: dict[str, Any], at: tuple[Any, ...]) -> None:
        text = json.dumps(planted(body, at, "\0lone\0")).replace('"\\u0000lone\\u0000"', LONE)
        answer = await caller.http.post(
            path, content=text, headers={**headers_of(caller), "Content-Type": "application/json"}
        )
        assert answer.status_code in (401, 422), (path, at, answer.text)

    for body in bodies:
        spots = [*places(body)]
        await asyncio.gather(
            *(attack(body, at, name, value) for at in spots for name, value in PAYLOADS.items()),
            *(lone(body, at) for at in spots),
        )


def headers_of(caller: Caller) -> dict[str, str]:
    org = {"X-Data-Engine-Org": caller.org_id} if caller.org_id else {}
    return {"Authorization": f"Bearer {caller.credential}", **org}


@pytest.fixture
async def admin(client: httpx.AsyncClient, endpoints: Endpoints) -> Caller:
    admin, org_id = await org_of(client, endpoints)
    return Caller(admin.http, admin.credential, org_id, admin.user_id)


PRINTABLE = [text for name, text in PAYLOADS.items() if name not in ("crlf", "nul", "separators", "long")]


async def test_what_is_stored_comes_back_as_it_was(admin: Caller) -> None:
    """Names, reasons, rules, configs and records, however they look."""
    company_id = await new_company(admin)
    for text in PRINTABLE:
        company = await admin.call("companies/create", {"name": text})
        user = await admin.call("users/create", {"email": "a@b.example", "name": text, "role": "org_admin"})
        token = await admin.call("tokens/create", {"user_id": user["user_id"], "name": text})
        steps = [{"key": "map_fields", "config": {"set": {text: text}}}, {"key": "test_count"}]
        body = {"name": text, "description": text, "steps": steps[1:]}
        blueprint = await admin.call("blueprints/create", body)
        work = {"company_id": company_id, "blueprint_id": blueprint["blueprint_id"], "name": text, "wait_s": 30}
        made = await admin.call("submissions/create", {**work, "records": [{text: text}]})
        at = {"min_position": made["position"]}
        got = [
            (await admin.call("companies/get", {"company_id": company["company_id"], **at}))["name"],
            (await admin.call("users/get", {"user_id": user["user_id"], **at}))["name"],
            (await admin.call("tokens/get", {"token_id": token["token_id"], **at}))["name"],
            (await admin.call("blueprints/get", {"blueprint_id": blueprint["blueprint_id"], **at}))["description"],
            (await admin.call("submissions/get", {"submission_id": made["submission_id"], **at}))["name"],
            (await admin.call("results/get", {"run_id": made["run_id"], "kind": "input"}))["records"][0][text],
        ]
        assert got == [text] * len(got)


FOREIGN_FIELDS = ("org_id", "role", "company_id", "actor", "created_by", "user_id", "token_id", "identity", "limits",
                  "aggregate_id", "command_id", "secret_id", "position", "auth_method", "__proto__", "org")  # fmt: skip


@pytest.mark.parametrize("path", [path for path in ENDPOINTS if CASES[path]])
async def test_mass_assignment(path: str, world: World) -> None:
    """A field that the endpoint does not know is refused, at the top and inside, whatever its value."""
    caller = world.callers["org_admin", "token"]
    foreign = world.things["other org"]
    values: dict[str, Any] = {"org_id": foreign.org_id, "role": "org_admin", "company_id": foreign.company_id,
                              "actor": {"method": "platform"}, "created_by": foreign.user_id}  # fmt: skip
    body = CASES[path][0].body(world.own, world.own)
    known = set((await schema_of(caller, path))["properties"])
    spots: list[dict[str, Any]] = [
        body | {name: values.get(name, new_id())} for name in FOREIGN_FIELDS if name not in known
    ]
    for name in FOREIGN_FIELDS:
        for field, value in body.items():
            if isinstance(value, list) and value and isinstance(value[0], dict) and field != "records":
                inner = value[0] | {name: values.get(name, new_id())}
                spots.append(body | {field: [inner]} if name not in value[0] else body | {"org_id": "x"})
    answers = await asyncio.gather(*(caller.ask(path, spot) for spot in spots))
    assert {answer.status_code for answer in answers} == {422}, path


async def schema_of(caller: Caller, path: str) -> dict[str, Any]:
    document = (await caller.http.get("/openapi.json")).json()
    operation = document["paths"][path]["post"]
    content = operation["requestBody"]["content"]
    if "application/json" not in content:  # a file, and what is told of it in the query string
        return {"properties": {parameter["name"]: parameter for parameter in operation["parameters"]}}
    reference = content["application/json"]["schema"]["$ref"]
    return dict(document["components"]["schemas"][reference.rpartition("/")[2]])


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


BAD_CURSORS = ["", "!", "p1", cursor("p"), cursor("p-1"), cursor("p1.5"), cursor("p 1"), cursor("p01"), cursor("x1"),
               cursor("p" + "9" * 30), cursor("p1 OR 1=1"), cursor("p١"), cursor("p1") + "=", "=" * 8, "x" * 65,
               "a" * 64, "\0", "*", ">"]  # fmt: skip


@pytest.mark.parametrize("path", [*LISTS, "/v1/steps/list", "/v1/results/get"])
async def test_cursor_tampering(path: str, world: World) -> None:
    """A cursor is a place to go on from and no more: forged ones are refused, or show what the caller may see."""
    caller, foreign = world.callers["company_admin", "jwt"], world.callers["org_admin", "jwt"]
    body = {"run_id": world.own.run_id} if path == "/v1/results/get" else {"limit": 1}
    for bad in BAD_CURSORS:
        assert (await caller.ask(path, body | {"cursor": bad})).status_code == 422, bad
    others = [cursor(f"p{number}") for number in (0, 1, 10**6, 2**63 - 1, 10**18)]
    for someone in (foreign, world.foreign_admin):
        for listed in ("/v1/users/list", "/v1/blueprints/list", "/v1/tokens/list"):
            others += [(await someone.call(listed, {"limit": 1}))["next_cursor"]]
    hidden = [*world.things["other company"].ids(), *world.things["other org"].ids()]
    for place in others:
        answer = await caller.ask(path, body | {"cursor": place, "limit": 200})
        assert answer.status_code == 200, (place, answer.text)
        assert not [thing for thing in hidden if thing in answer.text]


async def test_idempotency_keys_are_each_callers_companys_own(
    client: httpx.AsyncClient, endpoints: Endpoints, world: World
) -> None:
    """The same key and body in two orgs, and in two companies of one: two things, and neither sees the other's."""
    tenants = [await org_of(client, endpoints) for _ in range(2)]
    made = [await tenant.call("companies/create", {"name": "Same"}, key="same") for tenant, _ in tenants]
    again = [await tenant.call("companies/create", {"name": "Same"}, key="same") for tenant, _ in tenants]
    assert len({answer["company_id"] for answer in made}) == 2
    assert [answer["repeated"] for answer in made + again] == [False, False, True, True]
    admin, org_id = tenants[0]
    companies = [made[0]["company_id"], await new_company(admin)]
    admins = [await new_session(admin, org_id, "company_admin", company) for company in companies]
    body = {"email": "same@example.com", "role": "member"}
    users = [await caller.call("users/create", body, key="same") for caller in (admins[0], admins[1])]
    assert len({user["user_id"] for user in users}) == 2
    assert not any(user["repeated"] for user in users)
    assert (await admins[1].ask("users/create", body | {"name": "x"}, key="same")).status_code == 409


async def test_a_key_on_another_endpoint_or_by_another_user(admin: Caller) -> None:
    """Another endpoint: another thing. Another user of the same company: the first answer, which is its company's."""
    company_id = await new_company(admin)
    body = {"name": "Same", "steps": [{"key": "test_count"}]}
    blueprint = await admin.call("blueprints/create", body, key="same")
    company = await admin.call("companies/create", {"name": "Same"}, key="same")
    assert not company["repeated"]
    assert company["company_id"] != blueprint["blueprint_id"]
    users = [await new_token(admin, await new_user(admin, company_id)) for _ in range(2)]
    work = {"blueprint_id": blueprint["blueprint_id"], "records": [{"n": 1}]}
    first, second = [await user.call("submissions/create", work, key="same") for user in users]
    assert (first["submission_id"], second["repeated"]) == (second["submission_id"], True)
    assert (await users[1].ask("submissions/create", work | {"name": "x"}, key="same")).status_code == 409


async def test_a_key_of_a_change_counts_for_the_thing_that_is_named(admin: Caller) -> None:
    """Each is its own command, and each repeat is that one's (README)."""
    users = [await new_user(admin, await new_company(admin)) for _ in range(2)]
    first = await admin.ask("users/deactivate", {"user_id": users[0]}, key="same")
    second = await admin.ask("users/deactivate", {"user_id": users[1]}, key="same")
    again = await admin.ask("users/deactivate", {"user_id": users[0]}, key="same")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json()["position"] == again.json()["position"] != second.json()["position"]


async def raw(endpoints: Endpoints, head: bytes, body: bytes = b"") -> bytes:
    """What the gateway says to bytes that no HTTP client would send."""
    place = urlsplit(endpoints.gateway_url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(head + body)
        await writer.drain()
        return await asyncio.wait_for(reader.read(65_536), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


HEADERS = [b"a\0b", b"a\x01b", b"a b", b"\xff\xfe", b"x" * 300, "‮".encode(), b"*", b">", b"", b"'; --"]


@pytest.mark.parametrize("name", [b"Idempotency-Key", b"X-Request-Id", b"X-Data-Engine-Org", b"Content-Type",
                                  b"Authorization", b"Content-Length"])  # fmt: skip
async def test_injection_through_headers(name: bytes, admin: Caller, endpoints: Endpoints) -> None:
    body = b'{"name":"Globex"}'
    for value in HEADERS:
        fields = {b"Host": b"x", b"Authorization": f"Bearer {admin.credential}".encode(), b"Connection": b"close",
                  b"Content-Type": b"application/json", b"Content-Length": b"%d" % len(body), name: value}  # fmt: skip
        lines = b"".join(b"%s: %s\r\n" % pair for pair in fields.items())
        answer = await raw(endpoints, b"POST /v1/companies/create HTTP/1.1\r\n" + lines + b"\r\n", body)
        status = int(answer.split(b" ", 2)[1]) if answer else 400
        assert status < 500, (name, value, answer[:500])
        head = answer.partition(b"\r\n\r\n")[0]
        assert status in (200, 201) or len(value) < 2 or value not in head, (name, value)


LINES = [
    b"POST /v1/\xff\xfe HTTP/1.1", b"POST /v1/orgs/get%00 HTTP/1.1", b"POST /v1/orgs/../orgs/get HTTP/1.1",
    b"POST //v1//orgs/get HTTP/1.1", b"POST /v1/orgs/get?org_id=x HTTP/1.1", b"POST http://x:y/ HTTP/1.1",
    b"POST /%ff%fe HTTP/1.1", b"POST /" + b"%2e" * 9000 + b" HTTP/1.1", b"POST /v1/orgs/get HTTP/9.9", b"\0\0\0\0",
    b"GET /v1/orgs/get HTTP/1.1", b"TRACE / HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"PRI * HTTP/2.0", b"POST HTTP/1.1",
    b"POST * HTTP/1.1",
]  # fmt: skip
SMUGGLED = [
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 2\r\nContent-Length: 99\r\n",
    b"Content-Length: +2\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding : chunked\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: \xb2\r\n",
]  # fmt: skip


async def test_requests_that_no_client_would_send(admin: Caller, endpoints: Endpoints) -> None:
    """Odd targets, versions and lengths, and two lengths at once (request smuggling): 4xx, or none at all."""
    common = b"Host: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + admin.credential.encode()
    requests = [line + b"\r\n" + common + b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}" for line in LINES]
    for lengths in SMUGGLED:
        head = b"POST /v1/orgs/get HTTP/1.1\r\n" + common + b"\r\nConnection: close\r\n" + lengths
        requests.append(head + b"\r\n0\r\n\r\nPOST /v1/companies/list HTTP/1.1\r\nHost: x\r\n\r\n")
    for request in requests:
        answer = await raw(endpoints, request)
        status = int(answer.split(b" ", 2)[1]) if answer else 400
        assert status in (501, 505) or status < 500, (request[:120], answer[:300])
        assert len(re.findall(rb"HTTP/1\.1 \d\d\d ", answer)) <= 1, (request[:120], answer[:300])
    assert (await admin.ask("orgs/get")).status_code == 200


async def test_a_huge_header_is_not_held(endpoints: Endpoints) -> None:
    """A stranger's header of 64 MB: refused long before its end."""
    place = urlsplit(endpoints.gateway_url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(b"POST /v1/orgs/get HTTP/1.1\r\nHost: x\r\nX-Huge: ")
    taken = 0
    try:
        for _ in range(64):
            writer.write(b"x" * 1_000_000)
            async with asyncio.timeout(10):
                await writer.drain()
            taken += 1
        writer.write(b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(65_536), 10)
    except (ConnectionError, TimeoutError):
        answer = b""
    finally:
        writer.close()
    assert taken < 32, f"{taken} MB of one header were taken"
    assert answer[:20].split(b" ")[1:2] in ([], [b"431"])


async def test_heads_of_just_the_right_and_the_wrong_size(admin: Caller, endpoints: Endpoints) -> None:
    """The bound is on the head of each request, not on what a connection carries in all."""
    for size, expected in ((1000, 200), (60_000, 200), (400_000, 431)):
        line = b"Authorization: Bearer " + admin.credential.encode() + b"\r\nX-Pad: " + b"x" * size + b"\r\n"
        head = b"POST /v1/orgs/get HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        answer = await raw(endpoints, head + line + b"Connection: close\r\n\r\n", b"{}")
        assert int(answer.split(b" ", 2)[1]) == expected, size
    for _ in range(30):  # one kept connection, more than the bound in all
        assert (await admin.ask("orgs/get", headers={"X-Pad": "x" * 8000})).status_code == 200
