"""Attacks on JWT sessions: against the running system (HS256), and against keys that are published (RS256, ES256)."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from events.errors import AuthenticationError, UnavailableError
from events.settings import Settings
from gateway.sessions import JWKS_MAX_BYTES, SessionVerifier
from tests.security.listener import Listener, listening
from tests.security.support import Caller, World, mint, new_company, new_id, new_session, org_of
from tests.system.client import SYSTEM_JWT_SECRET

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
NOW = int(time.time())


def part(content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def craft(header: Any, claims: Any, secret: str | bytes | None = SYSTEM_JWT_SECRET) -> str:
    """A token with any header, signed by HMAC-SHA256 whatever the header says; without a secret: unsigned."""
    text = f"{part(header)}.{part(claims)}"
    if secret is None:
        return f"{text}."
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{text}.{part(hmac.digest(key, text.encode(), hashlib.sha256))}"


def claims(identity: str, **changes: Any) -> dict[str, Any]:
    content = {"sub": identity, "aud": "authenticated", "iat": NOW, "exp": NOW + 3600} | changes
    return {name: value for name, value in content.items() if value is not None}


HS: dict[str, Any] = {"alg": "HS256", "typ": "JWT"}
NESTED = b'{"alg":"HS256","x":' + b"[" * 2900 + b"]" * 2900 + b"}"

FORGED: dict[str, Callable[[str], str]] = {
    "another secret": lambda who: mint(who, "another secret, as long as the one of the system"),
    "no secret at all": lambda who: craft(HS, claims(who), b""),
    "another algorithm of the family": lambda who: mint(who, SYSTEM_JWT_SECRET * 2, "HS512"),
    "a key of one's own": lambda who: mint(who, RSA_KEY, "RS256"),
    "expired": lambda who: mint(who, exp=NOW - 60),
    "expired long ago": lambda who: mint(who, exp=-1),
    "no exp": lambda who: mint(who, exp=None),
    "exp as a truth": lambda who: craft(HS, claims(who, exp=True)),
    "exp as a list": lambda who: craft(HS, claims(who, exp=[NOW + 60])),
    "exp without end": lambda who: craft(HS, json.dumps(claims(who, exp=float("inf"))).encode()),
    "exp as no number": lambda who: craft(HS, json.dumps(claims(who, exp=float("nan"))).encode()),
    "not yet valid": lambda who: mint(who, nbf=NOW + 600),
    "issued in the future": lambda who: mint(who, iat=NOW + 600),
    "wrong audience": lambda who: mint(who, aud="somebody else"),
    "no audience": lambda who: mint(who, aud=None),
    "an audience that contains ours": lambda who: mint(who, aud="authenticated.evil"),
    "no subject": lambda who: mint(who, sub=None),
    "subject of another case": lambda who: mint(who.upper()),
    "subject with a space": lambda who: mint(f"{who} "),
    "subject with NUL": lambda who: mint(f"{who}\0"),
    "subject with a lone surrogate": lambda who: craft(HS, json.dumps(claims("\ud800")).encode()),
    "subject as a list": lambda who: craft(HS, claims([who])),
    "subject as SQL": lambda who: mint("' OR '1'='1"),
    "subject as a pattern": lambda who: mint("%"),
    "claims as a list": lambda who: craft(HS, [claims(who)]),
    "claims as no JSON": lambda who: craft(HS, b"\xff\xfe"),
    "b64 false": lambda who: craft(HS | {"b64": False}, claims(who)),
    "b64 false, critical": lambda who: craft(HS | {"b64": False, "crit": ["b64"]}, claims(who)),
    "an unknown critical header": lambda who: craft(HS | {"crit": ["exp"]}, claims(who)),
    "an unprintable critical header": lambda who: craft(HS | {"crit": ["\ud800", "\0\r\n"]}, claims(who)),
    "no critical header": lambda who: craft(HS | {"crit": []}, claims(who)),
    "critical as text": lambda who: craft(HS | {"crit": "alg"}, claims(who)),
    "an unprintable algorithm": lambda who: craft({"alg": "\ud800"}, claims(who)),
    "an algorithm as a list": lambda who: craft({"alg": ["HS256"]}, claims(who)),
    "no algorithm": lambda who: craft({"typ": "JWT"}, claims(who)),
    "a header without end": lambda who: craft(NESTED, claims(who)),
    "a header as a list": lambda who: craft([HS], claims(who)),
    "kid as a number": lambda who: craft(HS | {"kid": 1}, claims(who)),
    "kid as an object": lambda who: craft(HS | {"kid": {"$ne": None}}, claims(who)),
    "no signature": lambda who: mint(who).rpartition(".")[0] + ".",
    "half a signature": lambda who: mint(who)[:-20],
    "the signature of another": lambda who: mint(who).rpartition(".")[0] + "." + mint("x").rpartition(".")[2],
    "five parts": lambda who: f"{mint(who)}.e30.e30",
    "an encrypted one": lambda who: craft({"alg": "dir", "enc": "A256GCM"}, claims(who)),
} | {
    f"alg {name!r}": lambda who, name=name: craft({"alg": name}, claims(who), None)
    for name in ("none", "None", "NONE", "nOnE", "none ", " none", "none\0", "", None, "hs256", "HS256 ", "noné")
}  # fmt: skip


@pytest.fixture(scope="module")
async def person(client: Any, endpoints: Any) -> Caller:
    """Somebody who has a session that holds, and an identity that is worth stealing."""
    admin, org_id = await org_of(client, endpoints)
    return await new_session(admin, org_id, "member", await new_company(admin), identity=f"ada-{new_id()}")


def identity_of(person: Caller) -> str:
    return str(jwt.decode(person.credential, options={"verify_signature": False})["sub"])


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_a_session_that_is_not_as_it_must_be(forge: Callable[[str], str], person: Caller) -> None:
    assert (await person.ask("orgs/get")).status_code == 200
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyJWT warns of the weak keys that we attack with
        token = forge(identity_of(person))
    answer = await person.by(token).ask("orgs/get")
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert token.split(".")[1] not in answer.text, "an answer never repeats what it was sent"


async def test_an_end_beyond_all_numbers_is_no_server_error(person: Caller) -> None:
    """Well signed, so only the identity provider could send it."""
    for exp in (10**400, 2**63, 1e308):
        answer = await person.by(craft(HS, claims(identity_of(person), exp=exp))).ask("orgs/get")
        assert answer.status_code in (200, 401), answer.text


KIDS = ["../../../../etc/passwd", "' OR 1=1 --", "http://127.0.0.1/key", "x" * 5000, "a\0b", "\r\nX: y", "", "*", ">"]


@pytest.mark.parametrize("kid", KIDS, ids=lambda kid: repr(kid)[:24])
async def test_an_injected_kid_names_nothing(kid: str, person: Caller) -> None:
    """HS256 has one key and no use for a kid; with a key of the attacker's none helps."""
    who = claims(identity_of(person))
    assert (await person.by(craft(HS | {"kid": kid}, who)).ask("orgs/get")).status_code == 200
    for secret in (b"", b"\0", b"x" * 40):
        assert (await person.by(craft(HS | {"kid": kid}, who, secret)).ask("orgs/get")).status_code == 401


