import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from events.context import AuthContext
from events.errors import AuthenticationError, UnavailableError
from events.ids import new_id
from events.settings import Settings
from gateway.access_watch import LEASE_S
from gateway.auth import AuthCache, Caller
from gateway.sessions import PublishedKeys, SessionVerifier
from gateway.state import Gateway
from projections.queries.reader import Scope
from tests.gateway.support import JWT_SECRET, Person, World, add_person, add_world, bearer, claims, session, touch

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


async def ask(client: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await client.post("/v1/orgs/get", json={}, headers=headers)


async def test_a_token_and_a_session_of_the_same_user_see_the_same(client: httpx.AsyncClient, world: World) -> None:
    by_token = await ask(client, world.member.headers)
    by_session = await ask(client, session(world.member))
    assert by_token.status_code == by_session.status_code == 200
    assert by_token.json() == by_session.json()


@pytest.mark.parametrize(
    "header",
    ["", "Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Bearer dex_short", "Bearer dex_" + "x" * 43, "Bearer a.b.c",
     "Bearer " + "x" * 20_000, "Token dex_" + "x" * 43],
    ids=lambda header: header[:20],
)  # fmt: skip
async def test_credentials_that_are_none(header: str, client: httpx.AsyncClient, world: World) -> None:
    assert (await ask(client, {"Authorization": header})).status_code == 401


async def test_a_revoked_token(client: httpx.AsyncClient, world: World, database: asyncpg.Pool) -> None:
    token_id = world.member.token_id
    await touch(database, "tokens_v2", "revoked_at = now()", token_id=token_id)
    assert (await ask(client, world.member.headers)).status_code == 401
    assert (await ask(client, session(world.member))).status_code == 200, "the user may still have sessions"


async def test_an_inactive_user(client: httpx.AsyncClient, world: World, database: asyncpg.Pool) -> None:
    user_id = world.member.user_id
    await touch(database, "users_v2", "deactivated_at = now()", user_id=user_id)
    assert (await ask(client, world.member.headers)).status_code == 401
    assert (await ask(client, session(world.member))).status_code == 401


def unsigned(person: Person) -> str:
    return jwt.encode(claims(person), None, "none")


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": -60},
        {"exp": None},
        {"aud": "somebody else"},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "nobody we know"},
        {"sub": "x" * 300},
        {"sub": "a\x00b"},
        {"nbf": 600},
    ],
    ids=str,
)
async def test_sessions_that_are_refused(changes: dict[str, Any], client: httpx.AsyncClient, world: World) -> None:
    now_s = int(time.time())
    changes = {name: value + now_s if isinstance(value, int) else value for name, value in changes.items()}
    answer = await ask(client, session(world.member, **changes))
    assert answer.status_code == 401, answer.text
    assert "JWT" not in answer.text


async def test_signatures_that_are_refused(client: httpx.AsyncClient, world: World) -> None:
    wrong_secret = session(world.member, key="another secret of the same length 0123456789")
    other_algorithm = session(world.member, algorithm="HS512", key=JWT_SECRET * 2)
    asymmetric = session(world.member, RSA_KEY, "RS256")
    for headers in (wrong_secret, other_algorithm, asymmetric, bearer(unsigned(world.member))):
        assert (await ask(client, headers)).status_code == 401


async def test_leeway_is_honoured(client: httpx.AsyncClient, world: World) -> None:
    assert (await ask(client, session(world.member, exp=int(time.time()) - 3))).status_code == 200


async def test_one_identity_in_several_orgs_chooses(
    client: httpx.AsyncClient, world: World, database: asyncpg.Pool
) -> None:
    other = await add_world(database)
    same = await add_person(database, other.org_id, "member", other.company_id, identity=world.member.identity)
    headers = session(same)
    undecided = await ask(client, headers)
    assert undecided.status_code == 401
    assert "X-Data-Engine-Org" in undecided.json()["detail"]
    for org_id in (world.org_id, other.org_id):
        chosen = await ask(client, headers | {"X-Data-Engine-Org": org_id})
        assert chosen.json()["org_id"] == org_id
    for foreign in (world.stranger.org_id, "nonsense"):
        assert (await ask(client, headers | {"X-Data-Engine-Org": foreign})).status_code == 401


async def test_a_change_of_access_is_noticed_without_any_signal(
    client: httpx.AsyncClient, world: World, database: asyncpg.Pool, gateway: Gateway
) -> None:
    await gateway.authenticator.watch._ask()  # the world itself is no news
    assert (await ask(client, world.member.headers)).status_code == 200
    assert (await ask(client, world.stranger.headers)).status_code == 200
    await touch(database, "tokens_v2", "revoked_at = now()", token_id=world.member.token_id)
    kept = gateway.authenticator.cache._entries
    async with asyncio.timeout(LEASE_S):
        while any(caller.auth.token_id == world.member.token_id for caller, _ in kept.values()):
            await asyncio.sleep(0)
    assert (await ask(client, world.member.headers)).status_code == 401
    assert any(caller.auth.token_id == world.stranger.token_id for caller, _ in kept.values()), "other orgs stay"


async def test_nothing_that_is_kept_counts_when_the_database_is_silent(
    client: httpx.AsyncClient, world: World, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await ask(client, world.member.headers)).status_code == 200
    watch = gateway.authenticator.watch
    monkeypatch.setattr(watch, "_until_s", time.monotonic())
    assert not watch.holds()
    assert (await ask(client, world.member.headers)).status_code == 200, "looked up again"


