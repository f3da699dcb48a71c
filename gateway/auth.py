"""Who asks: an API token or a JWT session, and the AuthContext that either gives."""

import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from starlette.datastructures import Headers

from events.context import AuthContext, AuthMethod
from events.errors import AuthenticationError
from events.ids import is_id
from events.limits import NO_LIMITS, Limits
from events.secrets import TOKEN_PREFIX, verifier_of
from events.settings import Settings
from gateway.access_watch import AccessWatch
from gateway.limits import Limiter
from gateway.sessions import Session, SessionVerifier
from projections.queries import access
from projections.queries.reader import Reader, Row, Scope

ORG_HEADER = "X-Data-Engine-Org"
CACHE_MAX_ENTRIES = 10_000
CACHE_TTL_S = 10.0
"""Also bounds what no change of a row tells: a read model that was mended by a rebuild."""
CREDENTIAL_MAX_CHARS = 8192

_TOKEN = re.compile(r"dex_[0-9A-Za-z]{40,128}\Z")

Admit = Callable[[Session, str, str], Awaitable[bool]]
"""Whether a session was let into an org by one of the org's rules: of the session, the org's id, the request's id."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: the AuthContext, what it may see, and what was set for its org."""

    auth: AuthContext
    scope: Scope
    members_may_work: bool
    limits: Limits = NO_LIMITS

    @classmethod
    def of(cls, row: Row, method: AuthMethod) -> "Caller":
        """The caller behind a row of `token_caller` or `identity_callers`."""
        auth = AuthContext(
            org_id=row["org_id"],
            user_id=row["user_id"],
            company_id=row["company_id"],
            role=row["role"],
            auth_method=method,
            token_id=row["token_id"],
        )
        limits = NO_LIMITS if row["limits"] == "{}" else Limits.model_validate_json(row["limits"])
        return cls(auth, Scope(auth.org_id, auth.company_id), row["members_may_work"], limits)


_Key = tuple[str, str | None]


class AuthCache:
    """Successful look-ups, while the lease of the watch holds, and for CACHE_TTL_S at most.

    A look-up that began before something was forgotten is not kept.
    """

    def __init__(self, holds: Callable[[], bool]) -> None:
        self._entries: OrderedDict[_Key, tuple[Caller, float]] = OrderedDict()
        self._holds = holds
        self.generation = 0

    def get(self, key: _Key) -> Caller | None:
        """The caller that was kept, while it holds."""
        entry = self._entries.get(key)
        if entry is None or entry[1] < time.monotonic() or not self._holds():
            return None
        return entry[0]

    def put(self, key: _Key, caller: Caller, generation: int, valid_s: float) -> None:
        """Keep a look-up that began in `generation`, unless access has changed since."""
        if generation != self.generation or valid_s <= 0:
            return
        self._entries[key] = (caller, time.monotonic() + min(valid_s, CACHE_TTL_S))
        self._entries.move_to_end(key)
        if len(self._entries) > CACHE_MAX_ENTRIES:
            self._entries.popitem(last=False)

    def forget(self, orgs: Collection[str] | None) -> None:
        """Somebody's access has changed in these orgs, or perhaps in any."""
        self.generation += 1
        if orgs is None:
            self._entries.clear()
            return
        for key in [key for key, (caller, _) in self._entries.items() if caller.auth.org_id in orgs]:
            del self._entries[key]


class Authenticator:
    """Turns a request's credentials into its caller."""

    def __init__(self, settings: Settings, reader: Reader, admit: Admit, limiter: Limiter) -> None:
        self._reader = reader
        self._limiter = limiter
        self._sessions = SessionVerifier(settings)
        self._admit = admit
        self.watch = AccessWatch(reader, lambda orgs: self.cache.forget(orgs))
        self.cache = AuthCache(self.watch.holds)

    def hear(self, *, reset: bool) -> None:
        """The projector says that access has changed, or (`reset`) that the read models were built anew."""
        if reset:
            self.cache.forget(None)
        self.watch.look()

    async def authenticate(self, headers: Headers, request_id: str, address: str) -> Caller:
        """The caller. Raises AuthenticationError; LimitExceededError when too many from its address have failed (unless
        the caller is known here); UnavailableError when nobody can be looked up now.
        """
        try:
            credential, org_id = _bearer(headers), _chosen_org(headers)
            verifier = verifier_of(credential)
            known = self.cache.get((verifier, org_id))
            if known is not None:
                return known
            self._limiter.admit_stranger(address)
            return await self._look_up(credential, verifier, org_id, request_id)
        except AuthenticationError:
            self._limiter.note_failure(address)
            raise

    async def session(self, headers: Headers, address: str) -> Session:
        """The session of a request that needs no user yet. Raises as `authenticate`."""
        self._limiter.admit_stranger(address)
        try:
            credential = _bearer(headers)
            if credential.startswith(TOKEN_PREFIX):
                raise AuthenticationError("This takes a session (JWT), not an API token.")
            return await self._sessions.verify(credential)
        except AuthenticationError:
            self._limiter.note_failure(address)
            raise

    async def _look_up(self, credential: str, verifier: str, org_id: str | None, request_id: str) -> Caller:
        generation = self.cache.generation
        if credential.startswith(TOKEN_PREFIX):
            row = await access.token_caller(self._reader, verifier) if _TOKEN.match(credential) else None
            caller = Caller.of(_the_one([] if row is None else [row], org_id), "api_token")
            ends = row["expires_at"] if row is not None else None
            valid_s = CACHE_TTL_S if ends is None else ends.timestamp() - time.time()
        else:
            session = await self._sessions.verify(credential)
            caller = await self._of_session(session, org_id, request_id)
            valid_s = session.expires_at - time.time()
        self.cache.put((verifier, org_id), caller, generation, valid_s)
        return caller

    async def _of_session(self, session: Session, org_id: str | None, request_id: str) -> Caller:
        """The session's user; one that the org's rules let in at this moment, when it names the org."""
        found = await access.identity_callers(self._reader, session.identity)
        in_org = any(row["org_id"] == org_id for row in found)
        if org_id is not None and not in_org and await self._admit(session, org_id, request_id):
            found = await access.identity_callers(self._reader, session.identity)
        return Caller.of(_the_one(found, org_id), "jwt")


def _bearer(headers: Headers) -> str:
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential or len(credential) > CREDENTIAL_MAX_CHARS:
        raise AuthenticationError("Send `Authorization: Bearer …` with an API token or a session.")
    return credential


def _chosen_org(headers: Headers) -> str | None:
    org_id = headers.get(ORG_HEADER)
    if org_id is not None and not is_id(org_id):
        raise AuthenticationError(f"{ORG_HEADER} is not the id of an org.")
    return org_id


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
