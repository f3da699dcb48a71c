"""A row of the archive, made from a message of the log. Never fails: whatever the log holds is archived."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from events import strictjson, subjects
from events.follow import Followed
from events.ids import is_id
from events.leaf import leaf_bytes, next_chain
from events.mapper import decision_id_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BIGINT_MAX = 2**63 - 1

COLUMNS: Mapping[str, str] = {
    "position": "bigint", "recorded_at": "timestamptz", "subject": "text", "body": "bytea", "decision_id": "text",
    "chain": "bytea", "org_id": "uuid", "kind": "text", "aggregate_id": "text", "version": "bigint",
    "company_id": "uuid", "correlation_id": "text", "causation_id": "text", "user_id": "uuid",
    "decided_at": "timestamptz",
}  # fmt: skip
"""The columns of `event_log` and their types, in the order of a row."""

Row = tuple[Any, ...]


def rows_of(messages: Sequence[Followed], chain: bytes) -> tuple[list[Row], bytes]:
    """The rows of consecutive messages, and the chain after the last; `chain` is that before the first."""
    rows = []
    for message in messages:
        chain = next_chain(chain, leaf_bytes(message.position, message.subject, message.body))
        rows.append(_row(message, chain))
    return rows, chain


def _row(message: Followed, chain: bytes) -> Row:
    told = derived(message.subject, message.body)
    return (
        message.position,
        _EPOCH + timedelta(microseconds=message.recorded_ns // 1000),
        message.subject,
        message.body,
        told[0],
        chain,
        *told[1:],
    )


def derived(subject: str, body: bytes) -> Row:
    """What a row's other columns say, ids as texts: the decision's id, and all those after `chain`."""
    try:
        envelope = strictjson.loads(body)
    except ValueError:
        envelope = None
    if not isinstance(envelope, dict):
        return decision_id_of(body), *_of_subject(subject), None, None, None, None, None
    actor = envelope.get("actor")
    return (
        _text(str(envelope["id"])) or "" if "id" in envelope else decision_id_of(body),
        *_of_subject(subject),
        _uuid(envelope.get("company")),
        _text(envelope.get("correlation")),
        _text(envelope.get("cause")),
        _uuid(actor.get("user_id")) if isinstance(actor, dict) else None,
        _time(envelope.get("at")),
    )


def _of_subject(subject: str) -> tuple[str | None, str | None, str | None, int | None]:
    """Org (None for the platform's own), kind, id and version; nothing of what is no decision's subject."""
    try:
        address = subjects.Address.parse(subject)
    except ValueError:
        return None, None, None, None
    version = address.version if 0 <= address.version <= _BIGINT_MAX else None
    return _uuid(address.org_id), address.kind, address.aggregate_id, version


def _uuid(value: object) -> str | None:
    """One of our ids, as Postgres takes it for a uuid."""
    return value if isinstance(value, str) and is_id(value) else None


def _text(value: object) -> str | None:
    """A text as Postgres can hold it: without NUL."""
    return value if isinstance(value, str) and "\0" not in value else None


def _time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None
