"""The log as one history: what the hot log still has, and what only the archive has, by the same positions.

The hot log may be trimmed (`dex log trim`). Where it begins is announced in the stream's metadata a lease before a
decision vanishes, and everybody who reads or appends here looks at it at least once in a lease. So nobody takes a
decision that was trimmed for one that never was. At the same look, and after each reconnection, one who appends sees
whether the log is still the one that he knew (design rule 13); and one who begins, whether it is the one that was
archived.
"""

import asyncio
import math
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from nats.aio.client import Client

from events import subjects
from events.archive import PAGE_ROWS, Archive, Archived
from events.context import PLATFORM_ORG
from events.errors import ConfigurationError, LogRewoundError, PoisonedMessageError, UnavailableError
from events.keyring import Keyring
from events.log import APPEND_ATTEMPTS, PAGE_MESSAGES, Appended, EventLog, LogState, appended_before
from events.logging import get_logger
from events.mapper import decode_decision
from events.model import Decision, Recorded

LEASE_S = 5.0
"""So long the beginning of the hot log is believed to be where it was; `dex log trim` waits for longer."""
LOOK_AGAIN_S = 1.0
"""So soon a log that is not the one that it was is looked at again."""
COMPARE_WITHIN_S, COMPARE_AGAIN_S = 2.0, 60.0
"""So long the archive is waited for by one who begins, and after so long it is asked again: he can do without."""
REMEMBERED_MAX = 20_000

OpenArchive = Callable[[str], Awaitable[Archive]]
"""Gives the archive, as far as an org's decisions are in it."""

_Key = tuple[str, str, str]

_logger = get_logger("log")


@dataclass(frozen=True, slots=True)
class Known:
    """The log as one who appends knows it: its epoch, when the stream was made, how far it went, and the last decision
    that he recorded in it.
    """

    epoch: str = ""
    created: str = ""
    last_position: int = 0
    appended: int = 0
    decision_id: str = ""

    def with_state(self, state: LogState) -> "Known":
        """After a look at it. Of a stream that was made anew, what he recorded in the earlier one tells nothing."""
        known = self if self.created in ("", state.created) else replace(self, appended=0, decision_id="")
        last_position = max(self.last_position, state.last_position)
        return replace(known, epoch=state.epoch, created=state.created, last_position=last_position)

    def with_appended(self, position: int, decision_id: str) -> "Known":
        """After a decision was recorded, or found recorded."""
        if position <= self.appended:
            return self
        return replace(
            self, last_position=max(self.last_position, position), appended=position, decision_id=decision_id
        )


