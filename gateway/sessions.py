"""JWT sessions: who a signed token says the caller is. The key decides the algorithm, never the token's header.

HS256 with the shared secret, as Supabase signs; RS256 and ES256 with published keys (RFC 7517, 7518, 7519, 8725).
"""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

import jwt

from events.errors import AuthenticationError, UnavailableError
from events.logging import get_logger
from events.settings import Settings

JWKS_TIMEOUT_S = 5.0
JWKS_MAX_BYTES = 256 * 1024
JWKS_MAX_AGE_S = 300.0
JWKS_RETRY_S = 10.0
"""An unknown key id makes us look again, at most this often, whoever sends how many of them."""
SUBJECT_MAX_CHARS = 255

_ALGORITHM_OF = {"RSA": "RS256", "EC": "ES256"}
_KEY_BITS = {"RSA": range(2048, 8193), "EC": range(256, 257)}
_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "The session has expired.",
    jwt.ImmatureSignatureError: "The session is not valid yet.",
    jwt.InvalidAudienceError: "The session is for another audience.",
    jwt.InvalidIssuerError: "The session is of another issuer.",
    jwt.InvalidSignatureError: "The session's signature does not hold.",
}
"""Words of our own: those of PyJWT hold what an attacker put into the token."""

_logger = get_logger("sessions")


@dataclass(frozen=True, slots=True)
class Session:
    """A session that was checked: its identity (`sub`), when it ends (Unix time), and its claims."""

    identity: str
    expires_at: float
    claims: Mapping[str, Any] = field(repr=False)


class SessionVerifier:
    """Checks JWTs by the settings; refuses all of them when no key is configured."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        self._keys = PublishedKeys(settings.jwt_jwks_url) if settings.jwt_jwks_url else None

    async def verify(self, token: str) -> Session:
        """The session. Raises AuthenticationError, and UnavailableError when the keys cannot be fetched."""
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm = await self._key(header)
            claims = self._claims(token, key, algorithm)
            expires_at = float(claims["exp"]) + self._settings.jwt_leeway_s
        except (jwt.PyJWTError, ValueError, OverflowError) as error:
            raise AuthenticationError(_REASONS.get(type(error), "The session is not valid.")) from error
        identity = claims["sub"]
        if not isinstance(identity, str) or not 0 < len(identity) <= SUBJECT_MAX_CHARS or not is_storable(identity):
            raise AuthenticationError("The session names nobody: its `sub` is not a short text.")
        return Session(identity, expires_at, claims)

    async def _key(self, header: dict[str, Any]) -> tuple[Any, str]:
        """The key for this token, and the one algorithm that the key is for."""
        algorithm, key_id = str(header.get("alg")), header.get("kid")
        if algorithm == "HS256" and self._secret is not None:
            return self._secret, "HS256"
        if algorithm in _ALGORITHM_OF.values() and self._keys is not None:
            key = await self._keys.find(key_id if isinstance(key_id, str) else None)
            return key.key, _ALGORITHM_OF[str(key.key_type)]
        raise AuthenticationError("The session is signed in a way that is not accepted here.")

    def _claims(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        settings = self._settings
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            leeway=settings.jwt_leeway_s,
            options={"require": ["exp", "sub"], "verify_aud": settings.jwt_audience is not None},
        )
        return claims


class PublishedKeys:
    """The public keys at a JWKS address: fetched in a thread, kept for minutes, looked for again when one is new."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """The key of this id; without an id, the only key there is. Raises AuthenticationError, UnavailableError."""
        if self._is_stale() or self._lookup(key_id) is None:
            async with self._lock:
                await self._fetch_again(key_id)
        key = self._lookup(key_id)
        if key is not None:
            return key
        if not self._keys:
            raise UnavailableError("The keys of sessions cannot be fetched.")
        raise AuthenticationError("The session is signed with an unknown key.")

    def _lookup(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _is_stale(self) -> bool:
        return time.monotonic() - self._fetched_at > JWKS_MAX_AGE_S

    async def _fetch_again(self, key_id: str | None) -> None:
        now = time.monotonic()
        fresh = not self._is_stale() and self._lookup(key_id) is not None
        if fresh or now - self._tried_at < JWKS_RETRY_S:
            return
        self._tried_at = now
        try:
            self._keys = await asyncio.to_thread(_fetch, self._url)
            self._fetched_at = time.monotonic()
        except (OSError, ValueError, KeyError, TypeError, RecursionError, HTTPException) as error:
            # The keys we have stay in use: an identity provider that is down must not end every session.
            _logger.warning("jwks_not_fetched", url=self._url, error=repr(error))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The keys come from where the settings say, or not at all."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: a redirect becomes the HTTPError that it is."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def is_storable(text: str) -> bool:
    """Whether a text of a claim can be kept: JSON lets in what neither UTF-8 nor Postgres can hold."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _fetch(url: str) -> dict[str | None, jwt.PyJWK]:
    """The signing keys at `url` that are public keys of a kind we accept."""
    if not url.startswith(("https://", "http://")):
        raise ValueError("a JWKS address begins with https://")
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    with _OPENER.open(request, timeout=JWKS_TIMEOUT_S) as response:
        document = json.loads(response.read(JWKS_MAX_BYTES))
    keys: dict[str | None, jwt.PyJWK] = {}
    for data in document["keys"]:
        key = _public_key(data)
        if key is not None:
            keys[data.get("kid")] = key
    return keys


def _public_key(data: Any) -> jwt.PyJWK | None:
    """The key, if it is one of a kind that we accept. One that is not spoils no other (RFC 7517, section 5)."""
    if not isinstance(data, dict) or not isinstance(data.get("kid"), str | None):
        return None
    kind = data.get("kty")
    if not isinstance(kind, str) or kind not in _ALGORITHM_OF or data.get("use", "sig") != "sig" or "d" in data:
        return None
    algorithm = _ALGORITHM_OF[kind]
    if data.get("alg", algorithm) != algorithm or data.get("crv", "P-256") != "P-256":
        return None
    try:
        key = jwt.PyJWK(data, algorithm)
    except (ValueError, TypeError, jwt.PyJWTError) as error:
        _logger.warning("jwks_bad_key", error=type(error).__name__)
        return None
    return key if getattr(key.key, "key_size", 0) in _KEY_BITS[kind] else None
