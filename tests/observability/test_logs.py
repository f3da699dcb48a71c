"""Logs that can be followed by request, and that hold no credential, whatever goes wrong."""

import hashlib
import json
import subprocess
import sys
import time
import uuid

import httpx
import jwt
import pytest

from events.connection import connect
from events.keyring import use_keys
from events.keys import MasterKeys
from tests.conftest import SYSTEM_MASTER_KEYS
from tests.observability.conftest import JWT_SECRET

HASH = hashlib.sha256(b"a verifier").hexdigest()


async def test_every_process_names_the_request_in_its_log(observed, org):
    blueprint = await org.blueprint("test_count")
    request_id = f"followed-{uuid.uuid4()}"
    body = {"company_id": org.company_id, "blueprint_id": blueprint, "records": [{"n": 0}], "wait_s": 30}
    response = await org.http.post("submissions/create", json=body, headers={"X-Request-Id": request_id})
    made = response.json()
    (access,) = await observed.entries("gateway", request_id=request_id, event="request")
    own = {"endpoint": "/v1/submissions/create", "method": "POST", "status": 201, "org_id": org.org_id}
    assert own.items() <= access.items()
    assert access["token_id"]
    assert access["duration_ms"] > 0
    (command,) = await observed.entries("command-service", request_id=request_id, event="command")
    assert (command["org_id"], command["command"], command["outcome"]) == (org.org_id, "create_submission", "accepted")
    (task,) = await observed.entries("worker", request_id=request_id, event="task")
    assert (task["org_id"], task["run_id"], task["step"]) == (org.org_id, made["run_id"], "test_count")
    assert task["correlation_id"] == made["submission_id"]
    assert access["trace_id"] == command["trace_id"]


async def test_requests_for_nothing_leave_no_text_of_theirs(observed, org):
    request_id = f"odd-{uuid.uuid4()}"
    path, query = "/v1/secret-path/open-sesame", "?api_key=open-sesame"
    async with httpx.AsyncClient() as http:
        await http.request("PROPFIND", f"{observed.base_url}{path}{query}", headers={"X-Request-Id": request_id})
    (access,) = await observed.entries("gateway", request_id=request_id)
    assert (access["endpoint"], access["method"], access["status"]) == ("unmatched", "OTHER", 404)
    assert "sesame" not in observed.log("gateway")


def sessions(identity: str) -> list[str]:
    """Good and bad ones: expired, too early, of another audience, wrongly signed, unsigned, cut."""
    now = int(time.time())
    claims = {"sub": identity, "aud": "authenticated", "exp": now + 600}
    changes = [
        {},
        {"exp": now - 600},
        {"nbf": now + 600},
        {"aud": "other"},
        {"sub": f"nobody-{identity}"},
        {"exp": "x"},
    ]
    made = [jwt.encode({**claims, **change}, JWT_SECRET, "HS256") for change in changes]
    made += [jwt.encode(claims, "another-secret-" * 4, "HS256"), jwt.encode(claims, None, "none")]
    return [*made, made[0][:-9], made[0].rpartition(".")[0]]


async def misuse(observed, org, credential: str) -> None:
    """Send a credential where it belongs, and where it does not."""
    bearer = {"Authorization": f"Bearer {credential}"}
    async with httpx.AsyncClient(base_url=observed.base_url) as http:
        await http.post("/v1/orgs/get", json={}, headers=bearer)
        await http.post("/v1/orgs/get", content=b"{", headers=bearer)
        await http.post("/v1/orgs/get", json={}, headers={"Authorization": f"Basic {credential}"})
        await http.post(f"/v1/orgs/{credential}?token={credential}", json={}, headers=bearer)
        await http.get(f"/{credential}", headers={**bearer, "X-Request-Id": credential})
    await org.post("companies/create", {"name": "Acme", credential: credential})
    await org.post("runs/get", {"run_id": credential})
    await org.post("submissions/create", {"company_id": credential, "blueprint_id": credential, "records": [{}]})


