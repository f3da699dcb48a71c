"""Who asks: an API token or a JWT session, and the AuthContext that either gives."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers

from events.context import AuthContext, AuthMethod
from events.errors import AuthenticationError
from events.ids import is_id
from events.settings import Settings
from gateway.sessions import SessionVerifier
from projections.queries import access
from projections.queries.reader import Reader, Row

TOKEN_PREFIX = "dex_"
ORG_HEADER = "X-Data-Engine-Org"
CACHE_MAX_ENTRIES = 10_000
CACHE_TTL_S = 60.0
CREDENTIAL_MAX_CHARS = 8192

_TOKEN = re.compile(r"dex_[0-9A-Za-z]{40,128}\Z")


def verifier_of(token: str) -> str:
    """What is stored of an API token: SHA-256 of the whole, hexadecimal. 240 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Entry:
    auth: AuthContext
    until: float
    epoch: int


class AuthCache:
    """Successful look-ups, for a minute at most.

    `clear` drops everything; a look-up that began before it is not kept. `epoch` is the number of times that the
    connection, by which we hear of revocations, was lost: what was kept before counts no more.
    """

    def __init__(self, epoch: Callable[[], int]) -> None:
        self._entries: OrderedDict[tuple[str, str | None], _Entry] = OrderedDict()
        self._epoch = epoch
        self.generation = 0

    def get(self, key: tuple[str, str | None]) -> AuthContext | None:
        """The AuthContext that was kept, while it holds."""
        entry = self._entries.get(key)
        if entry is None or entry.until < time.monotonic() or entry.epoch != self._epoch():
            return None
        return entry.auth

    def put(self, key: tuple[str, str | None], auth: AuthContext, generation: int, valid_s: float) -> None:
        """Keep a look-up that began in `generation`, unless access has changed since."""
        if generation != self.generation or valid_s <= 0:
            return
        self._entries[key] = _Entry(auth, time.monotonic() + min(valid_s, CACHE_TTL_S), self._epoch())
        self._entries.move_to_end(key)
        if len(self._entries) > CACHE_MAX_ENTRIES:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: somebody's access has changed."""
        self.generation += 1
        self._entries.clear()


class Authenticator:
    """Turns a request's credentials into an AuthContext."""

    def __init__(self, settings: Settings, reader: Reader, epoch: Callable[[], int]) -> None:
        self._reader = reader
        self._sessions = SessionVerifier(settings)
        self.cache = AuthCache(epoch)

    async def authenticate(self, headers: Headers) -> AuthContext:
        """The caller. Raises AuthenticationError, or UnavailableError when nobody can be looked up now."""
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential or len(credential) > CREDENTIAL_MAX_CHARS:
            raise AuthenticationError("Send `Authorization: Bearer …` with an API token or a session.")
        org_id = headers.get(ORG_HEADER)
        if org_id is not None and not is_id(org_id):
            raise AuthenticationError(f"{ORG_HEADER} is not the id of an org.")
        verifier = verifier_of(credential)
        known = self.cache.get((verifier, org_id))
        return known if known is not None else await self._look_up(credential, verifier, org_id)

    async def _look_up(self, credential: str, verifier: str, org_id: str | None) -> AuthContext:
        generation = self.cache.generation
        if credential.startswith(TOKEN_PREFIX):
            found, method, valid_s = await self._token_rows(credential, verifier), "api_token", CACHE_TTL_S
        else:
            session = await self._sessions.verify(credential)
            found = await access.identity_users(self._reader, session.identity)
            method, valid_s = "jwt", session.expires_at - time.time()
        auth = _context(_the_one(found, org_id), "api_token" if method == "api_token" else "jwt")
        self.cache.put((verifier, org_id), auth, generation, valid_s)
        return auth

    async def _token_rows(self, credential: str, verifier: str) -> list[Row]:
        row = await access.token_owner(self._reader, verifier) if _TOKEN.match(credential) else None
        return [] if row is None else [row]


def _the_one(rows: list[Row], org_id: str | None) -> Row:
    """The caller's only user, or the only one in the org that it chose among its own."""
    if not rows:
        raise AuthenticationError("No active user is known by these credentials.")
    chosen = [row for row in rows if org_id in (None, row["org_id"])]
    if not chosen:
        raise AuthenticationError(f"{ORG_HEADER} does not name an org of this caller.")
    if len({row["org_id"] for row in chosen}) == 1:
        return chosen[0]  # the oldest: a later user with the same identity takes nobody's place
    raise AuthenticationError(f"This identity has several users; choose the org with the header {ORG_HEADER}.")


def _context(row: Row, method: AuthMethod) -> AuthContext:
    return AuthContext(
        org_id=row["org_id"],
        user_id=row["user_id"],
        company_id=row["company_id"],
        role=row["role"],
        auth_method=method,
        token_id=row["token_id"],
    )
