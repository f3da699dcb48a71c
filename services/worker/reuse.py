"""Whether an earlier step result stands for an execution: same step, version, config and input, same company.

A large batch is looked up in the memo. Of a small one only further runs of its submission are looked up, in the history
of the first: executing it costs less than writing it down would.
"""

from typing import Any

from events.errors import PoisonedMessageError
from events.ids import first_run_id
from events.log import EventLog
from events.payload import Payload
from events.processing import RUN, StepReused
from services.domain import run as runs
from services.domain.outcome import Done, Reuse
from services.domain.run import RunState
from services.repository import events_of
from services.steps.base import Step
from services.worker.memo import Memo, memo_key


class Reuser:
    """Finds results that may be used again, and keeps those that may be."""

    def __init__(self, log: EventLog, memo: Memo) -> None:
        self._log = log
        self._memo = memo

    async def of_batch(
        self, org_id: str, state: RunState, index: int, attempt: int, step: Step[Any], inputs: list[str]
    ) -> Reuse | None:
        """The result of a large batch's step. Raises UnavailableError."""
        if step.has_effects or not state.reuse_results:
            return None
        entry = await self._memo.find(org_id, state.company_id, memo_key(step, _config(state, index), inputs))
        if entry is None:
            return None
        rejects = entry["rejects"]
        return Reuse(
            index,
            attempt,
            step.version,
            entry["run_id"],
            Payload.model_validate(entry["output"]),
            None if rejects is None else Payload.model_validate(rejects),
            entry["report"],
        )

    async def keep(self, org_id: str, state: RunState, step: Step[Any], inputs: list[str], done: Done) -> None:
        """Let the result of a large batch's step be found again."""
        if step.has_effects:
            return
        entry = {
            "run_id": state.run_id,
            "output": done.output.model_dump(mode="json"),
            "rejects": None if done.rejects is None else done.rejects.model_dump(mode="json"),
            "report": done.report,
        }
        key = memo_key(step, _config(state, done.step_index), inputs)
        await self._memo.keep(org_id, state.company_id, key, entry)

    async def first_run(self, org_id: str, state: RunState) -> RunState | None:
        """The submission's first run, for a further one that may use its results; None for any other run."""
        first = first_run_id(state.submission_id)
        if state.run_id == first or not state.reuse_results:
            return None
        try:
            return runs.fold(first, events_of(await self._log.history(org_id, RUN, first)))
        except PoisonedMessageError:
            return None  # that run's history is for somebody else to mend; this one executes

    def of_records(
        self, earlier: RunState, state: RunState, index: int, attempt: int, step: Step[Any], source: Payload
    ) -> Reuse | None:
        """The result of a small batch's step, from the submission's first run."""
        if step.has_effects or index >= len(earlier.results):
            return None
        result, planned = earlier.results[index], earlier.plan[index]
        if (result.step_version, result.input_digest) != (step.version, source.digest):
            return None
        if (planned.key, planned.config) != (step.key, _config(state, index)):
            return None
        from_run_id = result.from_run_id if isinstance(result, StepReused) else earlier.run_id
        return Reuse(index, attempt, step.version, from_run_id, result.output, result.rejects, result.report)


def _config(state: RunState, index: int) -> dict[str, Any]:
    return dict(state.plan[index].config)
