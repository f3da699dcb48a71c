"""Prints, as JSON, a digest of what each of some steps makes of a seeded batch. Run with a number of Arrow's threads.

A program of its own, so that a test can run it in fresh processes. Each step has two digests: of the very bytes
that are stored, with chunks of one size; and of the rows, for several sizes, which must be one.
"""

import json
import random
import sys
from hashlib import sha256
from typing import Any

import pyarrow as pa

from events.columns import encode_column
from services.steps.base import Context, Result, Step
from services.steps.catalogue import STEPS
from services.steps.frame import ColumnFrame

ROWS = 2_000
CONFIGS: dict[str, dict[str, Any]] = {
    "flatten": {"select": {"first": "list[0]"}, "explode": "list", "on_error": "reject"},
    "cast_types": {
        "casts": [
            {"field": "amount", "to": "decimal"},
            {"field": "text", "to": "number", "output_field": "number"},
            {"field": "day", "to": "datetime", "time_zone": "Europe/Berlin", "formats": ["%Y-%m-%d"]},
        ],
        "on_error": "reject",
    },
    "sort_limit": {"keys": [{"field": "mixed", "descending": True}, {"field": "text"}], "limit": 1_500},
    "aggregate": {
        "group_by": ["group", "day"],
        "metrics": [
            {"function": name, "field": field, "into": f"{name} {field}"}
            for name in ("count", "count_distinct", "sum", "mean", "min", "max", "first", "last")
            for field in ("amount", "mixed")
        ],
    },
    "assert_quality": {
        "unique": [["text"], ["group", "day"]],
        "fields": [{"field": "text", "pattern": "[a-z]", "max_null_share": 0.01}, {"field": "amount", "minimum": 0}],
        "on_violation": "report",
    },
    "diff_snapshot": {"run_id": "r", "key": ["text", "group"]},
    "merge_records": {
        "cluster_field": "group",
        "rules": {
            "amount": {"rule": "sum"},
            "text": {"rule": "most_frequent"},
            "mixed": {"rule": "newest", "date_field": "day"},
        },
    },
    "deduplicate": {"keys": [["text"], ["group", "day"]], "order_by": {"field": "mixed"}, "count_field": "n"},
}


def batch(seed: int) -> list[dict[str, Any]]:
    """Rows with decimals, values of all types, and texts in many scripts."""
    chance = random.Random(seed)
    texts = ["", " ", "a", "Ångström", "ÅNGSTRÖM", "שלום", "مرحبا", "\U0001f469\u200d\U0001f680", "ﬁ", "İ", "ß", "\x00"]

    def text() -> str:
        return chance.choice(texts) + "".join(chr(chance.choice([97, 228, 0x5D0, 0x4E2D, 0x1F600])) for _ in range(2))

    def mixed() -> Any:
        return chance.choice(
            [None, True, chance.random(), chance.randint(-9, 9), text(), [1], {"k": text(), "a": None}]
        )

    def row() -> dict[str, Any]:
        made = {
            "group": chance.choice([None, "x", "y", "z", *range(90)]),
            "day": f"2026-0{chance.randint(1, 3)}-{chance.randint(10, 31)}",
            "amount": chance.choice([0.1, 0.2, 0.7, 1e15, -1e15, chance.uniform(-1e3, 1e3)]),
            "text": text(),
            "mixed": mixed(),
            "list": [mixed() for _ in range(chance.randint(0, 3))],
        }
        made.pop(chance.choice([*made, "", "", ""]), None)
        return made

    return [row() for _ in range(ROWS)]


def results(step: Step[Any], whole: ColumnFrame, earlier: ColumnFrame, chunk_rows: int) -> list[Result]:
    """What the step makes of the batch, cut into chunks."""
    chunks = [whole.slice(start, chunk_rows) for start in range(0, len(whole), chunk_rows)]
    config = step.config_model.model_validate(CONFIGS[step.key])
    return list(step.run(chunks, config, Context({"r": earlier})))


def stored(found: list[Result]) -> str:
    """A digest of the bytes that are stored, and of all else."""
    digest = sha256()
    for result in found:
        assert isinstance(result.frame, ColumnFrame)
        digest.update(
            encode_column(ColumnFrame.of_records([{"id": row} for row in result.frame.row_ids()]).column("id"))
        )
        for name, column in result.frame.columns.items():
            digest.update(repr((name, column.kind, column.sparse)).encode() + encode_column(column))
        digest.update(repr((result.rejects, result.report)).encode())
    return digest.hexdigest()


def rows(found: list[Result]) -> str:
    """A digest of rows, rejects and the report, wherever chunks end."""
    digest = sha256()
    for result in found:
        for row, record in zip(result.frame.row_ids(), result.frame.records(), strict=True):
            digest.update(repr((row, sorted(record.items()))).encode())
    rejects = [reject for result in found for reject in result.rejects]
    digest.update(repr((rejects, found[-1].report)).encode())
    return digest.hexdigest()


def main(threads: int) -> None:
    """Print the digests."""
    pa.set_cpu_count(threads)
    whole, earlier = ColumnFrame.of_records(batch(1)), ColumnFrame.of_records([*batch(1)[500:], *batch(2)[:700]])
    digests = {}
    for step in STEPS:
        if step.key in CONFIGS:
            sizes = {size: rows(results(step, whole, earlier, size)) for size in (61, 500, ROWS)}
            assert len(set(sizes.values())) == 1, (step.key, sizes)
            digests[step.key] = [stored(results(step, whole, earlier, 500)), sizes[500]]
    print(json.dumps(digests))


if __name__ == "__main__":
    main(int(sys.argv[1]))
