"""What a command, a task and a step leave behind: fields on log entries, measurements, spans. Few lines at each place.

Not FastStream's middlewares for Prometheus and OpenTelemetry: they take a message's subject for a label and a span's
name, and ours have the org's and the run's id in them; they end a task's span when it is admitted, not when it is
done; and they know nothing of appends, which go past FastStream.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from nats.aio.msg import Msg

from events import logging, metrics, tracing
from events.commands import Accepted, Command
from events.errors import RejectedError, UnavailableError
from events.model import Decision
from services.settle import Broken, Done, Outcome

_logger = logging.get_logger("work")
# Kept, because looking one up among the labels costs more than the observation.
_command_timer = cache(metrics.COMMAND_DURATION.labels)
_task_counter = cache(metrics.TASKS.labels)
_step_timer = cache(metrics.STEP_DURATION.labels)


@dataclass(slots=True)
class Seen:
    """How a command came out; a handler that says nothing has failed."""

    outcome: str = "failed"

    def accepted(self, answer: Accepted) -> Accepted:
        """It was done, now or before."""
        self.outcome = "repeated" if answer.repeated else "accepted"
        return answer


@contextmanager
def command(asked: Command, headers: Mapping[str, str] | None) -> Iterator[Seen]:
    """Surrounds the doing of a command; `headers` are those of its message."""
    logging.bind(request_id=asked.request_id, org_id=asked.org_id, command=asked.NAME)
    began_s, seen = time.perf_counter(), Seen()
    ids = {"request_id": asked.request_id, "org_id": asked.org_id}
    with tracing.span(f"command {asked.NAME}", "CONSUMER", headers or {}, **ids):
        try:
            yield seen
        except RejectedError:
            seen.outcome = "rejected"
            raise
        except UnavailableError:
            seen.outcome = "unavailable"
            raise
        finally:
            duration_s = time.perf_counter() - began_s
            _command_timer(asked.NAME, seen.outcome).observe(duration_s)
            _logger.debug("command", outcome=seen.outcome, duration_ms=round(duration_s * 1000, 2))


@dataclass(slots=True)
class SeenTask:
    """What becomes of one delivery of a task; handed back, unless somebody says otherwise."""

    outcome: str = "retry"

    def of(self, outcome: Outcome) -> Outcome:
        """It came to this."""
        self.outcome = (
            "done" if isinstance(outcome, Done) else "dead_letter" if isinstance(outcome, Broken) else "retry"
        )
        return outcome


@contextmanager
def task(message: Msg) -> Iterator[SeenTask]:
    """Surrounds one delivery of a task, `tasks.<step>.<org>.<run>.<version>`; its step is one that we serve."""
    _, step_key, org_id, run_id, *_ = [*message.subject.split("."), "", "", ""]
    logging.bind(org_id=org_id, run_id=run_id, step=step_key)
    seen = SeenTask()
    metrics.TASKS_IN_HAND.inc()
    with tracing.span(f"task {step_key}", "CONSUMER", message.headers or {}, org_id=org_id, run_id=run_id) as span:
        try:
            yield seen
        finally:
            metrics.TASKS_IN_HAND.dec()
            _task_counter(step_key, seen.outcome).inc()
            _logger.debug("task", outcome=seen.outcome)
            if seen.outcome != "done":
                tracing.failed(span, seen.outcome)


def belongs_to(decision: Decision) -> None:
    """Have the task's span and further log entries name the request that it came from, and the submission."""
    logging.bind(request_id=decision.request_id, correlation_id=decision.correlation_id)
    tracing.note(request_id=decision.request_id)


def step(key: str, duration_us: int, failure: str | None, *, isolated: bool) -> None:
    """One execution of a step has just ended; `failure` is its code, or None when it succeeded."""
    outcome, place = "failed" if failure else "succeeded", "isolated" if isolated else "inline"
    _step_timer(key, outcome, place).observe(duration_us / 1e6)
    tracing.happened(f"step {key}", duration_us, failure, place=place)
