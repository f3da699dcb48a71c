"""What people see: tables, rows, and times, drawn with rich."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

CELL_MAX_CHARS = 28

STATUS_STYLES = {
    "succeeded": "green", "reused": "green", "failed": "red", "cancelled": "yellow", "skipped": "dim", "pending": "dim",
    "running": "cyan", "scheduled": "cyan", "retrying": "yellow",
}  # fmt: skip

_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but the line feed (C0 and C1, which begin a terminal's commands), and those that turn a text's
direction (UAX #9)."""

console = Console()
errors = Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


def steps_table(step_results: Sequence[Mapping[str, Any]]) -> Table:
    """A run's steps: status (reused: what an earlier run made), attempt, rows in and out, rejects, time."""
    table = Table(title="Step results", title_justify="left")
    for name, justify in (
        ("#", "right"), ("step", "left"), ("status", "left"), ("try", "right"), ("rows in", "right"),
        ("rows out", "right"), ("rejects", "right"), ("ms", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for result in step_results:
        status = "reused" if result.get("reused_from_run_id") else result["status"]
        table.add_row(
            str(result["step_index"] + 1),
            result["step_key"],
            f"[{STATUS_STYLES.get(status, 'white')}]{status}[/]",
            shown(result.get("attempt")),
            _count(_rows(result, "input")),
            _count(_rows(result, "output")) or _chunks(result.get("progress")),
            _count(_rows(result, "rejects") or (0 if result["status"] == "succeeded" else None)),
            _milliseconds(result.get("duration_us")),
        )
    return table


def records_table(title: str, records: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> Table:
    """Some records, one a row, with the columns named."""
    table = Table(title=title, title_justify="left")
    names = list(columns)
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=CELL_MAX_CHARS)
    for record in records:
        table.add_row(*(shown(record.get(name)) for name in names))
    return table


def facts_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table of anything."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    return table


def _chunks(progress: Mapping[str, Any] | None) -> str:
    """How far a step is with a large batch."""
    return "" if progress is None else f"chunk {progress['chunks_done']}/{progress['chunks_total'] or '?'}"


def _rows(result: Mapping[str, Any], name: str) -> int | None:
    reference = result.get(name)
    return reference["rows"] if reference else None


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _milliseconds(duration_us: int | None) -> str:
    return "" if duration_us is None else f"{duration_us / 1000:,.1f}"


def shown(value: Any) -> str:
    """A value within text that has markup. It may be a stranger's: it brings no markup, and nothing that a terminal
    obeys.
    """
    return "" if value is None else escape(harmless(str(value)))


def harmless(text: str) -> str:
    """A text, with escapes in the place of what a terminal obeys."""
    return _OBEYED.sub(_as_escape, text)


def _as_escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
