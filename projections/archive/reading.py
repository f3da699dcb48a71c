"""Following the whole log: what only the archive has comes first, then the hot log, without a seam."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

from nats.aio.client import Client

from events import subjects
from events.archive import Archive, Archived
from events.errors import LogRewoundError
from events.follow import Followed, follow
from events.log import EventLog, LogState
from projections.log_guard import RECOVERY

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def follow_whole(
    archive: Archive,
    connection: Client,
    after: int,
    max_batch: int = 1000,
    before_open: Callable[[int], Awaitable[None]] | None = None,
    more_follows: Callable[[str], bool] | None = None,
    *,
    accept_log: bool = False,
) -> AsyncIterator[list[Followed]]:
    """As `follow`, of all decisions.

    Raises LogRewoundError when the hot log begins later and the archive has not what is before it; with `accept_log`
    what the hot log has is taken for all there is. Raises UnavailableError when the archive does not answer.
    """
    state = await EventLog(connection).state()
    if after + 1 < state.first_position and await _reaches(archive, state, accept_log=accept_log):
        while after + 1 < state.first_position:
            page = await archive.read(after, state.first_position - 1, max_batch)
            if not page or page[0].position != after + 1 or page[-1].position != after + len(page):
                raise LogRewoundError(f"The archive has a hole after position {after}. {RECOVERY}", position=after + 1)
            yield [followed(message, state.last_position) for message in page]
            after = page[-1].position
    async for batch in follow(
        connection, subjects.EVENTS, ["events.>"], after, max_batch, before_open=before_open, more_follows=more_follows
    ):
        yield batch


async def _reaches(archive: Archive, state: LogState, *, accept_log: bool) -> bool:
    """Whether the archive is of this log and goes up to where the hot log begins."""
    head = await archive.head()
    if head.epoch == state.epoch and head.position >= state.first_position - 1:
        return True
    if accept_log:
        return False
    raise LogRewoundError(
        f"The log begins at position {state.first_position}, and the archive ends at {head.position} of the log "
        f"{head.epoch or '(none)'!r}; this one is {state.epoch!r}. {RECOVERY}",
        position=state.first_position,
    )


def followed(message: Archived, last_position: int) -> Followed:
    """An archived message as a follower of the log gets it."""
    return Followed(
        message.position,
        message.subject,
        message.body,
        max(0, last_position - message.position),
        (message.recorded_at - _EPOCH) // timedelta(microseconds=1) * 1000,
    )
