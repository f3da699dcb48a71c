"""Batches of records as the log holds them: small ones inline, larger ones in the blob store, one type for both."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

INLINE_MAX_BYTES = 8_192
"""Up to this size a payload travels inside its event; above, the event carries only the digest."""


Format = Literal["json", "batch", "file"]


class Payload(BaseModel):
    """A batch of records. `inline` is its JSON text, or None when the bytes are in the blob store under `digest`.

    The text is a list of records (`json`), the manifest of a large batch (`batch`: events.batch), or the list of the
    parts of a file that was uploaded (`file`: events.upload), whose rows are not counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    digest: str
    """SHA-256 of the bytes, hexadecimal."""
    size_bytes: int
    rows: int
    inline: str | None = None
    format: Format = "json"


def encode_records(records: Sequence[Any], ids: Sequence[int] | None = None) -> bytes:
    """Compact UTF-8 JSON of a batch, keys in the order given: the bytes that the digest is taken of.

    A list of the records; or, where their ids are not 0, 1, …, {"row_ids": […], "records": […]}.
    """
    if ids is None or all(row_id == row for row, row_id in enumerate(ids)):
        return orjson.dumps(records)
    return orjson.dumps({"row_ids": ids, "records": records})


def decode_records(data: bytes | str) -> list[Any]:
    """The records of an encoded batch."""
    return decode_batch(data)[0]


def decode_batch(data: bytes | str) -> tuple[list[Any], list[int] | None]:
    """The inverse of `encode_records`: the records, and their ids where these are not 0, 1, …"""
    plain = orjson.loads(data)
    return (plain, None) if isinstance(plain, list) else (plain["records"], plain["row_ids"])


def digest_of(data: bytes) -> str:
    """SHA-256 of `data`, hexadecimal (FIPS 180-4)."""
    return hashlib.sha256(data).hexdigest()


def describe(data: bytes, rows: int) -> Payload:
    """The payload of encoded records; the caller stores `data` in the blob store when `inline` is None."""
    inline = data.decode() if len(data) <= INLINE_MAX_BYTES else None
    return Payload(digest=digest_of(data), size_bytes=len(data), rows=rows, inline=inline)