@pytest.fixture
def keys() -> Iterator[Listener]:
    with listening() as opened:
        yield opened


@pytest.fixture
def evil() -> Iterator[Listener]:
    with listening() as opened:
        opened.publish(published(OTHER_RSA_KEY, "one"))
        yield opened


def published(key: Any, kid: str | None, **fields: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **({"kid": kid} if kid else {}), **fields}


def verifier(keys: Listener, **fields: Any) -> SessionVerifier:
    return SessionVerifier(Settings(_env_file=None, jwt_jwks_url=keys.url, **fields))


def signed(key: Any, algorithm: str, kid: str | None, **headers: Any) -> str:
    return mint("ada", key, algorithm, headers={**({"kid": kid} if kid else {}), **headers})


async def refused(sessions: SessionVerifier, token: str) -> None:
    with pytest.raises((AuthenticationError, UnavailableError)):
        await sessions.verify(token)


async def test_keys_that_a_token_brings_along_are_never_asked_for(
    person: Caller, keys: Listener, evil: Listener
) -> None:
    """`jku`, `x5u`, `jwk` and `x5c` point at the attacker's own key."""
    keys.publish(published(RSA_KEY, "one"))
    brought = {
        "jku": evil.url, "x5u": evil.url, "jwk": published(OTHER_RSA_KEY, "one"), "x5c": ["AAAA"], "iss": evil.url,
    }  # fmt: skip
    sessions = verifier(keys)
    for name, value in brought.items():
        await refused(sessions, signed(OTHER_RSA_KEY, "RS256", "one", **{name: value}))
        assert (await sessions.verify(signed(RSA_KEY, "RS256", "one", **{name: value}))).identity == "ada"
        header = HS | {name: value, "kid": evil.url}
        assert (await person.by(craft(header, claims("x"), b"evil" * 10)).ask("orgs/get")).status_code == 401
    assert evil.asked == []
    assert keys.asked == ["/jwks.json"]


@pytest.mark.parametrize("kid", [*KIDS, None, "\ud800"], ids=lambda kid: repr(kid)[:24])
async def test_a_kid_is_looked_up_in_the_published_keys_only(kid: str | None, keys: Listener) -> None:
    keys.publish(published(RSA_KEY, "one"), published(EC_KEY, "two"))
    sessions = verifier(keys)
    header = {"alg": "RS256"} | ({} if kid is None else {"kid": kid})
    text = f"{part(header)}.{part(claims('ada'))}"
    token = f"{text}.{part(RSAAlgorithm(RSAAlgorithm.SHA256).sign(text.encode(), RSA_KEY))}"
    for _ in range(3):
        await refused(sessions, token)
    assert keys.asked == ["/jwks.json"], "unknown kids make us ask no more often"


