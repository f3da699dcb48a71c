"""The names on NATS: streams, subjects, and the routing tokens that let the server itself source TASKS and RESULTS.

A decision is published to `events.<org>.<kind>.<id>.<version>.<class>.<detail>`; class `due` makes it a task, class
`bulk` a task of an org that has many of them open, class `end` an ending that waiters and subscribers care for, class
`check` the ending of a verification, which waiters alone care for, class `log` neither.
"""

from dataclasses import dataclass
from typing import Literal

EVENTS = "EVENTS"
COMMANDS = "COMMANDS"
TASKS = "TASKS"
BULK_TASKS = "BULK_TASKS"
BLOBS = "BLOBS"
MEMO = "MEMO"
DEAD_LETTERS = "DEAD_LETTERS"
KEYS = "KEYS"

PROJECTED = "signals.projected"
"""Published by the projector after each commit; a hint that wakes waiters, never a fact."""

ARCHIVED = "signals.archived"
"""Published by the archiver after each commit, with the position; a hint too."""

ERASED = "signals.erased"
"""Published by the command service, with org and company, when a key was destroyed; a hint: keys are kept briefly."""

PROVED = "signals.proved"
"""Published by the archiver when the orgs' trees have reached a position; a hint too."""

SIGN_REPORT = "audit.sign"
"""A gateway asks the archiver to sign the report of a verification (events.verification)."""

ANNOUNCE = "steps.announce"
"""A step worker in another language tells which step it serves (docs/protocol.md)."""

PREVIEW = "preview.ask"
"""A gateway asks any one worker to run a few rows through some steps (events.preview)."""

Lane = Literal["due", "bulk"]
"""How a step's task is taken: at once, or in turn with the tasks of others who have many. Only routing, no meaning."""
QUICK: Lane = "due"
BULK: Lane = "bulk"

ERASED_ROUTING = "log.erased"
"""The routing of the one decision of a company that is never sealed: that it is erased."""

SEALED_PREFIX = b'{"v":2,'
"""How the body of a sealed decision begins, and of no other (events/mapper.py)."""
BOX = b',"box":"'
"""Where the sealed part of a decision begins in its body: the last field (events/mapper.py)."""
SALT_BYTES = 32
"""What is sealed begins with so much salt; with less or more, another text could be read out of the same bytes."""

BULK_BUCKETS = 8
"""The server deals orgs out to so many queues of BULK_TASKS (`partition` in its source's transform)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a decision stands in the log, read from its subject."""

    org_id: str
    kind: str
    aggregate_id: str
    version: int
    routing: str

    @classmethod
    def parse(cls, subject: str) -> "Address":
        """Raises ValueError when `subject` is not that of a decision."""
        _, org_id, kind, aggregate_id, version, routing = subject.split(".", 5)
        return cls(org_id, kind, aggregate_id, int(version), routing)


def decision(org_id: str, kind: str, aggregate_id: str, version: int, routing: str) -> str:
    """The subject that a decision is published to; `routing` has exactly two tokens."""
    return f"events.{org_id}.{kind}.{aggregate_id}.{version}.{routing}"


def version_filter(org_id: str, kind: str, aggregate_id: str, version: int) -> str:
    """Matches every decision that could hold this version: the UNIQUE(id, version) of the log (design rule 2)."""
    return f"events.{org_id}.{kind}.{aggregate_id}.{version}.*.*"


def history(org_id: str, kind: str, aggregate_id: str) -> str:
    """Matches the whole history of one aggregate."""
    return f"events.{org_id}.{kind}.{aggregate_id}.>"


def blob(org_id: str, digest: str) -> str:
    """Where a blob of an org is kept; the tenant is in the key, so orgs never share one."""
    return f"blobs.{org_id}.{digest}"


ERASURES = f"events.*.company.*.*.{ERASED_ROUTING}"
"""Matches every decision that erased a company."""


def keys(org_id: str, company_id: str) -> str:
    """Where the wrapped keys of a company are kept."""
    return f"keys.{org_id}.{company_id}"


def erased_company(subject: str) -> tuple[str, str] | None:
    """The org and the company that the decision at a subject erased; None for any other decision."""
    if not subject.endswith(f".{ERASED_ROUTING}"):
        return None
    _, org_id, kind, company_id, *_ = subject.split(".")
    return (org_id, company_id) if kind == "company" else None


def memo(org_id: str, company_id: str, key: str) -> str:
    """Where a company's result is kept under what it follows from."""
    return f"memo.{org_id}.{company_id}.{key}"


def task_filter(step_key: str) -> str:
    """The tasks of one step, as TASKS receives them from the log: `tasks.<step>.<org>.<run>.<version>`."""
    return f"tasks.{step_key}.>"


def bulk_filter(step_key: str, bucket: int) -> str:
    """The tasks of one step in one queue of BULK_TASKS: `bulk.<bucket>.<step>.<org>.<run>.<version>`."""
    return f"bulk.{bucket}.{step_key}.>"


def remote_step(step_key: str) -> str:
    """Where a worker in another language is asked for a step."""
    return f"steps.remote.{step_key}"


def chunk_offer(step_key: str) -> str:
    """Where a worker offers chunks of a large batch to other workers that serve the step."""
    return f"chunks.offer.{step_key}"


def lane_of(routing: str) -> Lane:
    """The lane that a decision's task is in; quick for what is no task."""
    return BULK if routing.startswith(f"{BULK}.") else QUICK


def is_task(routing: str) -> bool:
    """Whether a decision made a step due."""
    return routing.startswith((f"{QUICK}.", f"{BULK}."))


def is_end(routing: str) -> bool:
    """Whether a decision ended a run."""
    return routing.startswith(("end.", "check."))


def scheduled_by(task_subject: str) -> str:
    """The subject, in the log, of the decision that a task was sourced from. Raises ValueError."""
    lane, *tokens = task_subject.split(".")
    if lane == "tasks":
        step_key, org_id, run_id, version = tokens
        return decision(org_id, "run", run_id, int(version), f"{QUICK}.{step_key}")
    if lane != "bulk":
        raise ValueError(f"{task_subject} is not the subject of a task.")
    _, step_key, org_id, run_id, version = tokens
    return decision(org_id, "run", run_id, int(version), f"{BULK}.{step_key}")


def ask(name: str) -> str:
    """A command that is asked of whoever listens now, and not stored."""
    return f"ask.{name}"


def deferred(org_id: str, name: str) -> str:
    """A command that no service answered, kept in COMMANDS until one does."""
    return f"commands.{org_id}.{name}"
