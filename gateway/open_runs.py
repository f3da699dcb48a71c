"""How many runs an org has open: read from the read models, which all gateways share, and kept for about a second.

What this gateway opened since is added: each reading says which position it has seen, and a run of a later one
counts beside it. So the limit holds exactly for one gateway, and for several within what they open in a second.
"""

import asyncio
import math
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from types import TracebackType

from events.commands import Accepted
from events.errors import RejectedError, UnavailableError
from events.limits import Limits
from events.logging import get_logger
from gateway.limits import Clock, exceeded
from projections.queries import work
from projections.queries.reader import Reader, Scope

FRESH_S = 1.0
STALE_S = 5.0
"""So old a reading may let a run in while another is under way, if it leaves more than half of the room."""
FULL_S = 0.2
"""So long a refusal needs no further reading."""
UNKNOWN_S = 60.0
"""So long a run counts of which it is not known whether it began: its command was deferred, or got no answer."""
RETRY_AFTER_S = 1
ORGS_MAX = 10_000

_logger = get_logger("gateway")


@dataclass(slots=True)
class _Opened:
    user_id: str
    until: float
    position: int | None = None


@dataclass(slots=True)
class _Org:
    """What is known of one org: the last reading, and what was opened after it, by run."""

    scope: Scope
    read_at: float = -math.inf
    full_until: float = -math.inf
    position: int = -1
    runs: int = 0
    of_user: Counter[str] = field(default_factory=Counter)
    opened: dict[str, _Opened] = field(default_factory=dict)
    opened_of_user: Counter[str] = field(default_factory=Counter)
    reading: asyncio.Task[None] | None = None

    def met(self, user_id: str, limits: Limits, share: float = 1.0) -> tuple[str, int] | None:
        """The limit that one more run would break, and its value; with `share`, of so much of the limits."""
        of_org, of_user = limits.org_open_runs or 0, limits.user_open_runs or 0
        if self.runs + len(self.opened) >= of_org * share:
            return "org_open_runs", of_org
        if self.of_user[user_id] + self.opened_of_user[user_id] >= of_user * share:
            return "user_open_runs", of_user
        return None

    def forget(self, run_id: str) -> None:
        """The run does not count here any more."""
        opened = self.opened.pop(run_id, None)
        if opened is not None:
            self.opened_of_user[opened.user_id] -= 1
            if not self.opened_of_user[opened.user_id]:
                del self.opened_of_user[opened.user_id]


class Opening:
    """A run that was let in and counts from now on. `settle` it, and leave it with what became of its command."""

    def __init__(self, org: _Org | None = None, run_id: str = "") -> None:
        self._org = org
        self._run_id = run_id

    def settle(self, outcome: object) -> None:
        """The command's outcome: once the read models have its position, they count the run."""
        opened = self._org.opened.get(self._run_id) if self._org is not None else None
        if opened is not None and isinstance(outcome, Accepted):
            opened.position = outcome.position
            if self._org is not None and outcome.position <= self._org.position:
                self._org.forget(self._run_id)

    def __enter__(self) -> "Opening":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._org is not None and isinstance(error, RejectedError):
            self._org.forget(self._run_id)


class OpenRuns:
    """Lets runs in while their org and their user have room for them."""

    def __init__(self, reader: Reader, clock: Clock = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._orgs: OrderedDict[str, _Org] = OrderedDict()

    async def admit(self, org_id: str, user_id: str, limits: Limits, run_id: str, *, repeatable: bool) -> Opening:
        """Count a run that is about to be opened. Raises LimitExceededError.

        A command that is repeated opens nothing, and is let in whatever the count.
        """
        org = self._org(org_id)
        if run_id in org.opened:
            return Opening()
        age_s = self._clock() - org.read_at
        if age_s > STALE_S or (age_s > FRESH_S and org.met(user_id, limits, share=0.5)):
            await self._read(org, limits)
        elif age_s > FRESH_S:
            self._begin_reading(org, limits)
        # Twice, because a reading that was under way may be older than the end of a run that the caller knows of.
        for _ in range(2):
            if org.met(user_id, limits) and org.full_until <= self._clock():
                await self._read(org, limits)
        met = org.met(user_id, limits)
        if met is not None:
            return await self._refuse(org, run_id, met, repeatable=repeatable)
        org.opened[run_id] = _Opened(user_id, self._clock() + UNKNOWN_S)
        org.opened_of_user[user_id] += 1
        return Opening(org, run_id)

    async def _refuse(self, org: _Org, run_id: str, met: tuple[str, int], *, repeatable: bool) -> Opening:
        if org.full_until <= self._clock():
            org.full_until = self._clock() + FULL_S
        if repeatable and await work.run_exists(self._reader, org.scope, run_id):
            return Opening()
        raise exceeded(*met, RETRY_AFTER_S)

    def _org(self, org_id: str) -> _Org:
        org = self._orgs.get(org_id)
        if org is None:
            org = self._orgs[org_id] = _Org(Scope(org_id))
        self._orgs.move_to_end(org_id)
        if len(self._orgs) > ORGS_MAX:
            self._orgs.popitem(last=False)
        return org

    def _begin_reading(self, org: _Org, limits: Limits) -> "asyncio.Task[None]":
        """The reading that is under way, for all who ask meanwhile."""
        if org.reading is None or org.reading.done():
            org.reading = asyncio.create_task(self._reading(org, limits))
        return org.reading

    async def _read(self, org: _Org, limits: Limits) -> None:
        await asyncio.shield(self._begin_reading(org, limits))

    async def _reading(self, org: _Org, limits: Limits) -> None:
        """Read what the read models say now. If they do not answer, what was known and what is opened here holds."""
        try:
            position, of_user = await work.open_runs(self._reader, org.scope, (limits.org_open_runs or 0) + 1)
        except UnavailableError as error:
            _logger.warning("open_runs_unknown", org_id=org.scope.org_id, error=error.message)
            org.read_at = self._clock()
            return
        org.position, org.of_user, org.runs = position, Counter(of_user), sum(of_user.values())
        now = org.read_at = self._clock()
        for run_id, opened in list(org.opened.items()):
            if opened.until < now if opened.position is None else opened.position <= position:
                org.forget(run_id)
