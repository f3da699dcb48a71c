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
from typing import NamedTuple

from events import metrics
from events.errors import LimitExceededError
from events.limits import NO_LIMITS, Limits
from events.settings import Settings

KEYS_MAX = 100_000
FAILURES_BURST_S = 50.0
ADDRESS_FAILURES = "address_failures_per_s"
LIMIT_CODES = frozenset(f"limit_{name}" for name in (*Limits.model_fields, ADDRESS_FAILURES, "uploads"))
"""The `code` of every refusal by a limit."""

Clock = Callable[[], float]
Key = tuple[str, str]

_TINY_S = 1e-6


class Want(NamedTuple):
    """So much of the bucket of one key, which `rate` fills, each second."""

    key: Key
    cost: float
    rate: float


class Buckets:
    """At most `keys_max` buckets; beyond, those that were used longest ago are taken for full."""

    def __init__(self, clock: Clock, burst_s: float, keys_max: int = KEYS_MAX) -> None:
        self._clock = clock
        self._burst_s = burst_s
        self._keys_max = keys_max
        self._full_at: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, *wants: Want, look_only: bool = False) -> tuple[float, Want] | None:
        """Take all of it, or nothing: then how long to wait for the one that takes longest, and which.

        A cost above a bucket's size is taken from a full one, and owed.
        """
        now, longest = self._clock(), None
        for want in wants:
            full_in_s = max(self._full_at.get(want.key, now) - now, 0.0)
            wait_s = full_in_s + min(want.cost / want.rate, self._burst_s) - self._burst_s
            if wait_s > _TINY_S and (longest is None or wait_s > longest[0]):
                longest = wait_s, want
        if longest is None and not look_only:
            for want in wants:
                self._take(want, now)
        return longest

    def _take(self, want: Want, now: float) -> None:
        self._full_at[want.key] = max(self._full_at.get(want.key, now), now) + want.cost / want.rate
        self._full_at.move_to_end(want.key)
        if len(self._full_at) > self._keys_max:
            self._full_at.popitem(last=False)


class Limiter:
    """Lets calls in, or raises LimitExceededError. Strangers have buckets of their own and can push nobody's out."""

    def __init__(self, settings: Settings, clock: Clock = time.monotonic) -> None:
        self._defaults = settings.limits
        self._failures_per_s = settings.limit_address_failures_per_s
        self._buckets = Buckets(clock, settings.limit_burst_s)
        self._addresses = Buckets(clock, FAILURES_BURST_S)
        self._merged = lru_cache(maxsize=1024)(lambda overrides: overrides.merged(self._defaults))

    def admit(
        self, org_id: str, token_id: str, overrides: Limits | None, *, requests: int = 0, size: int = 0, rows: int = 0
    ) -> None:
        """Take all of it from the org's and the token's buckets, or nothing. `size` is in bytes."""
        limits = self.effective(overrides)
        wants: list[Want] = []
        for cost, of_org, of_token in (
            (requests, "org_requests_per_s", "token_requests_per_s"),
            (size, "org_bytes_per_s", "token_bytes_per_s"),
            (rows, "org_rows_per_s", "token_rows_per_s"),
        ):
            if cost:
                wants.append(Want((of_org, org_id), cost, getattr(limits, of_org)))
                wants.append(Want((of_token, token_id), cost, getattr(limits, of_token)))
        refused = self._buckets.take(*wants)
        if refused is not None:
            wait_s, want = refused
            raise exceeded(want.key[0], want.rate, wait_s)

    def admit_stranger(self, address: str) -> None:
        """Raises LimitExceededError while too many authentications from this address have failed."""
        self._stranger(address, look_only=True)

    def note_failure(self, address: str) -> None:
        """An authentication from this address has failed. Raises LimitExceededError when that is one too many."""
        self._stranger(address, look_only=False)

    def _stranger(self, address: str, *, look_only: bool) -> None:
        want = Want((ADDRESS_FAILURES, network_of(address)), 1, self._failures_per_s)
        refused = self._addresses.take(want, look_only=look_only)
        if refused is not None:
            raise exceeded(want.key[0], want.rate, refused[0])

    def effective(self, overrides: Limits | None) -> Limits:
        """The limits that hold for an org: all of them are set."""
        return self._defaults if overrides is None or overrides is NO_LIMITS else self._merged(overrides)


def exceeded(name: str, limit: float, wait_s: float) -> LimitExceededError:
    """The error of one limit, by its name in the settings."""
    metrics.REFUSALS.labels(f"limit_{name}").inc()
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
