"""Formats that are known by a file's first bytes."""

from typing import Final

from services.steps.base import StepError

PARQUET: Final = b"PAR1"
ZIP: Final = b"PK\x03\x04"
OTHERS: Final = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Excel file (.xls) or one with a password: save it as plain .xlsx",
    b"PK\x05\x06": "an empty ZIP archive",
    b"%PDF-": "a PDF",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"BZh": "compressed with bzip2: use gzip or zstd",
    b"\xfd7zXZ\x00": "compressed with xz: use gzip or zstd",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: upload what is in it",
    b"Rar!\x1a\x07": "a RAR archive: upload what is in it",
    b"ARROW1": "an Arrow file: save it as Parquet",
    b"SQLite format 3\x00": "an SQLite database",
    b"Obj\x01": "an Avro file: save it as Parquet",
    b"ORC": "an ORC file: save it as Parquet",
    b"PARE": "an encrypted Parquet file",
    b"\x1f\x8b": "compressed twice: compress it once",
    b"\x28\xb5\x2f\xfd": "compressed twice: compress it once",
}
_NO_TEXT_FOLLOWS: Final = {b"ORC", b"BZh", b"GIF8", b"PARE"}


def binary_format(head: bytes, declared: str) -> str | None:
    """`parquet`, `xlsx` (any ZIP archive), or None for what may be text.

    Raises StepError `unsupported_format`, or `format_mismatch` when the content is not what was declared.
    """
    found = "parquet" if head.startswith(PARQUET) else "xlsx" if head.startswith(ZIP) else None
    if found is None:
        for magic, name in OTHERS.items():
            # Letters alone may begin a text, too: there is one when no byte of it is a control character.
            if head.startswith(magic) and not (magic in _NO_TEXT_FOLLOWS and head.isascii() and b"\x00" not in head):
                raise StepError(
                    f"The file is {name}. CSV, JSON lines, Parquet and XLSX can be read.", code="unsupported_format"
                )
    if declared == "auto" or declared == found or (found is None and declared in ("csv", "jsonl")):
        return found
    raise StepError(
        f"The file was declared as {declared}, and its content is {found or 'something else'} "
        f"(it begins with {head[:8].hex(' ')}). Say format 'auto', or upload the file it should be.",
        code="format_mismatch",
    )
