"""How fast each step of the catalogue is, alone, in this process: rows a second over chunks of columns.

A step that CRM has a config for works on the made-up CRM export (most values distinct); any other on the records of
its own examples over and over (few distinct values, so that its figure is mostly the frame's, not the library's).

    uv run python -m bench.catalogue --rows 100000 --json
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from bench.bulk_data import COLUMNS, rows
from services.steps.base import Context, Step, StepError
from services.steps.catalogue import STEPS
from services.steps.frame import ColumnFrame, Record

CHUNK_ROWS = 25_000

CRM: dict[str, dict[str, Any]] = {
    "map_fields": {"mappings": {"name": "Full Name", "mail": "Email"}, "defaults": {"mail": "none"}},
    "normalize_text": {"fields": ["Full Name", "Company Name", "City"], "case": "title", "null_tokens": ["n/a"]},
    "extract_domain": {"url_fields": ["Website"], "email_fields": ["Email"], "output_field": "domain"},
    "normalize_country": {"field": "Country", "output": "name"},
    "deduplicate": {"keys": [["Email"], ["Full Name", "Phone Number"]], "keep": "most_complete"},
    "parse_person_name": {"field": "Full Name", "outputs": {"first": "given", "last": "family"}},
    "normalize_email": {"field": "Email", "lowercase_local": True},
    "normalize_phone": {"field": "Phone Number", "region_field": "Country", "output_field": "phone"},
    "normalize_company_name": {"field": "Company Name"},
    "classify_email_domain": {"field": "Email"},
}


def crm_records(count: int) -> list[Record]:
    """Rows of the made-up export as JSON objects; an empty text is null, as the reader of files has it."""
    return [dict(zip(COLUMNS, (text or None for text in row), strict=True)) for row in rows(count, seed=1)]


def chunks_of(records: Sequence[Record]) -> list[ColumnFrame]:
    """The records as a large batch has them."""
    starts = range(0, len(records), CHUNK_ROWS)
    return [
        ColumnFrame.of_records(records[at : at + CHUNK_ROWS], range(at, min(at + CHUNK_ROWS, len(records))))
        for at in starts
    ]


def measure(step: Step[Any], crm: Sequence[ColumnFrame], count: int) -> dict[str, Any]:
    """One step's figures, or why it has none."""
    if step.key in CRM:
        data, chunks, plain = "crm", crm, CRM[step.key]
    elif step.examples:
        example = step.examples[0]
        data, plain = "examples", dict(example.config)
        chunks = chunks_of(list(itertools.islice(itertools.cycle(example.records), count)))
    else:
        return {"step": step.key, "skipped": "it has no examples"}
    try:
        config = step.config_model.model_validate(plain)
        context = Context(tenant_key=bytes(32))
        list(step.run(chunks[0:1], config, context))  # what is loaded once is no part of the figure
        began = time.perf_counter()
        output = sum(len(result.frame) for result in step.run(chunks, config, context))
        seconds = time.perf_counter() - began
    except (StepError, ValueError) as error:
        return {"step": step.key, "data": data, "skipped": str(error)}
    count = sum(map(len, chunks))
    figures = {"step": step.key, "kind": step.kind, "data": data, "rows": count, "rows_out": output}
    return figures | {"seconds": round(seconds, 3), "rows_per_s": round(count / seconds)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", nargs="*", help="keys; all, when none is named")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)  # as a step process has it
    crm = chunks_of(crm_records(arguments.rows))
    wanted = [step for step in STEPS if not arguments.steps or step.key in arguments.steps]
    figures = [measure(step, crm, arguments.rows) for step in wanted]
    if arguments.json:
        print(json.dumps(figures))
        return
    for figure in figures:
        print(f"{figure['step']:<24} {figure.get('data', ''):<9} {figure.get('rows_per_s', figure.get('skipped'))}")


if __name__ == "__main__":
    main()
