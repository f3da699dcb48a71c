"""What `dex audit …` does: fetch, write and verify."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import orjson
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cli.api import Api
from cli.render import console, shown
from events.audit.checkpoint import AuditKey, SignedCheckpoint
from events.audit.findings import Report
from events.audit.note import Verifier
from events.audit.verify import verify
from events.errors import ConfigurationError, InvalidInputError, ProofError
from events.settings import Settings

LINE_MAX_BYTES = 64 * 1024 * 1024
READ_BYTES = 1024 * 1024
TOLD_EVERY_LINES = 5_000
_GZIP_MAGIC = b"\x1f\x8b"


def signing_key(settings: Settings) -> AuditKey:
    """The platform's key: that of the settings, else that of the embedded system's data folder."""
    if settings.audit_key is not None:
        return AuditKey.of(settings.audit_key.get_secret_value(), settings.audit_origin)
    path = settings.home / "embedded.json"
    secret = json.loads(path.read_text()).get("audit_key") if path.exists() else None
    if secret is None:
        raise ConfigurationError("There is no DATA_ENGINE_AUDIT_KEY, and no system was started here.")
    return AuditKey.of(secret, settings.audit_origin)


def fetch_checkpoint(api: Api, position: int | None) -> dict[str, Any]:
    """The org's checkpoint, as the API answers it."""
    return api.call("audit/checkpoint", {} if position is None else {"position": position})


def download_export(api: Api, file: Path, body: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Write an export into a file, which is there only when it is whole. The file's name and size."""
    parts = file.with_name(f"{file.name}.part")
    size_bytes = 0
    with _bar(quiet) as progress, parts.open("wb") as out:
        task = progress.add_task(shown(file.name), total=None)
        for part in api.download("audit/export", body):
            size_bytes += out.write(part)
            progress.advance(task, len(part))
    parts.replace(file)
    return {"file": str(file), "size_bytes": size_bytes}


def verify_file(
    file: Path,
    checkpoint: str | None,
    key: str | None,
    previous: Sequence[Path],
    *,
    quiet: bool,
    each: Callable[[Mapping[str, Any]], object] = lambda _: None,
) -> Report:
    """Verify an export offline; `each` gets every proved decision's line. Raises InvalidInputError for what it cannot
    begin with, ProofError for a key.
    """
    if not file.is_file():
        raise InvalidInputError(f"There is no file {file}.")
    if checkpoint is None and key is None:
        raise InvalidInputError("Give a checkpoint that you trust (--checkpoint), or a key (--key).")
    verifier = None if key is None else Verifier.parse(key)
    notes = [] if checkpoint is None else _notes(checkpoint)
    earlier = [note for path in previous for note in _notes(str(path))]
    with file.open("rb") as raw, _bar(quiet) as progress:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        task = progress.add_task(shown(file.name), total=file.stat().st_size)
        source: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        lines = _lines(source, lambda: progress.update(task, completed=raw.tell()))
        first = next(lines, b"")
        trusted, others = _of_this_org(first, notes)
        latest, same = _of_this_org(first, earlier)
        known = [*others, *same, *([latest] if latest is not None else [])]
        return verify(_with_first(first, lines), checkpoint=trusted, key=verifier, previous=known, each=each)


def show_report(report: Report) -> None:
    """The report as sentences."""
    finding = report.finding
    if finding is None:
        part = "all" if report.whole else f"{report.decisions:,} of {report.size:,}"
        amount = f"{report.decisions:,} decisions, {part}" if report.whole else f"{part} decisions"
        console.print(f"[green]Verified:[/] {amount} of the org {shown(report.org_id)}.", soft_wrap=True)
        if not report.whole and report.first_index is not None:
            console.print(f"They are those of the indexes {report.first_index} to {(report.end_index or 0) - 1}.")
        elif not report.whole:
            console.print("Each is in the history; that there are no others cannot be seen from these.")
        signed = "checked" if report.signature_checked else "not checked (no --key)"
        console.print(f"Root {shown(report.root)}, signature {signed}.", soft_wrap=True)
        if report.checkpoints_compared:
            sizes = report.checkpoints_compared
            known = f"the checkpoint of size {sizes[0]:,}"
            if len(sizes) > 1:
                known = f"{len(sizes)} checkpoints, of sizes up to {sizes[-1]:,}"
            console.print(f"The same history as {known}, that you have.")
        if report.proved_size < report.size:
            console.print(f"[yellow]From index {report.proved_size} on it rests on the export's own word.[/]")
        return
    console.print(f"[red]{finding.kind.replace('_', ' ').capitalize()}:[/] {shown(finding.message)}", soft_wrap=True)
    found = [
        f"{name} {value}"
        for name, value in (("index", finding.index), ("position", finding.position), ("line", finding.line))
        if value is not None
    ]
    if found:
        console.print(f"({', '.join(found)})")


def _lines(file: IO[bytes], told: Callable[[], object]) -> Iterator[bytes]:
    """The lines of a file, bounded; of one that breaks off, those before. Raises InvalidInputError."""
    try:
        for number, line in enumerate(iter(partial(file.readline, LINE_MAX_BYTES), b"")):
            if not number % TOLD_EVERY_LINES:
                told()
            yield line
    except (EOFError, zlib.error):
        return  # the verification says after which line
    except OSError as error:
        raise InvalidInputError(f"The file cannot be read to its end: {error}.") from error
    told()


def _with_first(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from lines


def _notes(source: str) -> list[str]:
    """The notes of a file: one as it is, or JSON as the API answers it, or as checkpoints are pushed."""
    if source != "-" and not Path(source).is_file():
        raise InvalidInputError(f"There is no file {source}.")
    text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8", errors="replace")
    if not text.lstrip().startswith("{"):
        return [text]
    try:
        records = [orjson.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        records = [orjson.loads(text)] if _is_json(text) else []
    found = [note for record in records for note in record.get("checkpoints") or [record.get("checkpoint")]]
    if not found or not all(isinstance(note, str) for note in found):
        raise InvalidInputError(f"{source} has no checkpoints: a signed note, or JSON with `checkpoint`.")
    return found


def _is_json(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except ValueError:
        return False


def _of_this_org(first: bytes, notes: Sequence[str]) -> tuple[str | None, list[str]]:
    """Of several checkpoints the latest of the export's org, and its others. One alone is taken whoever's it is."""
    if len(notes) <= 1:
        return (notes[0] if notes else None), []
    try:
        org_id = orjson.loads(first)["org_id"]
        found = [(SignedCheckpoint.parse(note).checkpoint, note) for note in notes]
    except (ValueError, LookupError, TypeError, ProofError) as error:
        raise InvalidInputError(f"The checkpoints cannot be compared with the export: {error}.") from error
    own = sorted(((c.size, note) for c, note in found if c.org_id == org_id), key=lambda pair: pair[0])
    if not own:
        raise InvalidInputError(f"None of the {len(notes)} checkpoints is of the export's org {org_id}.")
    return own[-1][1], [note for _, note in own[:-1]]


def _bar(quiet: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
