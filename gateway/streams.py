"""Answers that go on: lines that are made while they go out, of the log as it grows or of an export."""

from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

MEDIA_TYPE = "application/x-ndjson"


class LineStream(StreamingResponse):
    """Lines of JSON, written as they are made. However it ends, the lines' maker is closed and the place is left.

    The next line is made when the one before it went out, so a slow reader holds up its own stream alone, until the
    server cuts it off (`http_send_timeout_s`).
    """

    def __init__(
        self,
        lines: AsyncGenerator[bytes, None],
        leave: Callable[[], None],
        media_type: str = MEDIA_TYPE,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        unbuffered = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(lines, media_type=media_type, headers={**unbuffered, **(headers or {})})
        self._lines = lines
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()
            await self._lines.aclose()
