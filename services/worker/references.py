"""The outputs of earlier runs that a step reads besides its input."""

from collections.abc import Sequence

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
