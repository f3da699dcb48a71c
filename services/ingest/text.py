"""Text files as UTF-8 blocks of a fixed size, whatever they are encoded in; and what the first of them tells."""

import codecs
from collections.abc import Iterator
from typing import Final

import orjson

from services.ingest.bytestream import ByteStream
from services.ingest.config import MIB
from services.steps.base import StepError

BLOCK_BYTES: Final = 2 * MIB
UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
SNIFFED_LINES = 20
CONTROL = bytes(set(range(32)) - set(b"\t\n\r\x0b\x0c\x1a\x1b"))


class TextBlocks:
    """Blocks of the stream as UTF-8, in turn. What cannot be decoded comes through as bytes that are no UTF-8."""

    def __init__(self, stream: ByteStream, encoding: str) -> None:
        """Look for a byte order mark. Raises StepError when it contradicts `encoding`."""
        self._stream = stream
        head = stream.peek(4096)
        if head.startswith(UTF32_MARKS):
            raise StepError("The file is UTF-32. Save it as UTF-8.", code="unsupported_encoding")
        mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
        self.byte_order_mark = bool(mark)
        marked = MARKS.get(mark)
        if marked and encoding != "auto" and not marked.startswith(encoding):
            raise StepError(
                f"The file was declared as {encoding}, and its byte order mark says {marked}. Say encoding 'auto'.",
                code="encoding_mismatch",
            )
        if encoding == "utf-16" and not marked:
            marked = "utf-16-le"
        if encoding == "auto" and not marked:
            marked = _wide(head)
        self.encoding = marked or encoding
        # JSON is UTF-8 by its standard (RFC 8259): what is broken in it is no other encoding.
        if self.encoding == "auto" and head.lstrip().startswith(b"{"):
            self.encoding = "utf-8"
        stream.read(len(mark))

    def __iter__(self) -> Iterator[bytes]:
        """The blocks; none for an empty file. Raises StepError."""
        wide = None
        if self.encoding.startswith("utf-16"):
            # Lone surrogates come out as bytes that UTF-8 has not, so that the record is found to be unreadable.
            wide = codecs.getincrementaldecoder(self.encoding)("surrogatepass")
        while block := self._stream.read(BLOCK_BYTES):
            if wide is not None:
                yield wide.decode(block).encode("utf-8", "surrogatepass")
                continue
            if self.encoding == "auto" and not block.isascii():
                self.encoding = _judged(block)
            yield self._transcoded(block)
        if wide is not None and wide.getstate()[0]:
            yield b"\xff"  # half a character at the end

    def _transcoded(self, block: bytes) -> bytes:
        if self.encoding in ("auto", "utf-8"):
            return block
        # The five bytes that Windows-1252 has no character for stay what they are, which is no UTF-8 after a character.
        return block.decode(self.encoding, "surrogateescape").encode("utf-8", "surrogateescape")

    @property
    def decided(self) -> str:
        """The encoding so far; a file that is ASCII throughout is UTF-8."""
        return "utf-8" if self.encoding == "auto" else self.encoding


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: in any mostly Latin text every other byte is zero."""
    pairs = len(head) // 2
    if pairs < 2:
        return None
    if head[1::2].count(0) > 0.7 * pairs and head[0::2].count(0) < 0.1 * pairs:
        return "utf-16-le"
    if head[0::2].count(0) > 0.7 * pairs and head[1::2].count(0) < 0.1 * pairs:
        return "utf-16-be"
    return None


def _judged(block: bytes) -> str:
    """UTF-8, or Windows-1252 when more of what is not ASCII is broken UTF-8 than good."""
    good = block.decode("utf-8", "ignore")
    broken = len(block.decode("utf-8", "replace")) - len(good)
    return "cp1252" if broken > sum(1 for c in good if not c.isascii()) else "utf-8"


def require_text(block: bytes) -> None:
    """Raise StepError `not_text` when the block, as UTF-8, is no text that anybody wrote."""
    sample = block[:65536]
    controls = len(sample) - len(sample.translate(None, CONTROL))
    if controls > len(sample) // 10:
        raise StepError(
            "The file is neither text nor a format that is known by its content. Upload CSV, JSON lines, Parquet or "
            "XLSX, plain or compressed with gzip or zstd.",
            code="not_text",
        )


def text_format(block: bytes, declared: str) -> str:
    """`csv` or `jsonl`, by the first lines. Raises StepError when `declared` is the other one, or for a JSON array."""
    lines = [line for line in block[:MIB].split(b"\n", 2 * SNIFFED_LINES)[: 2 * SNIFFED_LINES] if line.strip()]
    first = lines[0].strip() if lines else b""
    if first == b"[" or (first.startswith((b"[{", b"[[")) and declared != "csv"):
        raise StepError(
            "The file is one JSON array. JSON lines have one object a line, without brackets and commas around them "
            "(`jq -c '.[]'` makes them).",
            code="json_array",
        )
    if first == b"{" and declared != "csv":
        raise StepError(
            "The file is one JSON object over several lines. JSON lines have one object a line (`jq -c .` makes them).",
            code="json_object",
        )
    objects = first.startswith(b"{") and any(_is_object(line) for line in lines[:SNIFFED_LINES])
    found = "jsonl" if objects or (declared == "jsonl" and first.startswith(b"{")) else "csv"
    if declared not in ("auto", found):
        seems = "JSON lines" if found == "jsonl" else "text that is not JSON lines"
        raise StepError(
            f"The file was declared as {declared}, and its content is {seems}. Say format 'auto', or upload another "
            "file.",
            code="format_mismatch",
        )
    return found


def _is_object(line: bytes) -> bool:
    try:
        return type(orjson.loads(line)) is dict
    except orjson.JSONDecodeError:
        return False
