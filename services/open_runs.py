"""Which lane a run starts in: quick while its org has few runs open, and in the bulk queues when it has more.

The count is a heuristic and no fact: each command service counts the runs that it starts itself, a restart begins at
none, and a wrong lane costs time and nothing else.
"""

from nats.aio.client import Client

from events import subjects
from events.follow import follow
from events.subjects import BULK, QUICK, Lane

QUICK_RUNS = 8
"""Open runs of an org that are served at once."""
COUNTED_MAX = 256
"""Open runs of an org that are remembered; more than enough to know that they are many."""


class OpenRuns:
    """The runs of each org that were started here and have not ended, as far as is remembered."""

    def __init__(self, quick_runs: int = QUICK_RUNS, counted_max: int = COUNTED_MAX) -> None:
        self._quick_runs = quick_runs
        self._counted_max = counted_max
        self._open: dict[str, set[str]] = {}

    def start(self, org_id: str, run_id: str) -> Lane:
        """Count a run that is about to start; the lane of its tasks."""
        mine = self._open.setdefault(org_id, set())
        lane = QUICK if len(mine) < self._quick_runs else BULK
        if len(mine) < self._counted_max:
            mine.add(run_id)
        return lane

    def end(self, org_id: str, run_id: str) -> None:
        """A run has ended, or did not start after all."""
        mine = self._open.get(org_id)
        if mine is not None:
            mine.discard(run_id)
            if not mine:
                del self._open[org_id]

    async def follow_ends(self, connection: Client, after: int) -> None:
        """Hear of every run's end after a position; runs until it is cancelled."""
        ends = follow(connection, subjects.EVENTS, [subjects.RUN_ENDS], after, headers_only=True)
        async for batch in ends:
            for message in batch:
                address = subjects.Address.parse(message.subject)
                self.end(address.org_id, address.aggregate_id)
