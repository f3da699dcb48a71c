"""Which lane a run starts in: quick while its org has few runs open, and in the bulk queues when it has more.

The count is a heuristic and no fact: each command service counts the runs that it starts itself and hears of their ends
by the projector's hint, which may be lost; a restart begins at none. A wrong lane costs time and nothing else.
"""

import time
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg

from events import strictjson, subjects
from events.logging import get_logger
from events.subjects import BULK, QUICK, Lane

QUICK_RUNS = 8
"""Open runs of an org that are served at once."""
COUNTED_MAX = 256
"""Open runs of an org that are remembered; more than enough to know that they are many."""
REMEMBERED_S = 600.0
"""A run that is open for longer counts no more: its end may have been missed."""

_logger = get_logger("open_runs")


class OpenRuns:
    """The runs of each org that were started here and have not ended, as far as is remembered."""

    def __init__(
        self,
        quick_runs: int = QUICK_RUNS,
        counted_max: int = COUNTED_MAX,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quick_runs = quick_runs
        self._counted_max = counted_max
        self._now_s = now_s
        self._open: dict[str, dict[str, float]] = {}  # org: run: since when
        self._orgs: dict[str, str] = {}  # run: org

    def start(self, org_id: str, run_id: str) -> Lane:
        """Count a run that is about to start; the lane of its tasks."""
        mine, now_s = self._open.setdefault(org_id, {}), self._now_s()
        for forgotten in [run for run, since_s in mine.items() if since_s < now_s - REMEMBERED_S]:
            del mine[forgotten], self._orgs[forgotten]
        lane = QUICK if len(mine) < self._quick_runs else BULK
        if len(mine) < self._counted_max:
            mine[run_id] = now_s
            self._orgs[run_id] = org_id
        return lane

    def end(self, run_id: str) -> None:
        """A run has ended, or did not start after all."""
        org_id = self._orgs.pop(run_id, None)
        if org_id is not None:
            mine = self._open[org_id]
            del mine[run_id]
            if not mine:
                del self._open[org_id]

    async def listen(self, connection: Client) -> None:
        """Hear of runs' ends from now on."""
        await connection.subscribe(subjects.PROJECTED, cb=self._on_projected)

    async def _on_projected(self, message: Msg) -> None:
        try:
            ended = list(strictjson.loads(message.data)["ended"])
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("signal_not_understood", error=repr(error))
            return
        for run_id in ended:
            self.end(run_id)
