"""OpenTelemetry traces, when DATA_ENGINE_OTLP_ENDPOINT is set; else nothing is imported and every call here is a no-op.

The trace travels as a W3C `traceparent`: in the HTTP request, in the header of the NATS message that carries the
command, and in the header of the decision's message, which the server copies to TASKS. Never in a decision's body,
which is hashed and kept for ever; and without `tracestate`, which is text of the caller.

Names and attributes are of a closed vocabulary, and ids of requests, orgs and runs; never payloads, names, error
messages or credentials. So exceptions are not recorded: a failed span has `error.type`, which is an error's code.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from events.errors import ConfigurationError, DataEngineError
from events.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

EXPORT_TIMEOUT_S = 5
TRACEPARENT = "traceparent"

_tracer: "Tracer | None" = None
_OFF: AbstractContextManager["Span | None"] = nullcontext(None)

Value = str | int | bool | None


@contextmanager
def exporting(process: str, settings: Settings) -> Iterator[None]:
    """Export the spans of this process meanwhile, when an endpoint is set. Raises ConfigurationError.

    The sampler and the batches follow OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, OTEL_BSP_…).
    """
    global _tracer
    if not settings.otlp_endpoint:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            "DATA_ENGINE_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: install data-engine-x[otlp]."
        ) from error
    endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    resource = Resource.create({"service.namespace": "data-engine-x", "service.name": process})
    # Not the global provider: a library with telemetry of its own must not send what it likes through ours.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)))
    _tracer = provider.get_tracer("data-engine-x")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def is_on() -> bool:
    """Whether spans are made."""
    return _tracer is not None


def span(
    name: str, kind: str, headers: Mapping[str, str] | None = None, **attributes: Value
) -> AbstractContextManager["Span | None"]:
    """A span that is the current one meanwhile: of the trace in `headers` when they are given, else of the current.

    `kind` is a SpanKind (`SERVER`, `CLIENT`, `PRODUCER`, `CONSUMER`). Attributes without a value are left out.
    """
    return _OFF if _tracer is None else _span(_tracer, name, kind, headers, attributes)


@contextmanager
def _span(
    tracer: "Tracer", name: str, kind: str, headers: Mapping[str, str] | None, attributes: Mapping[str, Value]
) -> Iterator["Span"]:
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = None
    if headers is not None:
        own = {TRACEPARENT: headers[TRACEPARENT]} if TRACEPARENT in headers else {}
        parent = TraceContextTextMapPropagator().extract(own)
    with tracer.start_as_current_span(
        name,
        context=parent,
        kind=SpanKind[kind],
        attributes=_present(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            failed(opened, error.code if isinstance(error, DataEngineError) else type(error).__name__)
            raise


def happened(name: str, duration_us: int, error_type: str | None = None, **attributes: Value) -> None:
    """A span of what ended just now, below the current one."""
    if _tracer is None:
        return
    end_ns = time.time_ns()
    past = _tracer.start_span(name, start_time=end_ns - duration_us * 1000, attributes=_present(attributes))
    if error_type is not None:
        failed(past, error_type)
    past.end(end_ns)


def failed(opened: "Span | None", error_type: str) -> None:
    """Mark a span as failed, with a code of a closed vocabulary."""
    if opened is None:
        return
    from opentelemetry.trace import StatusCode

    opened.set_status(StatusCode.ERROR)
    opened.set_attribute("error.type", error_type)


def note(**attributes: Value) -> None:
    """Give the current span attributes that were not known when it began."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(_present(attributes))


def carried() -> dict[str, str]:
    """The header by which a message carries the current trace on; empty when there is none."""
    if _tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {TRACEPARENT: carrier[TRACEPARENT]} if TRACEPARENT in carrier else {}


def add_trace_id(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """A structlog processor: the id under which the request's trace is found."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        context = get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = f"{context.trace_id:032x}"
    return event


def _present(attributes: Mapping[str, Value]) -> dict[str, str | int | bool]:
    return {f"data_engine.{name}": value for name, value in attributes.items() if value is not None}
