"""A stretch of the log as the projections take it: decoded once, sorted by kind of aggregate."""

import gc
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from events import subjects
from events.errors import DataEngineError, PoisonedMessageError
from events.follow import Followed
from events.keyring import Keyring
from events.keys import Owner
from events.mapper import decision_id_of, decode_decision
from events.model import Recorded
from events.processing import RUN

# Thousands of events live for one batch and hold no cycles; at Python's default (700, 10, 10) looking for some took a
# third of the time of a rebuild.
COLLECT_AFTER = (20_000, 50, 100)

# What our own code raises on data that it was not made for. Neither connection trouble nor a cancellation is in it.
DATA_FAULTS = (DataEngineError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message that is no decision to today's code. `kind` is None when its subject tells none."""

    position: int
    kind: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Erasure:
    """The position at which a company was erased."""

    position: int
    owner: Owner


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive messages. `decisions` are by kind, in order; `decision_id` is that of the last message.

    What was decided for a company after its erasure is in none of them, whether or not its key was still there.
    """

    messages: Sequence[Followed]
    decision_id: str
    decisions: dict[str, list[Recorded]]
    undecodable: list[Undecodable]
    erasures: list[Erasure] = field(default_factory=list)

    @property
    def first_position(self) -> int:
        """The position of the first message."""
        return self.messages[0].position

    @property
    def last_position(self) -> int:
        """The position of the last message."""
        return self.messages[-1].position

    def subject_at(self, position: int) -> str:
        """The subject of the message at a position, which must be in the batch."""
        return next(message.subject for message in self.messages if message.position == position)

    def decisions_after(self, kind: str, position: int) -> Sequence[Recorded]:
        """The decisions of a kind beyond a position."""
        found = self.decisions.get(kind, [])
        if position < self.first_position:
            return found
        return [recorded for recorded in found if recorded.position > position]

    def erasures_after(self, position: int) -> list[Owner]:
        """The companies that were erased beyond a position."""
        return [erasure.owner for erasure in self.erasures if erasure.position > position]

    def ended_runs(self) -> list[str]:
        """The ids of the runs that ended in the batch."""
        return [
            recorded.decision.aggregate_id
            for recorded in self.decisions.get(RUN, ())
            if subjects.is_end(recorded.decision.routing)
        ]

    def holds(self, kinds: Iterable[str]) -> bool:
        """Whether there is a decision of one of these kinds."""
        return any(kind in self.decisions for kind in kinds)

    def count_events(self) -> dict[str, int]:
        """How many events there are, by kind of aggregate."""
        return {
            kind: sum(len(recorded.decision.events) for recorded in decisions)
            for kind, decisions in self.decisions.items()
        }


@contextmanager
def rarer_collections() -> Iterator[None]:
    """Let Python's cycle collector run less often meanwhile, in the whole process."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def opened(messages: Sequence[Followed], keyring: Keyring, kinds: Container[str] | None = None) -> Batch:
    """Decode messages with the keys that they need. Raises UnavailableError when these cannot be had."""
    await keyring.load((message.subject, message.body) for message in messages)
    return decode(messages, kinds, keyring)


def decode(messages: Sequence[Followed], kinds: Container[str] | None = None, keyring: Keyring | None = None) -> Batch:
    """Decode 1..n messages of the log, or those of these kinds. What cannot be decoded is set aside, nothing raised."""
    decisions: defaultdict[str, list[Recorded]] = defaultdict(list)
    undecodable: list[Undecodable] = []
    erasures: list[Erasure] = []
    for message in messages:
        if (erased := subjects.erased_company(message.subject)) is not None:
            erasures.append(Erasure(message.position, Owner(*erased)))
            if keyring is not None:
                keyring.forget(Owner(*erased))
        if kinds is not None and _kind_of(message) not in kinds:
            continue
        try:
            decision = decode_decision(message.subject, message.body, keyring)
        except DATA_FAULTS as error:
            undecodable.append(_undecodable(message, error))
        else:
            decisions[decision.kind].append(Recorded(message.position, decision))
    return Batch(messages, decision_id_of(messages[-1].body), dict(decisions), undecodable, erasures)


def _kind_of(message: Followed) -> str | None:
    try:
        return subjects.Address.parse(message.subject).kind
    except ValueError:
        return None


def _undecodable(message: Followed, error: Exception) -> Undecodable:
    kind = _kind_of(message)
    reason = error.message if isinstance(error, PoisonedMessageError) else repr(error)
    return Undecodable(message.position, kind, reason)
