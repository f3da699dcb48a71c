"""What each process counts and times, for Prometheus; served on an address of its own, never on the public port.

Every label's values are a closed vocabulary of the code: endpoint templates, command names, step keys, projections,
outcomes. No org, company, user, run, name or error text is ever one: a metric carries no tenant's data
(tests/observability/test_metrics.py walks all of them). Names: prometheus.io/docs/practices/naming.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from events.errors import ConfigurationError
from events.settings import Settings

_QUICK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_WAITING_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEP_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)


def _histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
    return Histogram(f"data_engine_{name}", text, labels, buckets=buckets, registry=None)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
    return Counter(f"data_engine_{name}", text, labels, registry=None)


def _gauge(name: str, text: str) -> Gauge:
    return Gauge(f"data_engine_{name}", text, registry=None)


HTTP_DURATION = _histogram(
    "http_request_duration_seconds",
    "Requests by endpoint and class of status, from the first byte to the last; `wait_s` is in it.",
    ("endpoint", "status"),
    _WAITING_S,
)
HTTP_IN_FLIGHT = _gauge("http_requests_in_flight", "Requests that are not answered yet.")
AUTHENTICATION_FAILURES = _counter(
    "authentication_failures_total", "Requests whose credentials named nobody, by reason.", ("reason",)
)
REFUSALS = _counter(
    "refusals_total", "Requests and connections that were too many, too much, too slow or not HTTP, by code.", ("code",)
)
COMMANDS_DEFERRED = _counter(
    "commands_deferred_total", "Commands that no service answered, kept for later (202).", ("command",)
)
COMMAND_DURATION = _histogram(
    "command_duration_seconds", "Commands by name and outcome.", ("command", "outcome"), _QUICK_S
)
LOG_APPEND_DURATION = _histogram(
    "log_append_duration_seconds", "Appends to the log by outcome, until they are on disk.", ("outcome",), _QUICK_S
)
DEAD_LETTERS = _counter("dead_letters_total", "Commands and tasks that failed beyond repair.", ("kind",))
TASKS = _counter("tasks_total", "Deliveries of tasks by step and by what came of them.", ("step", "outcome"))
TASKS_IN_HAND = _gauge("tasks_in_hand", "Tasks that this worker is at.")
STEP_DURATION = _histogram(
    "step_duration_seconds",
    "Step executions by outcome and by where: on the worker's own loop, or isolated in a step process.",
    ("step", "outcome", "place"),
    _STEP_S,
)
CHUNKS = _counter(
    "chunks_total",
    "Chunks of large batches, by who did one: this worker of its own, another for it, or it for another.",
    ("by",),
)
PROJECTOR_POSITION = _gauge("projector_position", "The position of the log that all read models have reached.")
PROJECTOR_LAG = _gauge(
    "projector_lag_positions", "Positions of the log behind the last batch, as the server told with it."
)
PROJECTOR_BATCH = _histogram("projector_batch_decisions", "Decisions in one transaction.", (), _COUNTS)
PROJECTOR_APPLY_DURATION = _histogram(
    "projector_apply_duration_seconds", "From a batch's begin to its commit.", (), _QUICK_S
)
PROJECTOR_RETRIES = _counter("projector_retries_total", "Times that the projector waited for NATS or Postgres.")
PROJECTOR_DEAD_LETTERS = _counter(
    "projector_dead_letters_total", "Decisions that a projection could not apply.", ("projection",)
)
ARCHIVER_POSITION = _gauge("archiver_position", "The position of the log that the archive has reached.")
ARCHIVER_LAG = _gauge("archiver_lag_positions", "Positions of the log that are not archived yet.")
ARCHIVER_BATCH = _histogram("archiver_batch_decisions", "Decisions archived in one transaction.", (), _COUNTS)
TREES_POSITION = _gauge("trees_position", "The position of the log up to which the orgs' histories can be proved.")
ARCHIVER_RETRIES = _counter("archiver_retries_total", "Times that the archiver waited for NATS or Postgres.")

OF_PROCESS: dict[str, tuple[MetricWrapperBase, ...]] = {
    "gateway": (HTTP_DURATION, HTTP_IN_FLIGHT, AUTHENTICATION_FAILURES, REFUSALS, COMMANDS_DEFERRED),
    "command-service": (COMMAND_DURATION, LOG_APPEND_DURATION, DEAD_LETTERS),
    "worker": (TASKS, TASKS_IN_HAND, STEP_DURATION, CHUNKS, LOG_APPEND_DURATION, DEAD_LETTERS),
    "projector": (
        PROJECTOR_POSITION, PROJECTOR_LAG, PROJECTOR_BATCH, PROJECTOR_APPLY_DURATION, PROJECTOR_RETRIES,
        PROJECTOR_DEAD_LETTERS,
    ),
    "archiver": (ARCHIVER_POSITION, ARCHIVER_LAG, ARCHIVER_BATCH, ARCHIVER_RETRIES, TREES_POSITION),
}  # fmt: skip
"""What each process serves, beside what prometheus_client tells of any Python process."""

OUTCOMES: dict[str, tuple[str, ...]] = {
    "data_engine_command_duration_seconds": ("accepted", "repeated", "rejected", "unavailable", "failed"),
    "data_engine_log_append_duration_seconds": ("recorded", "repeated", "conflict", "refused", "unavailable"),
    "data_engine_tasks": ("done", "retry", "dead_letter"),
    "data_engine_step_duration_seconds": ("succeeded", "failed"),
}
"""The values of `outcome`, by metric."""


@contextmanager
def serving(process: str, settings: Settings) -> Iterator[None]:
    """Serve `/metrics` of this process meanwhile, when a port is set. Raises ConfigurationError.

    A thread of its own answers, so that a loop that hangs can still be looked at.
    """
    if settings.metrics_port is None:
        yield
        return
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for metric in OF_PROCESS[process]:
        registry.register(metric)
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.PlatformCollector(registry=registry)
    prometheus_client.GCCollector(registry=registry)
    try:
        server, thread = prometheus_client.start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise ConfigurationError(f"/metrics cannot be served on {where} (DATA_ENGINE_METRICS_PORT): {error}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
