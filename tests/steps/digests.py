"""Prints, as JSON, a digest of what each step makes of a seeded batch. Run with a number of Arrow's threads.

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
from services.steps.base import Context, Result, Source, Step
from services.steps.catalogue import STEPS
from services.steps.frame import ColumnFrame

ROWS = 1_000
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
    "sort_limit": {"keys": [{"field": "mixed", "descending": True}, {"field": "text"}], "limit": 750},
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
    "map_fields": {
        "mappings": {"words": "text", "of": "group"},
        "defaults": {"of": "nobody"},
        "required": ["words"],
        "on_error": "reject",
    },
    "normalize_text": {"fields": ["text", "mixed", "name"], "case": "title", "fix_mojibake": True},
    "extract_domain": {"url_fields": ["link", "text"], "email_fields": ["email"], "output_field": "domain"},
    "normalize_country": {"field": "land", "output_field": "country", "on_error": "reject"},
    "normalize_email": {"field": "email", "output_field": "mail", "strip_plus": True, "on_error": "reject"},
    "classify_email_domain": {"field": "email", "output_field": "kind", "role_field": "role"},
    "normalize_phone": {"field": "phone", "default_region": "DE", "output_field": "number", "on_error": "reject"},
    "normalize_company_name": {"field": "name", "key_field": "key", "output_field": "company"},
    "parse_person_name": {"field": "name", "outputs": {"first": "given", "last": "surname"}, "on_error": "reject"},
    "parse_us_address": {"field": "address", "outputs": {"city": "city", "zip": "zip"}},
    "map_values": {"field": "land", "table": {"Germany": "DE", "Côte d'Ivoire": "CI"}, "fuzzy_cutoff": 80},
    "lookup_join": {"run_id": "r", "keys": {"text": "text", "group": "group"}, "fields": {"then": "amount"}},
    "validate": {
        "rules": {"required": ["text", "day"], "properties": {"amount": {"minimum": 0}, "text": {"maxLength": 9}}},
        "on_error": "reject",
    },
    "validate_identifier": {"field": "isbn", "scheme": "ean", "output_field": "book"},
    "derive": {"fields": {"both": "row.text + row.day", "large": "row.amount > 0.5"}},
    "filter": {"keep": "row.amount > 0.15 && row.day != '2026-01-10'", "on_error": "reject"},
    "mask_fields": {"fields": ["text", "mixed", "email"], "method": "pseudonym"},
    "cluster_values": {"field": "name", "method": "fingerprint", "output_field": "clean"},
    "match_entities": {
        "blocking": [[{"field": "group"}, {"field": "day"}], [{"field": "email"}]],
        "comparisons": [
            {"fields": ["name"], "method": "jaro_winkler", "weight": 2, "floor": 0.5},
            {"fields": ["text"], "method": "levenshtein", "weight": 1},
        ],
        "threshold": 0.8,
    },
    "read_file": {},
}
PARTS_BYTES = (4_096, 100_000, 10_000_000)
LARGE_CELL = "\u05d0\U0001f469\u200d\U0001f680e\u0301" * 40_000
"""Of a million bytes and more."""


def batch(seed: int) -> list[dict[str, Any]]:
    """Rows with decimals, values of all types, and texts in many scripts."""
    chance = random.Random(seed)
    texts = ["", " ", "a", "Ångström", "ÅNGSTRÖM", "שלום", "مرحبا", "\U0001f469\u200d\U0001f680", "ﬁ", "İ", "ß", "\x00"]

    def text() -> str:
        return chance.choice(texts) + "".join(chr(chance.choice([97, 228, 0x5D0, 0x4E2D, 0x1F600])) for _ in range(2))

    def any_text() -> str:
        """Of all planes of Unicode, whether or not it stands for something; never a surrogate."""
        points = (chance.choice([chance.randrange(0xD800), chance.randrange(0xE000, 0x110000)]) for _ in range(4))
        return "".join(map(chr, points))

    def name() -> str | None:
        first = chance.choice(["Dr. Anna", "józef", "ACME", "李", "أحمد", any_text()])
        return chance.choice([None, "", f"{first} {chance.choice(['Müller', 'van der Berg', 'GmbH', 'Inc.'])}"])

    def like_what_steps_read() -> dict[str, Any]:
        mail = f"{chance.choice(['info', 'Ann+x', any_text()])}@{chance.choice(['gmail.com', 'Bücher.example', 'x'])}"
        return {
            "name": name(),
            "email": chance.choice([mail, None, "", mixed()]),
            "link": chance.choice(["https://www.example.co.uk/a?b", "münchen.de", any_text(), None]),
            "phone": chance.choice(["030 123456", "+1 (650) 253-0000", "٠٣٠١٢٣٤٥٦", any_text(), None]),
            "land": chance.choice(["Germany", "GERMNAY", "Cote d'Ivoire", "日本", any_text(), None]),
            "address": chance.choice(["1600 Amphitheatre Pkwy, Mountain View, CA 94043", "PO Box 7", any_text(), None]),
            "isbn": chance.choice(["978-3-16-148410-0", "9783161484101", any_text(), None]),
        }

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
            **like_what_steps_read(),
        }
        made.pop(chance.choice([*made, "", "", ""]), None)
        return made

    rows = [row() for _ in range(ROWS)]
    rows[7]["text"] = LARGE_CELL
    return rows


def results(step: Step[Any], whole: ColumnFrame, earlier: ColumnFrame, chunk_rows: int) -> list[Result]:
    """What the step makes of the batch, cut into chunks."""
    chunks = [whole.slice(start, chunk_rows) for start in range(0, len(whole), chunk_rows)]
    config = step.config_model.model_validate(CONFIGS[step.key])
    return list(step.run(chunks, config, Context({"r": earlier}, b"a key of an org", "org/company")))


def read(step: Step[Any], content: bytes, part_bytes: int) -> list[Result]:
    """What a step makes of a file that comes in parts."""
    assert isinstance(step.body, Source)
    parts = (content[start : start + part_bytes] for start in range(0, len(content), part_bytes))
    return list(step.body.function(parts, step.config_model.model_validate(CONFIGS[step.key]), Context()))


def file_of(records: list[dict[str, Any]]) -> bytes:
    """The records as lines of JSON."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


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
    whole, earlier = ColumnFrame.of_records(batch(1)), ColumnFrame.of_records([*batch(1)[300:], *batch(2)[:400]])
    digests = {}
    for step in STEPS:
        if step.kind == "source":
            found = [read(step, file_of(batch(1)), part_bytes) for part_bytes in PARTS_BYTES]
        else:
            found = [results(step, whole, earlier, size) for size in (250, 61, ROWS)]
        of_rows = {rows(made) for made in found}
        assert len(of_rows) == 1, step.key
        digests[step.key] = [stored(found[0]), of_rows.pop()]
    print(json.dumps(digests))


if __name__ == "__main__":
    main(int(sys.argv[1]))
