"""What a step reads besides its input: the outputs of earlier runs, and its org's key."""

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

from events.errors import PoisonedMessageError
from events.log import EventLog
from events.payload import Payload
from events.processing import RUN
from services.domain import run as runs
from services.repository import events_of
from services.steps.base import StepError


async def outputs_of(log: EventLog, org_id: str, company_id: str, run_ids: Sequence[str]) -> dict[str, Payload]:
    """The output of each of these runs of the company. Raises StepError `unknown_run`, UnavailableError.

    A run of another company is no more known than one that does not exist.
    """
    outputs = {}
    for run_id in dict.fromkeys(run_ids):
        try:
            state = runs.fold(run_id, events_of(await log.history(org_id, RUN, run_id)))
        except PoisonedMessageError as error:
            raise StepError(f"The run {run_id} cannot be read: {error.message}", code="unknown_run") from error
        if state.status != "succeeded" or state.company_id != company_id:
            raise StepError(f"There is no run {run_id} of this company that has succeeded.", code="unknown_run")
        outputs[run_id] = state.results[-1].output
    return outputs


class TenantKeys:
    """A key for each org, derived from the platform's: nobody who has one can tell another."""

    def __init__(self, platform_key: str | None) -> None:
        self._platform_key = platform_key

    def of(self, org_id: str) -> bytes:
        """The org's key, 32 bytes (HMAC-SHA-256, RFC 2104); none where the operator has set no key."""
        if not self._platform_key:
            return b""
        return hmac.new(self._platform_key.encode(), f"tenant {org_id}".encode(), sha256).digest()


def inputs_of(source: Payload, references: Mapping[str, Payload], tenant_key: bytes) -> list[str]:
    """Digests of all that a step's output follows from, but for its version and its config."""
    return [source.digest, *context_digests(references, tenant_key)]


def context_digests(references: Mapping[str, Payload], tenant_key: bytes) -> list[str]:
    """Those of what it reads besides its batch; of the key only what tells it from another."""
    digests = [payload.digest for payload in references.values()]
    return [*digests, sha256(b"digest of " + tenant_key).hexdigest()] if tenant_key else digests
