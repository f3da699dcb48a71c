"""The file's bytes, decompressed as they are read, counted, and bounded."""

from collections.abc import Callable, Iterator
from typing import IO

import pyarrow as pa

from services.ingest.config import MIB, ReadFileConfig
from services.steps.base import StepError

MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
MAGIC_BYTES = 4
RATIO_FREE_BYTES = 64 * MIB
"""The ratio is not looked at below: a small file that unpacks well is no danger."""


class _Parts:
    """The parts as one file, which is what Arrow reads from. Keeps what the iterator raised."""

    closed = False

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = (part for part in parts if part)
        self._held = memoryview(b"")
        self.size_bytes = 0
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end."""
        if not self._held:
            try:
                self._held = memoryview(next(self._parts, b""))
            except Exception as error:
                self.error = error
                raise
        found = bytes(self._held[:size])
        self._held = self._held[size:]
        self.size_bytes += len(found)
        return found

    def put_back(self, data: bytes) -> None:
        """Give `data` again at the next read."""
        self._held = memoryview(data + bytes(self._held))
        self.size_bytes -= len(data)

    def close(self) -> None:
        """There is nothing to close."""


class ByteStream:
    """Reads on and on, never back. Holds no more than what is asked for, and what a decompressor needs (128 MiB)."""

    def __init__(self, parts: Iterator[bytes], config: ReadFileConfig) -> None:
        """Look at the first bytes. Raises StepError when they are not compressed as the config says."""
        self._parts = _Parts(parts)
        self._config = config
        self._peeked = b""
        head = b""
        while len(head) < MAGIC_BYTES and (more := self._parts.read(MAGIC_BYTES - len(head))):
            head += more
        self._parts.put_back(head)
        found = next((name for magic, name in MAGIC.items() if head.startswith(magic)), "none")
        if config.compression not in ("auto", found):
            raise StepError(
                f"The file was declared as compression {config.compression!r}, and its first bytes are "
                f"{head.hex(' ') or 'none'}, which is {found!r}. Say compression 'auto', or upload another file.",
                code="compression_mismatch",
            )
        self.compression = found
        self.size_bytes = 0
        """Bytes given out or peeked at, without compression."""
        reader: Callable[[int], bytes] = self._parts.read
        if found != "none":
            reader = pa.CompressedInputStream(pa.PythonFile(self._parts, mode="r"), found).read
        self._reader = reader

    @property
    def compressed_bytes(self) -> int:
        """The file's bytes that were taken in, as they were uploaded."""
        return self._parts.size_bytes

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end; they are given out again."""
        if len(self._peeked) < size:
            self._peeked += self._fetch(size - len(self._peeked))
        return self._peeked[:size]

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end, whatever the sizes of the parts."""
        head, self._peeked = self._peeked[:size], self._peeked[size:]
        return head + self._fetch(size - len(head)) if len(head) < size else head

    def spool(self, file: IO[bytes], max_bytes: int) -> int:
        """Write all the rest into `file`; the number of bytes. Raises StepError `file_too_large`."""
        total = 0
        while block := self.read(MIB):
            total += len(block)
            if total > max_bytes:
                raise StepError(f"The file is larger than {max_bytes} bytes (max_spool_bytes).", code="file_too_large")
            file.write(block)
        file.flush()
        return total

    def _fetch(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while size:
            piece = self._piece(min(size, MIB))
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
            self.size_bytes += len(piece)
            self._check()
        return b"".join(pieces)

    def _piece(self, size: int) -> bytes:
        if self.compression == "none":
            return self._reader(size)
        try:
            return self._reader(size)
        except OSError as error:
            if self._parts.error is not None:
                raise self._parts.error from error
            raise StepError(
                f"The {self.compression} data is damaged or cut off after {self.size_bytes} bytes of content "
                f"({error}). Compress and upload the file again.",
                code="damaged_file",
            ) from error

    def _check(self) -> None:
        if self.size_bytes > self._config.max_bytes:
            raise StepError(
                f"The file is larger than {self._config.max_bytes} bytes (max_bytes).", code="file_too_large"
            )
        taken = self._parts.size_bytes
        if self.size_bytes > max(RATIO_FREE_BYTES, self._config.max_ratio * taken):
            raise StepError(
                f"{taken} bytes of {self.compression} unpack to more than {self._config.max_ratio} times as many "
                "(max_ratio). If the file is what it should be, upload it uncompressed.",
                code="unpacks_too_large",
            )
