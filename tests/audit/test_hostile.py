"""Exports that were put together by hand to deceive: both verifiers refuse each, whatever a lenient reader makes of it.

The checkpoint and its signature are genuine throughout; what is forged is how the file says what was signed.
"""

import json
import shutil
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from events.audit.verify import verify
from tests.audit.support import KEY, Entry, as_lines, checkpoint, entry, records
from tests.audit.typescript import said

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs Node 20, npm"
)

SUBJECT = entry(1).subject
BIG = 2**53
"""The first integer whose successor a 64-bit float cannot tell from it."""
PLAIN = [entry(1)]
REPLACED = [Entry(1, SUBJECT, '{"name":"\ufffd"}'.encode())]
EVERY = [Entry(1, SUBJECT, "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)])).encode())]
"""Each character: both sides must write each in the same way."""
LINES = [Entry(1, SUBJECT, b"first\nsecond")]
FAR = [Entry(BIG, SUBJECT, b"{}")]

SALT, TEXT = bytes(range(32)), '{"digest":"d","events":[{"topic":"t","state":{"name":"Globex �"}}]}'
SEALED = [
    Entry(1, SUBJECT, json.dumps({"v": 2, "sealed": sha256(SALT + TEXT.encode()).hexdigest(), "box": ""}).encode())
]

Lines = list[bytes]


def genuine(entries: list[Entry]) -> Lines:
    """Header, tile, the one decision, end."""
    return as_lines(records(entries))


def with_line(entries: list[Entry], number: int, change: Callable[[bytes], bytes]) -> Lines:
    lines = genuine(entries)
    changed = change(lines[number])
    assert changed != lines[number], "nothing was forged"
    return [*lines[:number], changed, *lines[number + 1 :]]


def with_fields(entries: list[Entry], number: int, **fields: Any) -> Lines:
    def change(line: bytes) -> bytes:
        record = {name: value for name, value in {**json.loads(line), **fields}.items() if value is not ...}
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    return with_line(entries, number, change)


def replaced(entries: list[Entry], number: int, old: bytes, new: bytes) -> Lines:
    return with_line(entries, number, lambda line: line.replace(old, new, 1))


def changed(lines: Lines, number: int, old: bytes, new: bytes) -> Lines:
    assert old in lines[number], "nothing was forged"
    return [*lines[:number], lines[number].replace(old, new, 1), *lines[number + 1 :]]


def opened(entries: list[Entry], salt: bytes = SALT, text: Any = TEXT, **more: Any) -> Lines:
    """With what is said to be sealed in the decision."""
    return with_fields(entries, 2, opened={"salt": b64encode(salt).decode(), "text": text, **more})


def loose(text: str) -> str:
    """The same bytes in another base64: the bits that the padding leaves over are set."""
    assert text.endswith("=")
    body = text.rstrip("=")
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return body[:-1] + digits[digits.index(body[-1]) + 1] + text[len(body) :]


BODY = PLAIN[0].body.decode()
HASHES = json.loads(genuine(PLAIN)[1])["hashes"]

FORGED: dict[str, tuple[list[Entry], Lines]] = {
    "the body begins within the subject": (LINES, with_fields(LINES, 2, subject=f"{SUBJECT}\nfirst", body="second")),
    "a body twice": (PLAIN, replaced(PLAIN, 2, b'"body":', b'"body":"forged","body":')),
    "an index twice": (PLAIN, replaced(PLAIN, 2, b'"index":0', b'"index":7,"index":0')),
    "a checkpoint twice": (PLAIN, replaced(PLAIN, 0, b'"checkpoint":', b'"checkpoint":"x","checkpoint":')),
    "a name twice within": (PLAIN, replaced(PLAIN, 0, b'"kind":"all"', b'"kind":"run","kind":"all"')),
    "two bodies": (PLAIN, with_fields(PLAIN, 2, body64=b64encode(b"forged").decode())),
    "a body that is null": (
        PLAIN, with_fields(PLAIN, 2, body=None, body64=b64encode(PLAIN[0].body).decode())
    ),
    "a body that is a list of bytes": (PLAIN, with_fields(PLAIN, 2, body=list(PLAIN[0].body))),
    "no body": (PLAIN, with_fields(PLAIN, 2, body=...)),
    "no UTF-8 where the replacement character was": (REPLACED, replaced(REPLACED, 2, "\ufffd".encode(), b"\xff")),
    "half a surrogate where it was": (REPLACED, replaced(REPLACED, 2, "\ufffd".encode(), b"\\ud800")),
    "a position that not every reader can hold": (FAR, genuine(FAR)),
    "a position that a float rounds": (FAR, replaced(FAR, 2, b"9007199254740992", b"9007199254740993")),
    "a position that is a float": (PLAIN, replaced(PLAIN, 2, b'"position":1', b'"position":1.0')),
    "an exponent": (PLAIN, replaced(PLAIN, 3, b'"decisions":1', b'"decisions":1e0')),
    "an index that is false": (PLAIN, with_fields(PLAIN, 2, index=False)),
    "a first index that is false": (PLAIN, with_fields(PLAIN, 0, first_index=False)),
    "an end index that is true": (PLAIN, with_fields(PLAIN, 0, end_index=True)),
    "a tile that is false": (PLAIN, with_fields(PLAIN, 1, tile=False)),
    "a count that is true": (PLAIN, with_fields(PLAIN, 3, decisions=True)),
    "a path that is a text": (PLAIN, with_fields(PLAIN, 1, path="")),
    "hashes in a loose base64": (PLAIN, with_fields(PLAIN, 1, hashes=loose(HASHES))),
    "null after the end": (PLAIN, [*genuine(PLAIN), b"null\n"]),
    "an empty line after the end": (PLAIN, [*genuine(PLAIN), b"\n"]),
    "a second end": (PLAIN, [*genuine(PLAIN), genuine(PLAIN)[-1]]),
    "a second file after it": (PLAIN, genuine(PLAIN) * 2),
    "null in the middle": (PLAIN, [*genuine(PLAIN)[:2], b"null\n", *genuine(PLAIN)[2:]]),
    "a byte order mark": (PLAIN, replaced(PLAIN, 0, b"{", b"\xef\xbb\xbf{")),
    "spaces": (PLAIN, replaced(PLAIN, 2, b'"index":', b'"index": ')),
    "escapes": (PLAIN, replaced(PLAIN, 2, b"events.", b"\\u0065vents.")),
    "the decision twice": (PLAIN, [*genuine(PLAIN)[:3], *genuine(PLAIN)[2:]]),
    "the tile twice": (PLAIN, [*genuine(PLAIN)[:2], *genuine(PLAIN)[1:]]),
    "a leaf left out, with the right counts": (PLAIN, [*genuine(PLAIN)[:2], genuine(PLAIN)[3]]),
    "an index below 0": (PLAIN, with_fields(PLAIN, 2, index=-1)),
    "another text than was sealed": (SEALED, opened(SEALED, text=TEXT.replace("Globex", "Initech"))),
    "another salt": (SEALED, opened(SEALED, salt=SALT[::-1])),
    "a text that begins later": (SEALED, opened(SEALED, salt=SALT + TEXT[:1].encode(), text=TEXT[1:])),
    "a text that begins sooner": (SEALED, opened(SEALED, salt=SALT[:-1], text=SALT[-1:].decode() + TEXT)),
    "no text": (SEALED, opened(SEALED, text=None)),
    "a text that is a list": (SEALED, opened(SEALED, text=list(TEXT.encode()))),
    "a salt in a loose base64": (
        SEALED, with_fields(SEALED, 2, opened={"salt": loose(b64encode(SALT).decode()), "text": TEXT})
    ),
    "nothing opened": (SEALED, with_fields(SEALED, 2, opened=None)),
    "half a surrogate in it": (SEALED, changed(opened(SEALED), 2, "�".encode(), b"\\ud800")),
    "what was not sealed is opened": (PLAIN, opened(PLAIN)),
    "a tile beyond all numbers": (PLAIN, with_fields(PLAIN, 1, tile=2**63)),
}  # fmt: skip


@pytest.mark.parametrize("entries", [PLAIN, REPLACED, LINES, EVERY, SEALED])
async def test_what_is_forged_from(verifier: Path, tmp_path: Path, entries: list[Entry]) -> None:
    assert await judged(verifier, tmp_path, entries, genuine(entries)) == (True, True)


async def test_what_is_sealed_is_opened(verifier: Path, tmp_path: Path) -> None:
    assert await judged(verifier, tmp_path, SEALED, opened(SEALED)) == (True, True)
    finding = verify(opened(SEALED, text="{}"), checkpoint=checkpoint(SEALED), key=KEY.verifier()).finding
    assert finding is not None
    assert (finding.kind, finding.index, finding.position) == ("opening", 0, 1)


async def judged(verifier: Path, folder: Path, entries: list[Entry], lines: Lines) -> tuple[bool, bool]:
    """Whether ours accepts it, and theirs."""
    note, key = checkpoint(entries), KEY.verifier()
    file, given = folder / "export.ndjson", folder / "note.txt"
    file.write_bytes(b"".join(lines))
    given.write_text(note)
    command = ("node", str(verifier), str(file), "--checkpoint", str(given), "--key", str(key))
    code, out, err = await said(*command, cwd=folder)
    assert code in (0, 1), out + err
    return verify(file.read_bytes().splitlines(keepends=True), checkpoint=note, key=key).ok, code == 0


@pytest.mark.parametrize("name", FORGED)
async def test_what_is_forged(verifier: Path, tmp_path: Path, name: str) -> None:
    assert await judged(verifier, tmp_path, *FORGED[name]) == (False, False)