class WholeLog(EventLog):
    """The event log with its archive behind it. Without a trimmed position the archive is never asked.

    Raises UnavailableError, beside what EventLog raises, when the archive is needed and cannot be read; and with the
    code `log_rewound` when the log was cut, made anew or reconfigured since this one knows it. Of what was before, one
    who `compares` knows by the archive: else an older copy would be taken for the log by all who began on it.
    """

    def __init__(
        self,
        connection: Client,
        open_archive: OpenArchive | None = None,
        *,
        compares: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(connection)
        self._open_archive = open_archive
        self._compare_from_s = 0.0 if compares and open_archive is not None else math.inf
        self._now_s = now_s
        self._trimmed_to = 0
        self._believed_until_s = -1.0
        self._reconnections = 0
        self._known = Known()
        self._rewound: str | None = None
        self._looking = asyncio.Lock()
        self._seen: OrderedDict[_Key, int] = OrderedDict()  # the position of the last version that was seen

    async def append(self, decision: Decision) -> Appended:
        """As EventLog's, for a hot log that may have been trimmed: a version that only the archive has is held too."""
        await self._must_be_known()
        if await self._may_be_held_by_the_archive(decision):
            archive = await self._archive(decision.org_id)
            holder = await archive.holder(*self._key(decision), decision.version)
            if holder is not None:
                return appended_before(decision, holder)
        appended = await super().append(decision)
        self._known = self._known.with_appended(appended.position, decision.decision_id)
        self._remember(self._key(decision), appended.position)
        return appended

    async def history(self, org_id: str, kind: str, aggregate_id: str) -> list[Recorded]:
        """All decisions of one aggregate, by version, wherever they are."""
        await self._must_be_known()
        hot = await super().history(org_id, kind, aggregate_id)
        if hot:
            self._remember((org_id, kind, aggregate_id), hot[-1].position)
        begins_at_first = bool(hot) and hot[0].decision.version == 1 and aggregate_id != "*"
        if begins_at_first or not await self.trimmed_to():
            return hot
        archived = await (await self._archive(org_id)).history(org_id, kind, aggregate_id)
        both = {recorded.position: recorded for recorded in (*archived, *hot)}
        return sorted(both.values(), key=lambda recorded: recorded.decision.version)

    async def holder(self, org_id: str, kind: str, aggregate_id: str, version: int) -> Recorded | None:
        """The decision that holds a version of an aggregate, wherever it is."""
        await self._must_be_known()
        found = await super().holder(org_id, kind, aggregate_id, version)
        if found is None and await self.trimmed_to():
            found = await (await self._archive(org_id)).holder(org_id, kind, aggregate_id, version)
        return found

    async def read(self, after: int, subject_filter: str = "events.>", limit: int = 0) -> AsyncIterator[Recorded]:
        """As EventLog's; the filter is that of all decisions, or of an org's (`events.<org>.>`)."""
        org_id = _org_of(subject_filter)
        remaining = limit or sys.maxsize
        while remaining > 0:
            trimmed_to = await self.trimmed_to()
            if after < trimmed_to:
                archive = await self._archive(org_id or "")
                asked = min(PAGE_ROWS, remaining)
                stored = await archive.read(after, trimmed_to, asked, org_id=org_id)
                await self._keyring.load((message.subject, message.body) for message in stored)
                page = [decoded(message, self._keyring) for message in stored]
                after = trimmed_to if len(page) < asked else page[-1].position
            else:
                asked = min(PAGE_MESSAGES, remaining)
                page = [recorded async for recorded in super().read(after, subject_filter, asked)]
                if len(page) < asked:
                    remaining = len(page)  # the log's end
                after = page[-1].position if page else after
            for recorded in page:
                yield recorded
            remaining -= len(page)

    async def trimmed_erasures(self) -> AsyncIterator[Archived]:
        """The decisions that erased companies, of which the hot log may have only those that follow."""
        after, until = 0, await self.trimmed_to()
        while after < until:
            page = await (await self._archive(PLATFORM_ORG)).erasures(after, until)
            for message in page:
                yield message
            after = page[-1].position if len(page) == PAGE_ROWS else until

    async def trimmed_to(self) -> int:
        """Up to which position the hot log may have been trimmed; 0 when it is whole. Raises UnavailableError."""
        if self._must_look():
            async with self._looking:
                if self._must_look():
                    await self._look()
        return self._trimmed_to

    async def _must_be_known(self) -> None:
        """What is missing in a log that was rewound must not be taken for what never was, nor be decided again."""
        await self.trimmed_to()
        if self._rewound is not None:
            raise UnavailableError(self._rewound, code=LogRewoundError.code)

    def _must_look(self) -> bool:
        return self._believed_until_s <= self._now_s() or self._nc.stats["reconnects"] != self._reconnections

    async def _look(self) -> None:
        asked_s, reconnections = self._now_s(), self._nc.stats["reconnects"]
        archived = await self._archived() if self._compare_from_s <= asked_s else None
        known = self._known if archived is None else archived
        state = await self.state()  # later than the archive, which is behind the log
        self._trimmed_to = max(state.trimmed_to, state.first_position - 1)
        self._rewound = rewound(known, state, await self._id_at(known.appended, state))
        if self._rewound is None:
            self._known = known.with_state(state)
            if archived is not None:
                self._compare_from_s = math.inf
        self._reconnections = reconnections
        self._believed_until_s = asked_s + (LEASE_S if self._rewound is None else LOOK_AGAIN_S)

    async def _archived(self) -> Known | None:
        """The log as it was archived, and as it was seen here since; None when the archive cannot be read now."""
        try:
            async with asyncio.timeout(COMPARE_WITHIN_S):
                archive = await self._archive(PLATFORM_ORG)
                head = await archive.head()
                last_id = await archive.last_id(head)
        except (TimeoutError, UnavailableError, ConfigurationError) as error:
            _logger.warning("log_not_compared_with_archive", error=repr(error), again_s=COMPARE_AGAIN_S)
            self._compare_from_s = self._now_s() + COMPARE_AGAIN_S
            return None
        if not last_id or head.position <= self._known.appended:
            return self._known
        last_position = max(head.position, self._known.last_position)
        return Known(head.epoch, self._known.created, last_position, head.position, last_id)

    async def _id_at(self, position: int, state: LogState) -> str:
        """The id of the decision at a position that was appended; "" when the log cannot have it, or not as one."""
        if not max(1, state.first_position) <= position <= state.last_position:
            return ""
        for attempt in range(APPEND_ATTEMPTS):
            if found_id := await self.id_at(position):
                return found_id
            await asyncio.sleep(0.02 * 2**attempt)  # backoff: a replica that is behind is asked again
        return ""

    async def _may_be_held_by_the_archive(self, decision: Decision) -> bool:
        """Not when the hot log is whole, nor when it has the version before this one: what follows it is there too."""
        trimmed_to = await self.trimmed_to()
        if not trimmed_to:
            return False
        if decision.version == 1:
            return True
        if self._seen.get(self._key(decision), 0) > trimmed_to:
            return False
        before = await EventLog.holder(self, *self._key(decision), decision.version - 1)
        return before is None

    async def _archive(self, org_id: str) -> Archive:
        if self._open_archive is None:
            raise UnavailableError(
                "The log was trimmed, and this process has no login to read the archive with: give it a database URL "
                "(dex database roles)."
            )
        return (await self._open_archive(org_id)).with_keys(self._keyring)

    def _remember(self, key: _Key, position: int) -> None:
        self._seen[key] = position
        self._seen.move_to_end(key)
        if len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)


