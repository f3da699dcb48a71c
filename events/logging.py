"""Structured logs on stdout: JSON for platforms, readable text for people."""

import io
import logging
import sys
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from events import tracing


def configure_logging(level: str, fmt: str, process: str) -> None:
    """Set up structlog and the standard library's logging for one process, once, by its entry point."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a text that UTF-8 cannot hold must not cost an answer
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        tracing.add_trace_id,
    ]
    # Exceptions as plain tracebacks: those of rich show local variables, and so secrets.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = structlog.processors.JSONRenderer() if fmt == "json" else plain
    exceptions = [structlog.processors.format_exc_info] if fmt == "json" else []
    structlog.configure(
        processors=[*shared, *exceptions, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.getLevelName(level.upper()), logging.WARNING))


def get_logger(name: str) -> Any:
    """A logger whose entries carry `component`."""
    return structlog.get_logger(component=name)


def bind(**fields: str | None) -> None:
    """Have every further log entry of this task carry these fields (`request_id`, `org_id`, …); None is left out."""
    bind_contextvars(**{name: value for name, value in fields.items() if value is not None})
