"""The storage format of decisions: eventsourcing's Mapper, with pydantic's validation on the way back in.

A stored message is one JSON object: the envelope of the decision, and under `events` a list of
{"topic": …, "state": …}, in which `state` has `class_version` when it is above 1.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import orjson
from eventsourcing.persistence import Mapper, StoredEvent, Transcoder
from eventsourcing.utils import TopicError, get_topic, resolve_topic
from pydantic import ValidationError

from events import administration, entities, processing
from events.context import Actor
from events.errors import PoisonedMessageError
from events.model import STATE_FIELDS_EXCLUDED, Decision, Event
from events.subjects import Address

ENVELOPE_VERSION = 1

CATALOGUE: tuple[type[Event], ...] = tuple(
    kind
    for module in (administration, processing, entities)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
)
"""Every event class; importing this module registers their topics."""


class OrjsonTranscoder(Transcoder):
    """Encodes the plain JSON types that a pydantic model dumps to."""

    def encode(self, obj: Any) -> bytes:
        """Compact UTF-8 JSON."""
        return orjson.dumps(obj)

    def decode(self, data: bytes) -> Any:
        """The inverse of `encode`."""
        return orjson.loads(data)


class EventMapper(Mapper[str]):
    """Converts events to stored events and back; unlike the stock mapper it never builds an unvalidated event."""

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """The stored form of an Event."""
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=get_topic(type(domain_event)),
            state=self._seal(self.transcoder.encode(self.dump_state(domain_event))),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """The event, upcast to today's version and validated. Raises PoisonedMessageError."""
        state = self.transcoder.decode(self._open(stored_event.state))
        return self.load_state(
            stored_event.topic, state, str(stored_event.originator_id), stored_event.originator_version
        )

    def dump_state(self, event: Event) -> dict[str, Any]:
        """The event's fields as plain JSON types, with the class version where it is above 1."""
        state = event.model_dump(mode="json", exclude=cast(set[str], STATE_FIELDS_EXCLUDED))
        if event.class_version > 1:
            state["class_version"] = event.class_version
        return state

    def load_state(self, topic: str, state: dict[str, Any], originator_id: str, originator_version: int) -> Event:
        """The inverse of `dump_state`: upcasts, then validates. Raises PoisonedMessageError."""
        try:
            kind: type[Event] = resolve_topic(topic)
        except TopicError as error:
            raise PoisonedMessageError(f"The log holds an event of the unknown topic {topic!r}.") from error
        stored_version = state.pop("class_version", 1)
        for version in range(stored_version, kind.class_version):
            upcast: Callable[[dict[str, Any]], None] = getattr(kind, f"upcast_v{version}_v{version + 1}")
            upcast(state)
        try:
            return kind(originator_id=originator_id, originator_version=originator_version, **state)
        except (ValidationError, TypeError) as error:
            raise PoisonedMessageError(f"A stored {topic!r} event does not fit its model: {error}") from error

    def _seal(self, data: bytes) -> bytes:
        data = self.compressor.compress(data) if self.compressor else data
        return self.cipher.encrypt(data) if self.cipher else data

    def _open(self, data: bytes) -> bytes:
        data = self.cipher.decrypt(data) if self.cipher else data
        return self.compressor.decompress(data) if self.compressor else data


MAPPER = EventMapper(OrjsonTranscoder())


def encode_decision(decision: Decision) -> bytes:
    """The message body of a decision."""
    return orjson.dumps(
        {
            "v": ENVELOPE_VERSION,
            "id": decision.decision_id,
            "at": decision.at.isoformat(),
            "actor": decision.actor.model_dump(mode="json", exclude_none=True),
            "company": decision.company_id,
            "cause": decision.causation_id,
            "correlation": decision.correlation_id,
            "request": decision.request_id,
            "digest": decision.digest,
            "events": [{"topic": event.TOPIC, "state": MAPPER.dump_state(event)} for event in decision.events],
        }
    )


def decode_decision(subject: str, body: bytes) -> Decision:
    """The decision stored under `subject`. Raises PoisonedMessageError when today's code cannot read it."""
    try:
        address = Address.parse(subject)
        envelope = orjson.loads(body)
        if envelope["v"] != ENVELOPE_VERSION:
            raise PoisonedMessageError(f"The message at {subject} has the unknown envelope version {envelope['v']!r}.")
        return Decision(
            org_id=address.org_id,
            kind=address.kind,
            aggregate_id=address.aggregate_id,
            version=address.version,
            routing=address.routing,
            decision_id=envelope["id"],
            at=datetime.fromisoformat(envelope["at"]),
            actor=Actor(**envelope["actor"]),
            company_id=envelope["company"],
            causation_id=envelope["cause"],
            correlation_id=envelope["correlation"],
            request_id=envelope["request"],
            digest=envelope["digest"],
            events=tuple(
                MAPPER.load_state(item["topic"], item["state"], address.aggregate_id, address.version)
                for item in envelope["events"]
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PoisonedMessageError(f"The message at {subject} is not a decision: {error!r}") from error