async def test_algorithm_confusion(keys: Listener) -> None:
    """RFC 8725, 2.1: the public key, however it is spelt, as an HMAC secret; and keys with others' algorithms."""
    keys.publish(published(RSA_KEY, "one"), published(EC_KEY, "two"))
    public = RSA_KEY.public_key()
    spellings = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        json.dumps(published(RSA_KEY, "one")).encode(),
        published(RSA_KEY, "one")["n"].encode(),
    ]
    for sessions in (verifier(keys), verifier(keys, jwt_secret=SYSTEM_JWT_SECRET)):
        for secret in spellings:
            for algorithm in ("HS256", "RS256", "ES256", "none"):
                await refused(sessions, craft({"alg": algorithm, "kid": "one"}, claims("ada"), secret))
        for token in (signed(RSA_KEY, "RS512", "one"), signed(RSA_KEY, "PS256", "one"), signed(RSA_KEY, "RS256", "two"),
                      signed(EC_KEY, "ES256", "one"), signed(SYSTEM_JWT_SECRET + "x", "HS256", "one")):  # fmt: skip
            await refused(sessions, token)


async def test_keys_are_not_fetched_from_where_a_redirect_points(keys: Listener, evil: Listener) -> None:
    keys.status, keys.headers = 302, {"Location": evil.url}
    await refused(verifier(keys), signed(OTHER_RSA_KEY, "RS256", "one"))
    assert evil.asked == []


async def test_a_huge_key_set_is_not_read_to_its_end(keys: Listener) -> None:
    padding = [{"kty": "oct", "k": "x" * 1000}] * (JWKS_MAX_BYTES // 1000)
    keys.publish(*padding, published(RSA_KEY, "one"))
    await refused(verifier(keys), signed(RSA_KEY, "RS256", "one"))


BAD_KEYS: dict[str, dict[str, Any]] = {
    "a private key": RSAAlgorithm.to_jwk(OTHER_RSA_KEY, as_dict=True) | {"kid": "bad"},
    "512 bits": {"kty": "RSA", "kid": "bad", "e": "AQAB", "n": part((2**511 + 12345).to_bytes(64, "big"))},
    "a million bits": {"kty": "RSA", "kid": "bad", "e": "AQAB", "n": part((2**1_000_000 - 1).to_bytes(125_000, "big"))},
    "no modulus": {"kty": "RSA", "kid": "bad"},
    "not base64": {"kty": "RSA", "kid": "bad", "n": "!!!", "e": "AQAB"},
    "beside the curve": {"kty": "EC", "crv": "P-256", "kid": "bad", "x": part(b"\1" * 32), "y": part(b"\2" * 32)},
    "a shared secret": {"kty": "oct", "kid": "bad", "k": part(SYSTEM_JWT_SECRET.encode())},
    "for encryption": published(OTHER_RSA_KEY, "bad", use="enc"),
    "of another algorithm": published(OTHER_RSA_KEY, "bad", alg="RS512"),
    "a kind that is none": {"kty": ["RSA"], "kid": "bad"},
    "no object": "bad",  # type: ignore[dict-item]
    "a kid that is none": published(OTHER_RSA_KEY, None) | {"kid": ["bad"]},
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_KEYS.values(), ids=BAD_KEYS.keys())
async def test_a_bad_key_in_the_set_is_not_used_and_spoils_no_other(bad: Any, keys: Listener) -> None:
    keys.publish(bad, published(RSA_KEY, "one"))
    sessions = verifier(keys)
    assert (await sessions.verify(signed(RSA_KEY, "RS256", "one"))).identity == "ada"
    for token in (signed(OTHER_RSA_KEY, "RS256", "bad"), craft({"alg": "HS256", "kid": "bad"}, claims("ada"))):
        await refused(sessions, token)


async def test_a_key_server_that_answers_nonsense(keys: Listener) -> None:
    for body in (b"", b"[]", b"null", b'{"keys":1}', b'{"keys":{"kty":"RSA"}}', b"[" * 100_000, b"\xff"):
        keys.body = body
        await refused(verifier(keys), signed(RSA_KEY, "RS256", "one"))


async def test_many_forged_sessions_at_once_are_all_refused(person: Caller) -> None:
    """None is let in by what is kept of another."""
    who = identity_of(person)
    forged = [mint(who, f"guess number {number} of the secret of the system") for number in range(50)]
    answers = await asyncio.gather(*(person.by(token).ask("orgs/get") for token in [*forged, person.credential]))
    assert [answer.status_code for answer in answers] == [401] * 50 + [401 if person.org_id is None else 200]


async def test_a_session_names_no_org_but_its_own(world: World, person: Caller) -> None:
    foreign, nobody = world.own.org_id, new_id()
    answers = [await person.by(person.credential, org).ask("orgs/get") for org in (foreign, nobody)]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].content == answers[1].content
    for org in ("*", ">", "a.b", foreign.upper(), f"{foreign}.", "'; --", "x" * 4000, ""):
        assert (await person.by(person.credential, org).ask("orgs/get")).status_code == 401, org
