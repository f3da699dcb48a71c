"""What a step reads besides its input: the outputs of earlier runs, the company's entity sets, and its org's key."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from events.errors import PoisonedMessageError
from events.log import EventLog
from events.payload import Payload
from events.processing import RUN
from services.domain import run as runs
from services.domain.entities import EntitySetState
from services.repository import events_of
from services.steps.base import StepError
from services.worker.entity_sets import is_entity_set, known_set


@dataclass(frozen=True, slots=True)
class References:
    """What a step reads besides its input, by name; None: there is nothing yet. `sets` are those that it may change."""

    payloads: dict[str, Payload | None]
    sets: dict[str, EntitySetState]


async def references_of(
    log: EventLog, org_id: str, company_id: str, names: Sequence[str], entities_version: int | None = None
) -> References:
    """What these names stand for: the output of the company's run of that id, or its entity set (`entities:<name>`).

    With `entities_version` the set is taken as it was then (0: before there was one).
    Raises StepError `unknown_run`, UnavailableError. A run of another company is no more known than one that does not
    exist.
    """
    found = References({}, {})
    for name in dict.fromkeys(names):
        if is_entity_set(name):
            found.sets[name] = await known_set(log, org_id, company_id, name, entities_version)
            found.payloads[name] = found.sets[name].snapshot
        else:
            found.payloads[name] = await _output_of(log, org_id, company_id, name)
    return found


async def _output_of(log: EventLog, org_id: str, company_id: str, run_id: str) -> Payload:
    try:
        state = runs.fold(run_id, events_of(await log.history(org_id, RUN, run_id)))
    except PoisonedMessageError as error:
        raise StepError(f"The run {run_id} cannot be read: {error.message}", code="unknown_run") from error
    if state.status != "succeeded" or state.company_id != company_id:
        raise StepError(f"There is no run {run_id} of this company that has succeeded.", code="unknown_run")
    return state.results[-1].output


class TenantKeys:
    """A key for each org, derived from the platform's: nobody who has one can tell another."""

    def __init__(self, platform_key: str | None) -> None:
        self._platform_key = platform_key

    def of(self, org_id: str) -> bytes:
        """The org's key, 32 bytes (HMAC-SHA-256, RFC 2104); none where the operator has set no key."""
        if not self._platform_key:
            return b""
        return hmac.new(self._platform_key.encode(), f"tenant {org_id}".encode(), sha256).digest()


def inputs_of(source: Payload, references: Mapping[str, Payload | None], tenant_key: bytes) -> list[str]:
    """Digests of all that a step's output follows from, but for its version and its config."""
    return [source.digest, *context_digests(references, tenant_key)]


def context_digests(references: Mapping[str, Payload | None], tenant_key: bytes) -> list[str]:
    """Those of what it reads besides its batch; of the key only what tells it from another."""
    digests = ["nothing" if payload is None else payload.digest for payload in references.values()]
    return [*digests, key_mark(tenant_key)] if tenant_key else digests


def key_mark(tenant_key: bytes) -> str:
    """What tells an org's key from another, and does not tell the key; empty where there is none."""
    return sha256(b"digest of " + tenant_key).hexdigest() if tenant_key else ""
