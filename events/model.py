"""What every event is: an eventsourcing domain event with an explicit topic and class version, as a pydantic model.

Events are a storage format (design rule 7). A released event class is never changed in place: raise `class_version`,
add its release to `SINCE`, and add `upcast_vN_vM(state)`, a static method that turns a stored state of version N into
one of version M, and whose docstring says what changed: the catalogue shows it. tests/events/golden has a recorded
history of every version of every event; `token.created` is an example.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from eventsourcing.utils import register_topic
from pydantic import BaseModel, ConfigDict

from events.context import Actor
from events.subjects import Address

STATE_FIELDS_EXCLUDED = frozenset({"originator_id", "originator_version"})


class Event(BaseModel):
    """One fact about one aggregate. `originator_version` is that of the decision which the event is part of."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    TOPIC: ClassVar[str]
    class_version: ClassVar[int] = 1
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    """The release that each class version, from the first on, came with; as CHANGELOG.md has them."""

    originator_id: str
    originator_version: int

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "TOPIC" in cls.__dict__:
            register_topic(cls.TOPIC, cls)


@dataclass(frozen=True, slots=True)
class Decision:
    """1..n events of one aggregate, recorded as one message: atomic, one flush, one position (design rule 1).

    `routing` is the two last tokens of its subject. `decision_id` is the command's id where a command decided, so
    that a repeat is recognised; `digest` is that of the command's body. `erased`: it was sealed for a company whose key
    is destroyed, and neither its events nor its digest can be known any more.
    """

    org_id: str
    kind: str
    aggregate_id: str
    version: int
    routing: str
    decision_id: str
    at: datetime
    actor: Actor
    events: tuple[Event, ...]
    company_id: str | None = None
    causation_id: str | None = None
    correlation_id: str | None = None
    request_id: str | None = None
    digest: str | None = None
    erased: bool = False

    @property
    def address(self) -> Address:
        """Where the decision stands in the log."""
        return Address(self.org_id, self.kind, self.aggregate_id, self.version, self.routing)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A decision and its position in the log (the stream's sequence), from 1; `recorded_at` is the stream's own time.

    When it was recorded is None where whoever read it does not tell; it is no part of what was decided.
    """

    position: int
    decision: Decision
    recorded_at: datetime | None = field(default=None, compare=False)
