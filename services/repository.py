"""Loading aggregates: a history from the log, folded by the domain; the administrative ones kept while they hold."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from nats.aio.client import Client

from events import administration as admin
from events import subjects
from events.errors import UnavailableError
from events.follow import follow
from events.log import EventLog
from events.model import Event, Recorded
from events.processing import RUN
from services.domain import administration, run
from services.domain.administration import Thing
from services.domain.run import RunState

CACHE_MAX_THINGS = 10_000
CACHE_TTL_S = 10.0
RETRY_S = 0.5
ADMINISTRATIVE = (admin.ORG, admin.COMPANY, admin.USER, admin.TOKEN, admin.BLUEPRINT, admin.STEP)


@dataclass(slots=True)
class _Kept:
    thing: Thing
    until: float


class Repository:
    """Aggregates by org, kind and id.

    `thing` answers from memory when it can: orgs, companies and blueprints are read with every submission and hardly
    ever change. `keep_fresh` follows the log and drops what a decision touched, whoever made it.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self._kept: OrderedDict[tuple[str, str, str], _Kept] = OrderedDict()
        self._generation = 0

    async def thing(self, org_id: str, kind: str, aggregate_id: str) -> Thing:
        """An administrative aggregate, perhaps from memory."""
        key = (org_id, kind, aggregate_id)
        kept = self._kept.get(key)
        if kept is not None and kept.until > time.monotonic():
            return kept.thing
        generation = self._generation
        thing = await self.fresh_thing(org_id, kind, aggregate_id)
        if thing.exists and generation == self._generation:  # else it may have changed while it was read
            self._kept[key] = _Kept(thing, time.monotonic() + CACHE_TTL_S)
            if len(self._kept) > CACHE_MAX_THINGS:
                self._kept.popitem(last=False)
        return thing

    async def fresh_thing(self, org_id: str, kind: str, aggregate_id: str) -> Thing:
        """An administrative aggregate as the log has it now."""
        return administration.fold(aggregate_id, events_of(await self.log.history(org_id, kind, aggregate_id)))

    async def run(self, org_id: str, run_id: str) -> RunState:
        """A run as the log has it now."""
        return run.fold(run_id, events_of(await self.log.history(org_id, RUN, run_id)))

    async def keep_fresh(self, connection: Client) -> None:
        """Drop from memory whatever a decision changes; runs until it is cancelled."""
        filters = [f"events.*.{kind}.>" for kind in ADMINISTRATIVE]
        start = await self._present_end()
        async for batch in follow(connection, subjects.EVENTS, filters, after=start):
            self._generation += 1
            for message in batch:
                address = subjects.Address.parse(message.subject)
                self._kept.pop((address.org_id, address.kind, address.aggregate_id), None)
            await asyncio.sleep(0)

    async def _present_end(self) -> int:
        """The log's last position, as soon as it answers."""
        while True:
            try:
                return (await self.log.state()).last_position
            except UnavailableError:
                await asyncio.sleep(RETRY_S)  # the pause between two questions


def events_of(history: Sequence[Recorded]) -> list[Event]:
    """The events of a history, in their order."""
    return [event for recorded in history for event in recorded.decision.events]
