"""How much a caller may ask for in a time: rates of requests, bytes and rows, by org and by token, in this process.

Each rate is a bucket by the generic cell rate algorithm: one number for a key, the time at which its bucket is full
again. What is refused takes nothing, so a client that waits as long as it was told to is let in.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from events.errors import LimitExceededError
from events.limits import NO_LIMITS, Limits
from events.settings import Settings

KEYS_MAX = 100_000
FAILURES_BURST_S = 50.0

Clock = Callable[[], float]
Key = tuple[str, str]

_TINY_S = 1e-6


class Buckets:
    """At most `keys_max` buckets; beyond, those that were used longest ago are taken for full."""

    def __init__(self, clock: Clock, keys_max: int = KEYS_MAX) -> None:
        self._clock = clock
        self._keys_max = keys_max
        self._full_at: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_s(self, key: Key, cost: float, rate: float, burst_s: float) -> float:
        """How long until `cost` may be taken; 0: now. A cost above the bucket's size needs a full bucket."""
        now = self._clock()
        wait_s = max(self._full_at.get(key, now), now) - now + min(cost / rate, burst_s) - burst_s
        return wait_s if wait_s > _TINY_S else 0.0

    def take(self, key: Key, cost: float, rate: float) -> None:
        """Take it; the bucket is full again later by the time in which so much comes in."""
        now = self._clock()
        self._full_at[key] = max(self._full_at.get(key, now), now) + cost / rate
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._keys_max:
            self._full_at.popitem(last=False)


class Limiter:
    """Lets calls in, or raises LimitExceededError. Strangers have buckets of their own and can push nobody's out."""

    def __init__(self, settings: Settings, clock: Clock = time.monotonic) -> None:
        self._defaults = settings.limits
        self._burst_s = settings.limit_burst_s
        self._failures_per_s = settings.limit_address_failures_per_s
        self._buckets = Buckets(clock)
        self._addresses = Buckets(clock)
        self._merged = lru_cache(maxsize=1024)(lambda overrides: overrides.merged(self._defaults))

    def admit(
        self, org_id: str, token_id: str, overrides: Limits | None, *, requests: int = 0, size: int = 0, rows: int = 0
    ) -> None:
        """Take all of it from the org's and the token's buckets, or nothing. `size` is in bytes."""
        limits = self.effective(overrides)
        wanted: list[tuple[Key, int, float]] = []
        if requests:
            wanted.append((("org_requests_per_s", org_id), requests, limits.org_requests_per_s or 0))
            wanted.append((("token_requests_per_s", token_id), requests, limits.token_requests_per_s or 0))
        if size:
            wanted.append((("org_bytes_per_s", org_id), size, limits.org_bytes_per_s or 0))
            wanted.append((("token_bytes_per_s", token_id), size, limits.token_bytes_per_s or 0))
        if rows:
            wanted.append((("org_rows_per_s", org_id), rows, limits.org_rows_per_s or 0))
            wanted.append((("token_rows_per_s", token_id), rows, limits.token_rows_per_s or 0))
        waits = [self._buckets.wait_s(key, cost, rate, self._burst_s) for key, cost, rate in wanted]
        if any(waits):
            wait_s, ((name, _), _, rate) = max(zip(waits, wanted, strict=True))
            raise exceeded(name, rate, wait_s)
        for key, cost, rate in wanted:
            self._buckets.take(key, cost, rate)

    def admit_stranger(self, address: str) -> None:
        """Raises LimitExceededError while too many authentications from this address have failed."""
        key = ("address_failures_per_s", network_of(address))
        wait_s = self._addresses.wait_s(key, 1, self._failures_per_s, FAILURES_BURST_S)
        if wait_s:
            raise exceeded(key[0], self._failures_per_s, wait_s)

    def note_failure(self, address: str) -> None:
        """An authentication from this address has failed. Raises LimitExceededError when that is one too many."""
        self.admit_stranger(address)
        self._addresses.take(("address_failures_per_s", network_of(address)), 1, self._failures_per_s)

    def effective(self, overrides: Limits | None) -> Limits:
        """The limits that hold for an org: all of them are set."""
        return self._defaults if overrides is None or overrides is NO_LIMITS else self._merged(overrides)


def exceeded(name: str, limit: float, wait_s: float) -> LimitExceededError:
    """The error of one limit, by its name in the settings."""
    retry_after_s = max(1, math.ceil(wait_s))
    message = f"The limit {name} of {limit:g} is met and nothing was done; ask again in {retry_after_s} s."
    return LimitExceededError(message, code=f"limit_{name}", limit=limit, retry_after_s=retry_after_s)


def network_of(address: str) -> str:
    """Whom an address stands for: itself, or for IPv6 its /64, which is what one customer of a network gets."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
