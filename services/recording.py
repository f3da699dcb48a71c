"""From a command and what was decided to a decision of the log, and back to the command's answer."""

from collections.abc import Sequence
from datetime import UTC, datetime

from events.commands import Accepted, Command
from events.log import Appended, check_same_body
from events.model import Decision, Event, Recorded


def decision_of(
    command: Command,
    kind: str,
    events: Sequence[Event],
    routing: str,
    company_id: str | None,
    correlation_id: str | None,
) -> Decision:
    """The decision that a command leads to: it carries the command's id and the digest of its body."""
    return Decision(
        org_id=command.org_id,
        kind=kind,
        aggregate_id=events[0].originator_id,
        version=events[0].originator_version,
        routing=routing,
        decision_id=command.command_id,
        at=datetime.now(UTC),
        actor=command.actor,
        events=tuple(events),
        company_id=company_id,
        causation_id=command.command_id,
        correlation_id=correlation_id,
        request_id=command.request_id,
        digest=command.digest,
    )


def answered_in(history: Sequence[Recorded], command: Command) -> Accepted | None:
    """The first answer to this command, when the history holds its decision."""
    for recorded in history:
        if recorded.decision.decision_id == command.command_id:
            check_same_body(recorded.decision, command.digest)
            return Accepted(position=recorded.position, repeated=True)
    return None


def accepted(appended: Appended) -> Accepted:
    """The answer to a command whose decision is recorded."""
    return Accepted(position=appended.position, repeated=appended.repeated)