def test_the_cache_keeps_nothing_that_was_read_before_a_change() -> None:
    holds = [True]
    cache = AuthCache(lambda: holds[0])
    auth = AuthContext(org_id=new_id(), user_id="u", role="org_admin", auth_method="jwt")
    caller = Caller(auth, Scope(auth.org_id), True)
    key = ("v", None)
    for orgs in (None, {auth.org_id}, {new_id()}):
        began = cache.generation
        cache.forget(orgs)
        cache.put(key, caller, began, 60)
        assert cache.get(key) is None
    cache.put(key, caller, cache.generation, 60)
    cache.forget({new_id()})
    assert cache.get(key) == caller, "it is another org that has changed"
    cache.forget({auth.org_id})
    assert cache.get(key) is None
    cache.put(key, caller, cache.generation, 60)
    holds[0] = False
    assert cache.get(key) is None, "the lease has ended"
    holds[0] = True
    cache.put(key, caller, cache.generation, 0)
    assert cache.get(key) == caller, "a session that has ended is not kept, and what was kept holds"


class Keys:
    """A JWKS address on a real socket."""

    def __init__(self) -> None:
        self.document: Any = {"keys": []}
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                body = json.dumps(outer.document).encode()
                self.send_response(200 if outer.document else 500)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def keys() -> Iterator[Keys]:
    opened = Keys()
    yield opened
    opened.close()


def published(key: Any, kid: str | None, **fields: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **({"kid": kid} if kid else {}), **fields}


def verifier(url: str, **fields: Any) -> SessionVerifier:
    return SessionVerifier(Settings(_env_file=None, jwt_jwks_url=url, **fields))


def signed(key: Any, algorithm: str, kid: str | None, **changes: Any) -> str:
    content = {"sub": "ada", "aud": "authenticated", "exp": time.time() + 60} | changes
    return jwt.encode(content, key, algorithm, headers={"kid": kid} if kid else {})


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256")], ids=["RS256", "ES256"])
async def test_published_keys(key: Any, algorithm: str, keys: Keys) -> None:
    keys.document = {"keys": [published(key, "one", use="sig"), published(OTHER_RSA_KEY, "two")]}
    sessions = verifier(keys.url)
    for _ in range(3):
        assert (await sessions.verify(signed(key, algorithm, "one"))).identity == "ada"
    assert keys.asked == 1
    for kid in ("two", "three", None):
        with pytest.raises(AuthenticationError):
            await sessions.verify(signed(key, algorithm, kid))


async def test_a_public_key_is_no_shared_secret(keys: Keys) -> None:
    """RFC 8725, 2.1: a token signed by HMAC with the published key as its secret."""
    keys.document = {"keys": [published(RSA_KEY, "one")]}
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    import base64
    import hashlib
    import hmac

    def part(content: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    body = {"sub": "ada", "aud": "authenticated", "exp": time.time() + 60}
    text = part({"alg": "HS256", "kid": "one"}) + b"." + part(body)
    token = text + b"." + base64.urlsafe_b64encode(hmac.digest(pem, text, hashlib.sha256)).rstrip(b"=")
    for sessions in (verifier(keys.url), verifier(keys.url, jwt_secret=JWT_SECRET)):
        with pytest.raises(AuthenticationError):
            await sessions.verify(token.decode())


async def test_the_key_decides_the_algorithm(keys: Keys) -> None:
    keys.document = {"keys": [published(RSA_KEY, "one"), {"kty": "oct", "kid": "two", "k": "c2VjcmV0"}]}
    sessions = verifier(keys.url)
    for token in (
        signed(RSA_KEY, "RS512", "one"),
        signed(RSA_KEY, "PS256", "one"),
        signed(EC_KEY, "ES256", "one"),
        signed("secret" * 8, "HS256", "two"),
    ):
        with pytest.raises(AuthenticationError):
            await sessions.verify(token)


async def test_a_new_key_is_fetched_and_garbage_does_not_make_us_fetch(keys: Keys, monkeypatch: Any) -> None:
    keys.document = {"keys": [published(RSA_KEY, "one")]}
    sessions = verifier(keys.url)
    await sessions.verify(signed(RSA_KEY, "RS256", "one"))
    for number in range(20):
        with pytest.raises(AuthenticationError):
            await sessions.verify(signed(RSA_KEY, "RS256", f"unknown {number}"))
    assert keys.asked == 1
    keys.document = {"keys": [published(RSA_KEY, "one"), published(OTHER_RSA_KEY, "new")]}
    monkeypatch.setattr("gateway.sessions.JWKS_RETRY_S", 0.0)
    assert (await sessions.verify(signed(OTHER_RSA_KEY, "RS256", "new"))).identity == "ada"
    assert keys.asked == 2


async def test_keys_stay_in_use_while_their_address_is_down(keys: Keys, monkeypatch: Any) -> None:
    keys.document = {"keys": [published(RSA_KEY, "one")]}
    sessions = verifier(keys.url)
    await sessions.verify(signed(RSA_KEY, "RS256", "one"))
    keys.document = None
    monkeypatch.setattr("gateway.sessions.JWKS_MAX_AGE_S", -1.0)
    monkeypatch.setattr("gateway.sessions.JWKS_RETRY_S", 0.0)
    await sessions.verify(signed(RSA_KEY, "RS256", "one"))
    assert keys.asked == 2


async def test_no_keys_at_all_is_our_trouble_not_the_callers() -> None:
    with pytest.raises(UnavailableError):
        await PublishedKeys("http://127.0.0.1:1/jwks.json").find("one")


async def test_issuer(keys: Keys) -> None:
    sessions = SessionVerifier(
        Settings(_env_file=None, jwt_secret=JWT_SECRET, jwt_issuer="https://id.example", jwt_audience=None)
    )
    await sessions.verify(signed(JWT_SECRET, "HS256", None, iss="https://id.example"))
    for changes in ({"iss": "https://evil.example"}, {}):
        with pytest.raises(AuthenticationError):
            await sessions.verify(signed(JWT_SECRET, "HS256", None, **changes))
