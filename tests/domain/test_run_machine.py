"""No sequence of commands, duplicates, crashes and reorderings loses, doubles or contradicts a step result.

A model of the system round the decider: a log that admits one decision a version (as the real one does), tasks that
may be delivered at any time, any number of times and in any order, and workers that die between any two moments.
"""

from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from events.administration import BlueprintStep, RetryPolicy
from events.errors import StateConflictError
from events.payload import describe, encode_records
from events.processing import (
    RunCancelled,
    RunFailed,
    RunSucceeded,
    StepFailed,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from services.domain import run as runs

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAYLOAD = describe(encode_records([{}]), 1)
ENDINGS = (RunSucceeded, RunFailed, RunCancelled)


class RunMachine(RuleBasedStateMachine):
    """`self.log` maps a run to its decisions; a decision is appended at its version or not at all."""

    tasks = Bundle("tasks")
    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[str, list[list]] = {}

    def append(self, run_id: str, events: list) -> bool:
        """The log's version check."""
        history = self.log.setdefault(run_id, [])
        if not events or events[0].originator_version != len(history) + 1:
            return False
        history.append(events)
        return True

    def state(self, run_id: str, decisions: int | None = None) -> runs.RunState:
        return runs.fold(run_id, [event for decision in self.log[run_id][:decisions] for event in decision])

    @rule(target=tasks, steps=st.integers(1, 4), attempts=st.integers(1, 3))
    def submit(self, steps: int, attempts: int):
        run_id = f"run{len(self.log)}"
        plan = tuple(BlueprintStep(key=f"s{n}", retry=RetryPolicy(attempts=attempts)) for n in range(steps))
        ids = {"company_id": "c", "submission_id": "s", "blueprint_id": "b"}
        self.append(run_id, runs.submit(run_id, **ids, name=None, records=PAYLOAD, plan=plan))
        return (run_id, 1)

    @rule(target=workers, task=tasks)
    def deliver(self, task):
        """A worker takes a task; it may do so again while another is at it. It sees the history of this moment."""
        run_id, version = task
        known = 1 if version == 1 else len(self.log[run_id])
        return (run_id, version, known)

    @rule(target=tasks, worker=consumes(workers), good=st.integers(0, 4), retryable=st.none() | st.booleans())
    def record(self, worker, good: int, retryable: bool | None):
        """The worker reports `good` successes and perhaps a failure, against the state that it saw."""
        run_id, version, known = worker
        scheduled = runs.fold(run_id, self.log[run_id][version - 1]).due
        state = self.state(run_id, known)
        while scheduled is not None:
            events = runs.record(state, self.outcomes(state, scheduled, good, retryable), NOW)
            if not events:
                return multiple()
            if self.append(run_id, events):
                return (run_id, len(self.log[run_id])) if isinstance(events[-1], StepScheduled) else multiple()
            state = self.state(run_id)  # the version conflict: reload and decide again
        return multiple()

    def outcomes(self, state, scheduled, good: int, retryable: bool | None) -> list:
        first, last = scheduled.step_index, len(state.plan)
        reports: list = [
            runs.Done(index, scheduled.attempt if index == first else 1, "1", NOW, 1, PAYLOAD)
            for index in range(first, min(first + good, last))
        ]
        following = first + len(reports)
        if retryable is not None and following < last:
            attempt = scheduled.attempt if not reports else 1
            reports.append(runs.Fault(following, attempt, "x", "x", retryable))
        return reports

    @rule(worker=consumes(workers))
    def crash(self, worker):
        """The worker dies; its task will be delivered again."""

    @rule(worker=workers)
    def mark_started(self, worker):
        run_id, version, _ = worker
        scheduled = runs.fold(run_id, self.log[run_id][version - 1]).due
        if scheduled is not None:
            self.append(run_id, runs.mark_started(self.state(run_id), scheduled.step_index, scheduled.attempt, NOW))

    @rule(task=tasks)
    def cancel(self, task):
        try:
            self.append(task[0], runs.cancel(self.state(task[0]), None))
        except StateConflictError:
            assert self.state(task[0]).status in ("succeeded", "failed")

    @rule(target=tasks, task=tasks)
    def retry(self, task):
        try:
            run_id = f"run{len(self.log)}"
            self.append(run_id, runs.start_again(self.state(task[0]), run_id))
            return (run_id, 1)
        except StateConflictError:
            assert self.state(task[0]).status in ("running", "succeeded")
            return multiple()

    @invariant()
    def every_history_makes_sense(self):
        for run_id, decisions in self.log.items():
            check_history(run_id, [event for decision in decisions for event in decision])

    def teardown(self):
        """Nothing is lost: when every due task is delivered once more, every run ends."""
        for run_id in self.log:
            for _ in range(100):
                state = self.state(run_id)
                if state.due is None:
                    break
                reports = self.outcomes(state, state.due, len(state.plan), None)
                assert self.append(run_id, runs.record(state, reports, NOW))
            assert self.state(run_id).status in ("succeeded", "failed", "cancelled")


def check_history(run_id: str, events: list) -> None:
    """At most one result a step, in order; nothing after the end; a run that ended has one word on every step."""
    results = [event.step_index for event in events if isinstance(event, StepSucceeded | StepReused)]
    assert results == list(range(len(results))), f"{run_id}: results {results}"
    endings = [number for number, event in enumerate(events) if isinstance(event, ENDINGS)]
    assert len(endings) <= 1
    if endings:
        assert endings[0] == len(events) - 1, f"{run_id}: something follows the end"
        failed = [event.step_index for event in events if isinstance(event, StepFailed) and event.final]
        skipped = [event.step_index for event in events if isinstance(event, StepSkipped)]
        assert sorted(results + failed + skipped) == list(range(len(runs.fold(run_id, events).plan)))
    else:
        assert runs.fold(run_id, events).due is not None, f"{run_id} runs and waits for nothing"


TestRunMachine = RunMachine.TestCase
TestRunMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