async def send_faulty_messages(observed, org) -> None:
    """Commands, and a decision, that hold a token's hash and that nobody can read."""
    body = json.dumps({"verifier": HASH, "hint": HASH, "token": "dex_" + HASH}).encode()
    token_id = str(uuid.uuid4())
    event = {"topic": "token.created", "state": {"name": "x", "verifier": HASH, "surprise": HASH}}
    decision = {
        "v": 1, "id": str(uuid.uuid4()), "at": "2026-01-01T00:00:00+00:00", "actor": {"method": "platform"},
        "company": None, "cause": None, "correlation": None, "request": None, "digest": None, "events": [event],
    }  # fmt: skip
    nats = await connect([observed.nats_url], "tests")
    use_keys(nats, MasterKeys(SYSTEM_MASTER_KEYS))
    try:
        await nats.publish("ask.create_token", body)
        await nats.jetstream().publish(f"commands.{org.org_id}.create_token", body)
        subject = f"events.{org.org_id}.token.{token_id}.1.log.token"
        position = (await nats.jetstream().publish(subject, json.dumps(decision).encode())).seq
    finally:
        await nats.close()
    await org.call("orgs/get", {"min_position": position})  # the projector has come past it


async def test_no_credential_and_no_hash_of_one_is_in_any_log(observed, org):
    identity = f"sub-{uuid.uuid4()}"
    user = await org.call("users/invite", {"email": "eve@example.com", "role": "org_admin", "name": "Eve"})
    made = await org.call("tokens/create", {"name": "of Eve", "user_id": user["user_id"]})
    good = sessions(identity)[0]
    async with httpx.AsyncClient(base_url=observed.base_url) as http:
        accepted = await http.post(
            "/v1/users/accept_invitation",
            json={"invitation": user["invitation"]},
            headers={"Authorization": f"Bearer {good}"},
        )
        assert accepted.status_code == 200, accepted.text
        for credential in (made["token"], good):
            answer = await http.post(
                "/v1/users/list",
                json={"min_position": made["position"]},
                headers={"Authorization": f"Bearer {credential}"},
            )
            assert answer.status_code == 200
    credentials = [org.token, made["token"], user["invitation"], "dex_" + "b" * 48, *sessions(identity)]
    for credential in credentials:
        await misuse(observed, org, credential)
    await send_faulty_messages(observed, org)
    await org.call("tokens/revoke", {"token_id": made["token_id"]})
    await misuse(observed, org, made["token"])

    assert await observed.entries("command-service", event="handler_raised"), "the faulty command was told of"
    assert await observed.entries("command-service", event="dead_letter")
    assert await observed.entries("projector", event="dead_letter")
    searched = list((observed.home / "logs").iterdir())
    assert {"gateway.log", "command-service.log", "worker.log", "projector.log", "nats.log"} <= {
        p.name for p in searched
    }
    needles = [JWT_SECRET, HASH, *credentials, *(hashlib.sha256(c.encode()).hexdigest() for c in credentials)]
    needles += [part for session in sessions(identity) for part in session.split(".")[1:] if len(part) > 20]
    for path in searched:
        text = path.read_text(errors="replace")
        assert [needle for needle in needles if needle in text] == [], path


@pytest.mark.parametrize("fmt", ["json", "text"])
def test_tracebacks_show_no_variables(fmt):
    code = (
        "import asyncio, logging, structlog\n"
        "from events.logging import configure_logging, get_logger\n"
        f"configure_logging('debug', {fmt!r}, 'gateway')\n"
        "def fail(token):\n    raise ValueError('no')\n"
        "for log in (get_logger('x'), logging.getLogger('asyncio')):\n"
        "    try:\n        fail('open' + '-' + 'sesame')\n"
        "    except ValueError as error:\n        log.error('failed', exc_info=error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.count("ValueError: no") == 2
    assert ran.stdout.count("in fail") == 2
    assert "open-sesame" not in ran.stdout + ran.stderr
    assert ran.stderr == ""


@pytest.mark.parametrize(("access_log", "lines"), [(True, 1), (False, 0)])
def test_the_access_log_can_be_turned_off(access_log, lines):
    code = (
        "import httpx, asyncio\n"
        "from events.logging import configure_logging\n"
        "from events.settings import Settings\n"
        "from gateway.app import create_app\n"
        "configure_logging('info', 'json', 'gateway')\n"
        f"app = create_app(Settings(_env_file=None, access_log={access_log}))\n"
        "async def main():\n"
        "    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://x') as http:\n"
        "        assert (await http.get('/openapi.json')).status_code == 200\n"
        "asyncio.run(main())\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [json.loads(line)["endpoint"] for line in ran.stdout.splitlines()] == ["/openapi.json"] * lines
