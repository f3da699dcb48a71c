"""Answers that go on: lines of JSON as the log grows, a few streams of an org at the same time."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from events.errors import LimitExceededError

RETRY_AFTER_S = 5.0
MEDIA_TYPE = "application/x-ndjson"


class Streams:
    """The streams under way in this process, by org: each one holds a page of the log in memory."""

    def __init__(self, per_org_max: int) -> None:
        self._per_org_max = per_org_max
        self._under_way: Counter[str] = Counter()

    def open(self, org_id: str) -> Callable[[], None]:
        """Take a place; call what is returned, once, to leave it. Raises LimitExceededError."""
        if self._under_way[org_id] >= self._per_org_max:
            raise LimitExceededError(
                f"The org reads {self._per_org_max} streams already, the most at the same time.",
                code="limit_streams",
                limit=self._per_org_max,
                retry_after_s=RETRY_AFTER_S,
            )
        self._under_way[org_id] += 1

        def leave() -> None:
            self._under_way[org_id] -= 1
            if not self._under_way[org_id]:
                del self._under_way[org_id]

        return leave

    def under_way(self, org_id: str) -> int:
        """How many streams of the org there are now."""
        return self._under_way[org_id]


class LineStream(StreamingResponse):
    """Lines of JSON, written as they are made. However it ends, the lines' maker is closed, and the place is left.

    The next line is made when the one before it went out, so a slow reader holds up its own stream alone, until the
    server cuts it off (`http_send_timeout_s`).
    """

    def __init__(self, lines: AsyncGenerator[bytes, None], leave: Callable[[], None]) -> None:
        super().__init__(lines, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._lines = lines
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()
            await self._lines.aclose()
