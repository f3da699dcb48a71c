"""`dex preview`: what each step of a blueprint would do with the first rows of a file, before anybody submits it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table

from cli.api import Api
from cli.render import console, harmless, records_table, shown
from cli.submit import find_blueprint, read_records, the_company
from events.errors import InvalidInputError
from events.preview import ROWS_MAX
from services.ingest.config import ReadFileConfig
from services.ingest.step import read_file
from services.steps.base import StepError

PART_BYTES = 64 * 1024
COLUMNS_SHOWN = 6
ARRAY_SUFFIX = ".json"

Key = tuple[int, int]
"""A row id, and the how-manieth row of it this is: a step may make several rows of one."""


def preview_file(
    api: Api, file: Path, blueprint: str, company: str | None, *, read: str, rows: int, quiet: bool
) -> dict[str, Any]:
    """Preview a blueprint, or the steps of a JSON file, over a file's first rows; the answer, and tables of it."""
    if not file.is_file():
        raise InvalidInputError(f"There is no file {file}.")
    if not 1 <= rows <= ROWS_MAX:
        raise InvalidInputError(f"A preview takes 1 to {ROWS_MAX} rows.")
    body: dict[str, Any] = {"company_id": the_company(api, company), "records": first_records(file, read, rows)}
    steps = Path(blueprint)
    if steps.suffix == ARRAY_SUFFIX and steps.is_file():
        body["steps"] = steps_in(steps)
    else:
        body["blueprint_id"] = find_blueprint(api, blueprint)
    made = api.call("blueprints/preview", body)
    if not quiet:
        for step in made["steps"]:
            show_step(step)
    return made


def first_records(file: Path, read: str, rows: int) -> list[Any]:
    """The first records of a file, as the step read_file would make them. Raises InvalidInputError."""
    if file.suffix.lower() == ARRAY_SUFFIX:
        return read_records(file)[:rows]
    try:
        config = ReadFileConfig.model_validate(orjson.loads(read))
        with file.open("rb") as content:
            parts = iter(lambda: content.read(PART_BYTES), b"")
            for result in read_file(parts, config):
                if len(result.frame):
                    return result.frame.take(range(min(rows, len(result.frame)))).records()
    except (StepError, ValueError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}") from error
    raise InvalidInputError(f"{file} has no records.")


def steps_in(file: Path) -> list[Any]:
    """The steps of a blueprint that is not saved: a JSON list, or an object with `steps`. Raises InvalidInputError."""
    try:
        found = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"{file} is not JSON: {error}") from error
    steps = found.get("steps") if isinstance(found, dict) else found
    if not isinstance(steps, list):
        raise InvalidInputError(f"{file} is no list of steps, nor an object with `steps`.")
    return steps


def show_step(step: Mapping[str, Any]) -> None:
    """One step: what it changed of each row, what it rejected, what it reports."""
    number, status = step["index"] + 1, step["status"]
    took = "" if step["duration_us"] is None else f", {step['duration_us'] / 1000:,.1f} ms"
    console.print(
        f"\n[bold]{number}. {shown(step['key'])}[/] {shown(step['version'])}: {status}{took}", highlight=False
    )
    if step["error"] is not None:
        said = harmless(f"   {step['error']['code']}: {step['error']['message']}")
        console.print(said, markup=False, soft_wrap=True)
    if step["after"] is not None:
        show_changes(step["before"], step["after"])
    if step["rejects"]:
        console.print(records_table("Rejects", step["rejects"], ("row", "field", "code", "value")))
    if step["report"]:
        console.print(f"   report: {orjson.dumps(step['report']).decode()}", markup=False, soft_wrap=True)


def show_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """How many rows came and went, and each row's fields that differ, if any do."""
    olds, news = _by_id(before), _by_id(after)
    changed = [key for key in dict.fromkeys([*olds, *news]) if olds.get(key) != news.get(key)]
    console.print(f"{before['rows']} rows in, {after['rows']} rows out; changed: {len(changed)}", highlight=False)
    if changed:
        console.print(_changes_table(olds, news, changed))


def _changes_table(
    olds: Mapping[Key, Mapping[str, Any]], news: Mapping[Key, Mapping[str, Any]], changed: Sequence[Key]
) -> Table:
    """The changed rows with their fields that differ, before and after; a row or a field that came has a +, one that
    went a −.
    """
    fields = _changed_fields(olds, news, changed)
    table = Table()
    for name in ("row", *fields[:COLUMNS_SHOWN]):
        table.add_column(shown(name), overflow="fold")
    for key in changed:
        old, new = olds.get(key), news.get(key)
        cells = [_cell(old, new, name) for name in fields[:COLUMNS_SHOWN]]
        table.add_row(f"{key[0]}{' −' if new is None else ' +' if old is None else ''}", *cells)
    if len(fields) > COLUMNS_SHOWN:
        table.caption = shown(f"and {len(fields) - COLUMNS_SHOWN} more fields: {', '.join(fields[COLUMNS_SHOWN:])}")
    return table


def _by_id(side: Mapping[str, Any]) -> dict[Key, Mapping[str, Any]]:
    found: dict[Key, Mapping[str, Any]] = {}
    seen: dict[int, int] = {}
    for row_id, record in zip(side["row_ids"], side["records"], strict=True):
        seen[row_id] = seen.get(row_id, -1) + 1
        found[row_id, seen[row_id]] = record
    return found


def _changed_fields(
    olds: Mapping[Key, Mapping[str, Any]], news: Mapping[Key, Mapping[str, Any]], keys: Sequence[Key]
) -> list[str]:
    """The fields that differ in any row, in the order in which rows have them."""
    found: dict[str, None] = {}
    for key in keys:
        old, new = olds.get(key, {}), news.get(key, {})
        for name in (*new, *old):
            if name not in old or name not in new or old[name] != new[name]:
                found[name] = None
    return list(found)


def _cell(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, name: str) -> str:
    was, now = _text(old, name), _text(new, name)
    if was is None and now is None:
        return ""
    if was is None:
        return f"[green]{'' if old is None else '+ '}{now}[/]"
    if now is None:
        return f"[red]{'' if new is None else '− '}{was}[/]"
    return now if was == now else f"[red]{was}[/] → [green]{now}[/]"


def _text(record: Mapping[str, Any] | None, name: str) -> str | None:
    if record is None or name not in record:
        return None
    value = record[name]
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return shown(text)
