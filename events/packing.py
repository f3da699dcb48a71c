"""Packing of what is sealed: Zstandard (RFC 8878), before it is encrypted, as afterwards nothing gets smaller.

A run's decisions repeat field names and often whole records; what is packed is written, flushed, copied and hashed by
everybody who comes after. How small it got shows in its length: all of it is one company's own, so that nobody else's
secret can be guessed by what one adds to it (as in CRIME).
"""

import threading

import zstandard

PACK_MIN_BYTES = 256
OPENED_MAX_BYTES = 64 * 1024 * 1024
"""Eight times the largest message: more is a bomb."""

_LEVEL = 1  # 5 µs for 5 kB; higher levels win next to nothing at such sizes


class _Tools(threading.local):
    """One pair a thread: making them costs more than using them, and they may not be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_tools = _Tools()


def pack(data: bytes) -> bytes | None:
    """The packed form; None when it would not be smaller, or is not worth it."""
    if len(data) < PACK_MIN_BYTES:
        return None
    packed = _tools.compressor.compress(data)
    return packed if len(packed) < len(data) else None


def unpack(packed: bytes) -> bytes:
    """The inverse of `pack`, of at most OPENED_MAX_BYTES. Raises ValueError."""
    try:
        size_bytes = zstandard.frame_content_size(packed)
        if not 0 <= size_bytes <= OPENED_MAX_BYTES:
            raise ValueError(f"What is packed says that it opens to {size_bytes} bytes.")
        return _tools.decompressor.decompress(packed)
    except zstandard.ZstdError as error:
        raise ValueError(f"What is packed cannot be opened: {error}") from error
