"""The closed vocabulary of what can become of a stored message, and the one place that settles it with the server.

Handlers return an outcome and never acknowledge. What fails beyond repair goes to DEAD_LETTERS with its reason before
it is taken from its stream: nothing is lost, nothing is redelivered for ever (design rule 12).
"""

from dataclasses import dataclass

from nats.aio.client import Client
from nats.aio.msg import Msg

from events import metrics, subjects
from events.errors import UnavailableError
from events.logging import get_logger

DELIVERIES_MAX = 8
BACKOFF_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0, 60.0)

_logger = get_logger("settle")


@dataclass(frozen=True, slots=True)
class Done:
    """It is dealt with: recorded, or no longer wanted."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Not now: deliver it again after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Broken:
    """It cannot be dealt with by this code, ever."""

    reason: str


Outcome = Done | RetryAfter | Broken


def after_failure(deliveries: int, error: BaseException) -> Outcome:
    """What an unexpected error means: again with growing delay, and beyond repair after DELIVERIES_MAX deliveries."""
    _logger.warning("handler_failed", deliveries=deliveries, error=repr(error), exc_info=error)
    if deliveries >= DELIVERIES_MAX and not isinstance(error, UnavailableError):
        return Broken(f"failed {deliveries} times, at last with {error!r}"[:2000])
    return RetryAfter(BACKOFF_S[min(deliveries, len(BACKOFF_S)) - 1])


async def settle(connection: Client, message: Msg, outcome: Outcome) -> None:
    """Tell the server. A lost word here means a redelivery, which every handler bears."""
    match outcome:
        case Done():
            await message.ack()
        case RetryAfter(delay_s=delay_s):
            await message.nak(delay=delay_s)
        case Broken(reason=reason):
            headers = {"Reason": reason.replace("\n", " "), "Subject": message.subject}
            await connection.jetstream().publish(f"dead.{message.subject}", message.data, headers=headers)
            await message.ack()
            metrics.DEAD_LETTERS.labels("task" if message.subject.startswith("tasks.") else "command").inc()
            _logger.error("dead_letter", subject=message.subject, reason=reason, stream=subjects.DEAD_LETTERS)


def deliveries_of(message: Msg) -> int:
    """How many times the server has delivered this message, this one included."""
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
    return int(message.reply.rsplit(".", 5)[1])
