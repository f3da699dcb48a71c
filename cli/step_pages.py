"""The catalogue of steps as docs/steps.md and docs/steps/<key>.md show it, made from the steps themselves."""

import ast
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from services.steps.base import Example, Reject, Rows, Source, Step, Whole
from services.steps.catalogue import STEPS

HEAD = """# Steps

Made by `dex docs steps --out docs`; a test holds it to the code. A blueprint names steps by their keys, each with its
config; `steps/list` of the API has each config's JSON Schema. Each page shows a step's config, what it finds fault
with, and records before and after it; the examples are tests.

A *row-wise* step looks at one row at a time: the chunks of a large batch are done side by side, in any number of
processes. A *barrier* needs something of every row before it can say what becomes of any; the table says what it holds
in memory meanwhile. Steps are deterministic: the same rows and the same config give the same bytes, at any number of
processes; what their libraries and data tables decide is named in their version.

Under `on_error`, which every row-wise step with faults has, a value that the step cannot handle becomes null (`null`,
the default), moves its row to the rejects (`reject`: row, field, code and raw value, an output that can be downloaded),
or fails the step (`fail`). A config that names a field that no record has fails with `unknown_field`, and the
message names the fields that there are.
"""

KINDS = {
    "rows": "row-wise",
    "exchange": "barrier: exchanges a little of every row",
    "whole": "barrier: is given the whole batch, chunk by chunk",
    "source": "reads an uploaded file",
}


def pages(steps: Sequence[Step[Any]] = STEPS) -> dict[str, str]:
    """Every page as Markdown, by its path below the folder of documents."""
    return {"steps.md": index(steps)} | {f"steps/{step.key}.md": page(step) for step in steps}


def write_pages(folder: Path) -> list[Path]:
    """Write every page below the folder, and take away those of steps that are no more. The paths written."""
    made = {folder / name: text for name, text in pages().items()}
    (folder / "steps").mkdir(parents=True, exist_ok=True)
    for path in set((folder / "steps").glob("*.md")) - made.keys():
        path.unlink()
    for path, text in made.items():
        path.write_text(text)
    return list(made)


def index(steps: Sequence[Step[Any]]) -> str:
    """The list of all steps."""
    rows = [
        (f"[`{step.key}`](steps/{step.key}.md)", KINDS[step.kind].partition(":")[0], step.summary, step.holds)
        for step in steps
    ]
    return "\n".join([HEAD, *_table(("step", "kind", "what it does", "what it holds of a batch"), rows), ""])


def page(step: Step[Any]) -> str:
    """One step's page."""
    facts = [("kind", KINDS[step.kind]), ("version", f"`{step.version}`")]
    if step.holds:
        facts.append(("holds", step.holds))
    if step.has_effects:
        facts.append(("effects", "It has an effect outside of its output: it is never replaced by an earlier result."))
    schema = step.config_schema()
    parts = [
        f"# `{step.key}`\n\n{step.summary}\n\nMade by `dex docs steps --out docs`. [All steps](../steps.md)\n",
        *_table(("", ""), facts),
        f"\n## What it does\n\n{_described(step)}\n",
        f"## Config\n\n{schema.get('description', '')}\n",
        *_properties(schema),
    ]
    for name, nested in sorted(schema.get("$defs", {}).items()):
        if "properties" in nested:
            parts += [f"\n### `{name}`\n\n{nested.get('description', '')}\n", *_properties(nested)]
    for example in step.examples:
        parts += _example(example)
    return "\n".join(parts).rstrip() + "\n"


def _described(step: Step[Any]) -> str:
    """The docstring of the step's function, or what its module writes below the step."""
    if isinstance(step.body, Source):
        return inspect.getdoc(getattr(inspect.getmodule(step.body.function), step.key)) or ""
    module = importlib.import_module(f"services.steps.{step.key}")
    statements = ast.parse(inspect.getsource(module)).body
    for statement, following in pairwise(statements):
        named = isinstance(statement, ast.Assign) and [ast.unparse(t) for t in statement.targets] == [step.key]
        if named and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            return inspect.cleandoc(str(following.value.value))
    function: Callable[..., Any] | None = step.body.function if isinstance(step.body, Rows | Whole) else step.body.apply
    return inspect.getdoc(function) or ""


def _properties(schema: Mapping[str, Any]) -> list[str]:
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        default = "required" if name in required else _code(field["default"]) if "default" in field else ""
        rows.append((f"`{name}`", _type_of(field), default, field.get("description", "")))
    return _table(("field", "type", "default", "what it is"), rows)


def _type_of(field: Mapping[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"`{name}`"
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " or ".join(dict.fromkeys(_type_of(one) for one in field[several]))
    if "enum" in field:
        return ", ".join(_code(value) for value in field["enum"])
    if "const" in field:
        return _code(field["const"])
    match field.get("type"):
        case "array" if "prefixItems" in field:
            return f"list of {', '.join(_type_of(item) for item in field['prefixItems'])}"
        case "array":
            return f"list of {_type_of(field.get('items', {}))}"
        case "object" if isinstance(field.get("additionalProperties"), Mapping):
            return f"object of {_type_of(field['additionalProperties'])}"
        case None:
            return "any JSON"
        case kind:
            return {"string": "text", "object": "object"}.get(kind, str(kind))


def _example(example: Example) -> list[str]:
    config = json.dumps(example.config, ensure_ascii=False, indent=2)
    parts = [f"\n## Example: {example.title}\n\n```json\n{config}\n```\n"]
    for run_id, records in example.references.items():
        parts += [f"The output of the run `{run_id}`:\n", *_records(records), ""]
    parts += ["Before:\n", *_records(example.records), "\nAfter:\n", *_records(example.output)]
    if example.rejects:
        parts += ["\nRejects:\n", *_rejects(example.rejects)]
    return parts


def _records(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Records as a table; an empty cell stands for a field that the record has not."""
    names = list(dict.fromkeys(name for record in records for name in record))
    if not names:
        return ["No rows." if not records else f"{len(records)} rows without fields."]
    rows = [[_code(record[name]) if name in record else "" for name in names] for record in records]
    return _table(names, rows)


def _rejects(rejects: Sequence[Reject]) -> list[str]:
    rows = [(str(r.row), _code(r.field) if r.field else "", f"`{r.code}`", _code(r.value)) for r in rejects]
    return _table(("row", "field", "code", "value"), rows)


def _code(value: Any) -> str:
    """A value as JSON, as a code span whose fence is longer than any run of backquotes in it."""
    text = json.dumps(value, ensure_ascii=False)
    fence = "`"
    while fence in text:
        fence += "`"
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
