"""The storage format of decisions: eventsourcing's Mapper, with pydantic's validation on the way back in.

A stored message is one JSON object: the envelope of the decision, and under `events` a list of
{"topic": …, "state": …}, in which `state` has `class_version` when it is above 1.

Envelope version 2 is that of a decision which is sealed for its company. `events` and `digest` are in `box`, the last
field: base64 of nonce ‖ AES-256-GCM(salt ‖ JSON), with the subject and all of the envelope before `box` as associated
data; `key` is the generation of the company's key, and `sealed` SHA-256(salt ‖ JSON). With `packed` in the envelope,
what was encrypted is the Zstandard frame of salt ‖ JSON. Whoever is given salt and JSON can check them against the log;
once the key is destroyed, the 32 random bytes of salt are gone too: no guess can be tried.
"""

import base64
import os
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Any, cast

import orjson
from eventsourcing.persistence import Mapper, StoredEvent, Transcoder
from eventsourcing.utils import TopicError, get_topic, resolve_topic
from pydantic import ValidationError

from events import administration, entities, processing, strictjson
from events.context import Actor
from events.errors import PoisonedMessageError
from events.keyring import Keyring
from events.keys import CompanyKeys, Owner
from events.model import STATE_FIELDS_EXCLUDED, Decision, Event
from events.packing import pack, unpack
from events.subjects import BOX, SALT_BYTES, SEALED_PREFIX, Address

ENVELOPE_VERSION = 1
SEALED_VERSION = 2
PACKED = "zstd"

_WRONG_SHAPE = (ValueError, KeyError, TypeError, AttributeError)

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


def encode_decision(decision: Decision, subject: str = "", keys: CompanyKeys | None = None) -> bytes:
    """The message body of a decision; sealed for `subject` when there are keys."""
    events = [{"topic": event.TOPIC, "state": MAPPER.dump_state(event)} for event in decision.events]
    if keys is None:
        return orjson.dumps({**_envelope(decision, ENVELOPE_VERSION), "digest": decision.digest, "events": events})
    generation, key = keys.current
    plaintext = os.urandom(SALT_BYTES) + orjson.dumps({"digest": decision.digest, "events": events})
    sealed = {"digest": None, "key": generation, "sealed": sha256(plaintext).hexdigest()}
    if packed := pack(plaintext):
        sealed["packed"] = PACKED
    head = orjson.dumps({**_envelope(decision, SEALED_VERSION), **sealed})[:-1]
    box = base64.b64encode(key.seal(packed or plaintext, _context(subject, head)))
    return b"".join((head, BOX, box, b'"}'))


def _envelope(decision: Decision, version: int) -> dict[str, Any]:
    return {
        "v": version,
        "id": decision.decision_id,
        "at": decision.at.isoformat(),
        "actor": decision.actor.model_dump(mode="json", exclude_none=True),
        "company": decision.company_id,
        "cause": decision.causation_id,
        "correlation": decision.correlation_id,
        "request": decision.request_id,
    }


def decode_decision(subject: str, body: bytes, keyring: Keyring | None = None) -> Decision:
    """The decision stored under `subject`. The keyring has what a sealed one needs (`Keyring.load`).

    Raises PoisonedMessageError when today's code cannot read it, KeyMissingError when a key is not at hand.
    """
    try:
        return _decision(subject, *open_body(subject, body, keyring))
    except _WRONG_SHAPE as error:
        raise PoisonedMessageError(f"The message at {subject} is not a decision: {error!r}") from error


def decode_opened(subject: str, body: bytes, opening: bytes) -> Decision:
    """The decision sealed in `body`, by the salt and the JSON that somebody was given in the place of a key.

    Raises PoisonedMessageError, also when that is not what was sealed.
    """
    try:
        return _decision(subject, *_inside(subject, _head(body)[0], opening))
    except _WRONG_SHAPE as error:
        raise PoisonedMessageError(f"The message at {subject} is not a sealed decision: {error!r}") from error


def _decision(subject: str, envelope: dict[str, Any], stored: list[dict[str, Any]] | None) -> Decision:
    address = Address.parse(subject)
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
            for item in stored or ()
        ),
        erased=stored is None,
    )


def decision_id_of(body: bytes) -> str:
    """The id of the decision in a message; of a message that is none, its digest. Never fails, and needs no key."""
    try:
        return str(strictjson.loads(body)["id"])
    except (ValueError, LookupError, TypeError):
        return f"sha256:{sha256(body).hexdigest()}"


def open_body(
    subject: str, body: bytes, keyring: Keyring | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]] | None]:
    """The envelope of a decision and its stored events; no events when their key is destroyed.

    Raises PoisonedMessageError, KeyMissingError, ValueError, KeyError, TypeError.
    """
    if not body.startswith(SEALED_PREFIX):
        envelope = orjson.loads(body)
        if envelope["v"] != ENVELOPE_VERSION:
            raise PoisonedMessageError(f"The message at {subject} has the unknown envelope version {envelope['v']!r}.")
        return envelope, envelope["events"]
    envelope, head, box = _head(body)
    opening = _opening(subject, envelope, head, box, keyring)
    return (envelope, None) if opening is None else _inside(subject, envelope, opening)


def opening_of(subject: str, body: bytes, keyring: Keyring | None = None) -> bytes | None:
    """Salt ‖ JSON of a sealed decision, whose SHA-256 is in its envelope (`sealed`); None when its key is destroyed.

    Whoever is given them can read that decision, and check that it is what was sealed. Raises PoisonedMessageError,
    KeyMissingError.
    """
    try:
        return _opening(subject, *_head(body), keyring)
    except _WRONG_SHAPE as error:
        raise PoisonedMessageError(f"What is sealed at {subject} cannot be opened: {error!r}") from error


def _opening(subject: str, envelope: dict[str, Any], head: bytes, box: bytes, keyring: Keyring | None) -> bytes | None:
    keys = (keyring or Keyring()).held(Owner(Address.parse(subject).org_id, envelope["company"]))
    if keys.erased:
        return None
    sealed = base64.b64decode(box[:-2], validate=True)
    opening = keys.generation(envelope["key"]).open(sealed, _context(subject, head))
    if "packed" not in envelope:
        return opening
    if envelope["packed"] != PACKED:
        raise PoisonedMessageError(f"What is sealed at {subject} is packed in the unknown way {envelope['packed']!r}.")
    return unpack(opening)


def _head(body: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Of a sealed decision the envelope, its bytes before the box, and the box."""
    head, _, box = body.rpartition(BOX)
    return orjson.loads(head + b"}"), head, box


def _inside(subject: str, envelope: dict[str, Any], opening: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if sha256(opening).hexdigest() != envelope["sealed"]:
        raise PoisonedMessageError(f"What is sealed at {subject} is not what its envelope says.")
    inside = orjson.loads(opening[SALT_BYTES:])
    return {**envelope, "digest": inside["digest"]}, inside["events"]


def _context(subject: str, head: bytes) -> bytes:
    return subject.encode() + b"\n" + head
