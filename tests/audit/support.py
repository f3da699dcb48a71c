"""Histories, and exports of them that are put together here from the definition, not by the code under test."""

from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from events import subjects
from events.administration import CompanyCreated
from events.audit.checkpoint import AuditKey, Checkpoint
from events.audit.export import FORMAT
from events.audit.merkle import leaf_hash
from events.context import Actor
from events.ids import new_id
from events.leaf import leaf_bytes
from events.mapper import encode_decision
from events.model import Decision
from tests.audit.test_merkle import naive_consistency, naive_path, naive_root

ORIGIN = "history.example"
SECRET = b64encode(bytes(range(32))).decode()
KEY = AuditKey.of(SECRET, ORIGIN)
STRANGER = AuditKey.of(b64encode(bytes(32)).decode(), ORIGIN)
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EPOCH = "epoch-1"


def an_id(number: int) -> str:
    return str(UUID(int=number))


ORG, OTHER_ORG, COMPANY, OTHER_COMPANY = (an_id(number) for number in range(1, 5))


@dataclass(frozen=True)
class Entry:
    """A decision as the archive has it."""

    position: int
    subject: str
    body: bytes
    company_id: str | None = None

    @property
    def leaf(self) -> bytes:
        return leaf_hash(leaf_bytes(self.position, self.subject, self.body))


def entry(position: int, org_id: str = ORG, name: str = "Globex", thing: int | None = None, version: int = 1) -> Entry:
    """A decision, encoded as the log has it."""
    thing_id = an_id(10_000 + (position if thing is None else thing))
    company_id = COMPANY if position % 2 else OTHER_COMPANY
    event = CompanyCreated(originator_id=thing_id, originator_version=version, name=name)
    decision = Decision(
        org_id=org_id, kind="company", aggregate_id=thing_id, version=version, routing="log.company",
        decision_id=an_id(90_000 + position), at=AT + timedelta(seconds=position),
        actor=Actor(method="api_token", user_id=an_id(7), token_id=an_id(8), role="org_admin"),
        events=(event,), company_id=company_id,
    )  # fmt: skip
    subject = subjects.decision(org_id, "company", thing_id, version, "log.company")
    return Entry(position, subject, encode_decision(decision), company_id)


def company_decision(org_id: str, company_id: str | None) -> Decision:
    """A decision to append: a company of its own, kept as one of `company_id`."""
    thing_id = new_id()
    event = CompanyCreated(originator_id=thing_id, originator_version=1, name="Globex")
    return Decision(
        org_id=org_id, kind="company", aggregate_id=thing_id, version=1, routing="log.company", decision_id=new_id(),
        at=AT, actor=Actor(method="service"), events=(event,), company_id=company_id,
    )  # fmt: skip


def history(size: int, step: int = 3, org_id: str = ORG) -> list[Entry]:
    """An org's decisions; those of others stand between them."""
    return [entry(1 + number * step, org_id) for number in range(size)]


def checkpoint(entries: list[Entry], size: int | None = None, org_id: str = ORG, key: AuditKey = KEY) -> str:
    part = entries[: len(entries) if size is None else size]
    root = naive_root([one.leaf for one in part])
    at = AT + timedelta(days=1, seconds=len(part))
    position = part[-1].position if part else 0
    return key.sign(Checkpoint(key.origin(org_id), len(part), root, position, EPOCH, at))


def texts(hashes: list[bytes]) -> list[str]:
    return [b64encode(one).decode() for one in hashes]


def line_of(index: int | None, one: Entry) -> dict[str, Any]:
    return {
        "index": index,
        "position": one.position,
        "recorded_at": "2026-03-01T12:00:00Z",
        "subject": one.subject,
        "body": one.body.decode(),
    }


def records(
    entries: list[Entry],
    chosen: list[int] | None = None,
    *,
    selection: dict[str, Any] | None = None,
    part: tuple[int, int] | None = None,
    previous: tuple[int, ...] = (),
    note: str | None = None,
) -> list[dict[str, Any]]:
    """The lines of an export: of everything, of some indexes, or of the indexes of a part."""
    leaves = [one.leaf for one in entries]
    tiles = [naive_root(leaves[at : at + 256]) for at in range(0, len(leaves), 256)]
    part = (0, len(entries)) if part is None and chosen is None else part
    found: list[dict[str, Any]] = [
        {
            "format": FORMAT,
            "org_id": ORG,
            "selection": selection or {"kind": "all"},
            "first_index": part[0] if part else None,
            "end_index": part[1] if part else None,
            "checkpoint": note or checkpoint(entries),
            "consistency": [{"size": size, "path": texts(naive_consistency(size, leaves))} for size in previous],
        }
    ]
    at = -1
    wanted = list(range(*part)) if part else chosen or []
    for index in wanted:
        if index >> 8 != at:
            at = index >> 8
            hashes = b"".join(leaves[at << 8 : (at + 1) << 8])
            found.append({"tile": at, "hashes": b64encode(hashes).decode(), "path": texts(naive_path(at, tiles))})
        found.append(line_of(index, entries[index]))
    found.append({"end": True, "decisions": len(wanted)})
    return found


def as_lines(found: list[dict[str, Any]]) -> list[bytes]:
    return [orjson.dumps(record) + b"\n" for record in found]
