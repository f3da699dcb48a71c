"""The work of the bulk benchmark, in one place for the engine and for the scripts beside it.

The scripts get the very functions of the steps, applied to distinct values only, as a competent user would; what
differs is all around them: how rows are read, held, joined, deduplicated and written.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from events.columns import column_of
from services.steps.catalogue import STEPS
from services.steps.frame import ColumnFrame

NAMES = {
    "key": "parse_person_name",
    "config": {"field": "Full Name", "outputs": {"first": "given", "last": "family"}},
}
EMAIL = {"key": "normalize_email", "config": {"field": "Email", "lowercase_local": True}}
PHONE = {
    "key": "normalize_phone",
    "config": {"field": "Phone Number", "region_field": "Country", "output_field": "phone"},
}
DOMAIN = {
    "key": "extract_domain",
    "config": {"url_fields": ["Website"], "email_fields": ["Email"], "output_field": "domain"},
}
MAPPING = {
    "id": "Record ID",
    "first_name": "given",
    "last_name": "family",
    "name": "Full Name",
    "email": "Email",
    "phone": "phone",
    "domain": "domain",
    "company": "Company Name",
    "country": "Country",
    "city": "City",
    "created": "Created",
}
DEFAULTS = {"company": "unknown"}
KEY = "email"

PIPELINE: list[dict[str, Any]] = [
    NAMES,
    EMAIL,
    PHONE,
    DOMAIN,
    {"key": "map_fields", "config": {"mappings": MAPPING, "defaults": DEFAULTS, "drop_unmapped": True}},
    {"key": "deduplicate", "config": {"keys": [[KEY]], "keep": "first"}},
]
"""The blueprint's steps: names, e-mail, phones, domain, mapping, dedupe."""

_STEPS = {step.key: step for step in STEPS}


def results_for(step: dict[str, Any], values: Mapping[str, Sequence[str | None]], outputs: Sequence[str]) -> list[Any]:
    """What a row-wise step makes of these values of its fields: a list for each output field."""
    found = _STEPS[step["key"]]
    columns = {name: column_of(list(texts)) for name, texts in values.items()}
    frame = ColumnFrame(columns, pa.array(range(len(next(iter(columns.values())))), pa.int64()))
    (result,) = found.run([frame], found.config_model.model_validate(step["config"]))
    return [result.frame.values(name) for name in outputs]


def rows_digest(path: Path) -> tuple[int, str]:
    """The number of rows of a Parquet file, and the SHA-256 of them: a line of JSON each, in the file's order."""
    digest = hashlib.sha256()
    count = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=10_000):
            lines = [
                orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS) for row in batch.to_pylist()
            ]
            digest.update(b"".join(lines))
            count += len(lines)
    return count, digest.hexdigest()
