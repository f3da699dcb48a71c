"""Keys of rows: 128 bits for the values of some fields, equal where the values count as equal."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from services.steps._values import is_blank
from services.steps.base import StepError
from services.steps.frame import Frame, distinct_rows

KEY_BYTES = 16


def row_keys(frame: Frame, names: Sequence[str]) -> pa.Array:
    """Each row's key over these fields, null when one of them is blank. Keys are BLAKE2b's (RFC 7693).

    Raises StepError `unusable_key` when a value nests too deeply to compare.
    """
    combinations = distinct_rows(frame, names)
    keys = pa.array([key_of(values) for values in combinations.values], pa.binary(KEY_BYTES))
    return keys.take(pa.array(combinations.codes, pa.int64()))


def key_of(values: Sequence[Any]) -> bytes | None:
    """What values that count as equal have in common; None when one of them is blank. Raises as `row_keys` does."""
    parts = []
    for value in values:
        part = _comparable(value)
        if part is None:
            return None
        parts.append(b"%d:" % len(part) + part)
    return blake2b(b"".join(parts), digest_size=KEY_BYTES).digest()


def _comparable(value: Any) -> bytes | None:
    """The same bytes for values that count as equal; None for a blank."""
    if is_blank(value):
        return None
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bool):
        return b"b1" if value else b"b0"
    if isinstance(value, int | float):
        whole = isinstance(value, float) and value.is_integer()
        return b"n" + repr(int(value) if whole else value).encode()
    try:
        return b"j" + json.dumps(value, sort_keys=True).encode()
    except (RecursionError, ValueError) as error:
        raise StepError("a key's value cannot be compared: it nests too deeply", code="unusable_key") from error
