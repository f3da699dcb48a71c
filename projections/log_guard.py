"""Whether the log is still the one that the read models followed (design rule 13).

Looked at when a follower begins, after each of its reconnections, and while nothing comes. In between, a consumer
belongs to one life of the stream, and its messages have no gap.
"""

import base64
from collections.abc import Collection

import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.errors import LogRewoundError, UnavailableError
from events.log import EventLog, LogState
from events.mapper import decision_id_of
from projections.checkpoints import Checkpoint

REQUEST_TIMEOUT_S = 5.0
_NO_MESSAGE = 10037

RECOVERY = (
    "Find out who changed it. `dex log check` compares it with its archive, `dex log restore` makes either anew from "
    "the other. To take the log as it is, build the read models from it: dex rebuild --accept-log"
)


class LogGuard:
    """Compares checkpoints with the log."""

    def __init__(self, connection: Client) -> None:
        self._nc = connection
        self._log = EventLog(connection)

    async def state(self) -> LogState:
        """The epoch and the bounds of the log. Raises UnavailableError."""
        return await self._log.state()

    async def verify(self, checkpoints: Collection[Checkpoint]) -> LogState:
        """The log's state, when every checkpoint was made on this log; else raises LogRewoundError."""
        state = await self.state()
        if state.faults:
            raise LogRewoundError(
                f"The stream {subjects.EVENTS} was reconfigured: {'; '.join(state.faults)}. Set it right by hand, and "
                "look what was lost meanwhile: dex log check",
                settings=list(state.faults),
            )
        ids: dict[int, str] = {}
        for checkpoint in checkpoints:
            position = checkpoint.position
            if max(1, state.first_position) <= position <= state.last_position and position not in ids:
                ids[position] = await self.decision_id_at(position)
            if fault := fault_of(state, ids.get(position, ""), checkpoint):
                raise LogRewoundError(f"{fault} {RECOVERY}", projection=checkpoint.name, position=position)
        await self._must_go_on(state, min((checkpoint.position for checkpoint in checkpoints), default=0))
        return state

    async def _must_go_on(self, state: LogState, after: int) -> None:
        """Raises LogRewoundError when the log has nothing where a follower goes on, though it is longer.

        A consumer would wait there for ever, as for a last message whose bytes were altered.
        """
        following = max(after, state.trimmed_to, state.first_position - 1) + 1
        if following <= state.last_position and not await self.decision_id_at(following):
            raise LogRewoundError(
                f"The log has a hole: position {following} cannot be read, and it ends at {state.last_position}. "
                f"{RECOVERY}",
                position=following,
            )

    async def decision_id_at(self, position: int) -> str:
        """The id of the decision at a position, as `decision_id_of` gives it; "" when there is none.

        Asked of the stream's leader: a replica that answers direct gets may be behind, which would look like a loss.
        """
        request = strictjson.dumps({"seq": position})
        try:
            answer = await self._nc.request(
                f"$JS.API.STREAM.MSG.GET.{subjects.EVENTS}", request, timeout=REQUEST_TIMEOUT_S
            )
        except nats.errors.Error as error:
            raise UnavailableError("The event log does not answer.") from error
        found = strictjson.loads(answer.data)
        if "error" not in found:
            return decision_id_of(base64.b64decode(found["message"].get("data", "")))
        if found["error"].get("err_code") == _NO_MESSAGE:
            return ""
        raise UnavailableError(f"The event log cannot be read: {found['error'].get('description')}")


def fault_of(state: LogState, found_id: str, checkpoint: Checkpoint) -> str | None:
    """How the log differs from the one that the checkpoint was made on, as a sentence; None when it does not.

    `found_id` is the id of the decision that the log has at the checkpoint's position.
    """
    name, position = checkpoint.name, checkpoint.position
    if position and checkpoint.epoch != state.epoch:
        return (
            f"The log was made anew: {name} followed the log {checkpoint.epoch!r}, "
            f"this one is {state.epoch!r}, made at {state.created}."
        )
    if position > state.last_position:
        return f"The log was cut: {name} is at position {position}, and the log ends at {state.last_position}."
    if state.first_position > state.trimmed_to + 1 and state.first_position > 1:
        return (
            f"The log lost its beginning: it begins at {state.first_position}, and dex log trim has announced "
            f"{state.trimmed_to or 'nothing'}. {name} is at position {position}."
        )
    if position >= max(1, state.first_position) and found_id != checkpoint.decision_id:
        return (
            f"The log was rewound and written again: at position {position} {name} saw the decision "
            f"{checkpoint.decision_id or '(none)'}, the log has {found_id or '(none)'}."
        )
    return None