def rewound(known: Known, state: LogState, found_id: str) -> str | None:
    """How the log is not the one that was known; None when it is. `found_id` is what it has where `known` appended."""
    if state.faults:
        what = f"The stream {subjects.EVENTS} was reconfigured: {'; '.join(state.faults)}."
    elif known.epoch and known.epoch != state.epoch:
        what = f"The log was made anew: it was {known.epoch!r}, and is {state.epoch!r}, made at {state.created}."
    elif state.last_position < known.last_position:
        what = f"The log was cut: it had positions up to {known.last_position}, and ends at {state.last_position}."
    elif (
        known.created in ("", state.created)  # another one with this epoch is what `dex log restore log` has made
        and known.appended >= max(1, state.first_position)
        and found_id != known.decision_id
    ):
        what = (
            f"The log was rewound and written again: at position {known.appended} the decision {known.decision_id} was "
            f"recorded, and there is {found_id or '(none)'} now."
        )
    else:
        return None
    return f"{what} Nothing is recorded until the operator has restored it (dex log check, dex log restore log)."


def _org_of(subject_filter: str) -> str | None:
    """The org that a filter is of; None: all. Raises ValueError for a filter that the archive cannot be read by."""
    if subject_filter == "events.>":
        return None
    _, org_id, rest = subject_filter.split(".", 2)
    if rest != ">" or org_id in ("*", PLATFORM_ORG):
        raise ValueError(f"the whole log is read by org, and not by {subject_filter!r}")
    return org_id


def decoded(message: Archived, keyring: Keyring) -> Recorded:
    """The decision that a message is; its key is at hand (`Keyring.load`). Raises PoisonedMessageError."""
    position = message.position
    try:
        return Recorded(position, decode_decision(message.subject, message.body, keyring), message.recorded_at)
    except PoisonedMessageError as error:
        raise PoisonedMessageError(f"Position {position}: {error.message}", position=position) from error
