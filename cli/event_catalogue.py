"""The catalogue of events as docs/events.md shows it, made from the event models."""

from inspect import cleandoc
from typing import Any

from pydantic.fields import FieldInfo

from events.mapper import CATALOGUE, ENVELOPE_VERSION, PACKED, SEALED_VERSION
from events.model import STATE_FIELDS_EXCLUDED, Event

HEAD = f"""# Events

Made by `dex events catalog`, which is `dex docs events`; a test holds it to the code. A message of the log is one
decision: its subject is
`events.<org>.<kind>.<id>.<version>.<class>.<detail>`, its body the envelope below with 1..n events. An event of class
version N that is read by later code is upcast to today's version; the topic never changes.

## Envelope (version {ENVELOPE_VERSION})

| field | what |
|---|---|
| `v` | the envelope's version |
| `id` | the decision's id; that of the command, where a command decided |
| `at` | when it was decided (RFC 3339, UTC) |
| `actor` | who: `method`, and where they are known `user_id`, `token_id`, `role` |
| `company` | the company that it belongs to, or null |
| `cause` | the command or decision that caused it |
| `correlation` | the submission that it belongs to, or null |
| `request` | the HTTP request's id, or null |
| `digest` | SHA-256 of the command's body, or null |
| `events` | a list of `topic` and `state`; `state.class_version` where it is above 1 |

## Envelope (version {SEALED_VERSION}): sealed for its company

As version {ENVELOPE_VERSION}, with `digest` null, and in the place of `events`:

| field | what |
|---|---|
| `key` | the generation of the company's key |
| `sealed` | SHA-256 (hex) of the plaintext: 32 random bytes, then the JSON object of `digest` and `events` |
| `packed` | `{PACKED}` when what was encrypted is the plaintext's Zstandard frame; else absent |
| `box` | the last field, base64: a nonce of 12 bytes, then AES-256-GCM |

The associated data of the encryption: the subject, a line feed, and all bytes of the body before `,"box"`.
"""


def event_catalogue() -> str:
    """The catalogue, as Markdown."""
    return "\n".join([HEAD, *(_section(kind) for kind in CATALOGUE)])


def _section(kind: type[Event]) -> str:
    fields = _fields(kind)
    lines = [f"## `{kind.TOPIC}` (version {kind.class_version})", "", _about(kind), "", _history(kind), ""]
    if fields:
        lines += ["| field | type | |", "|---|---|---|"]
        lines += [f"| `{name}` | `{_type_of(field)}` | {_optional(field)} |" for name, field in fields]
        lines.append("")
    return "\n".join(lines)


def event_facts() -> list[dict[str, Any]]:
    """The same as plain JSON types: topic, version, `since` (release by version), what changed, and the fields."""
    return [
        {
            "topic": kind.TOPIC,
            "version": kind.class_version,
            "since": {str(version): release for version, release in enumerate(kind.SINCE, 1)},
            "changes": {str(version): _change(kind, version) for version in range(2, kind.class_version + 1)},
            "about": _about(kind),
            "fields": [
                {"name": name, "type": _type_of(field).replace("\\|", "|"), "required": field.is_required()}
                for name, field in _fields(kind)
            ],
        }
        for kind in CATALOGUE
    ]


def _fields(kind: type[Event]) -> list[tuple[str, FieldInfo]]:
    return [(name, field) for name, field in kind.model_fields.items() if name not in STATE_FIELDS_EXCLUDED]


def _about(kind: type[Event]) -> str:
    return (kind.__doc__ or "").strip()


def _history(kind: type[Event]) -> str:
    """Since when there is each version, and how the one before it is read."""
    later = (
        f"Version {version} since {kind.SINCE[version - 1]}: {_change(kind, version)}"
        for version in range(2, kind.class_version + 1)
    )
    return "\n".join([f"Since {kind.SINCE[0]}.", *later])


def _change(kind: type[Event], version: int) -> str:
    return cleandoc(getattr(kind, f"upcast_v{version - 1}_v{version}").__doc__)


def _type_of(field: FieldInfo) -> str:
    annotation = field.annotation
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    for prefix in (
        "typing.",
        "datetime.",
        "events.payload.",
        "events.administration.",
        "events.entities.",
        "events.context.",
        "events.processing.",
    ):
        text = text.replace(prefix, "")
    return text.replace("|", "\\|")


def _optional(field: FieldInfo) -> str:
    return "" if field.is_required() else f"default {field.default!r}"
