"""The verifier of sdk/typescript, a second implementation of docs/audit-format.md, on the same exports as ours."""

import asyncio
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from events.audit.verify import verify
from tests.audit.support import COMPANY, KEY, ORG, STRANGER, as_lines, checkpoint, entry, records
from tests.audit.test_vectors import EXPECTED, FOLDER
from tests.audit.test_verify import ENTRIES, NOTE, TAMPERED, WHOLE, Records, run_of
from tests.audit.typescript import SOURCE, said

AT_ONCE = 4

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs Node 20, npm"
)


def test_it_is_small_and_needs_nothing() -> None:
    text = (SOURCE / "verify.ts").read_text()
    assert len(text.splitlines()) <= 310
    imports = [line for line in text.splitlines() if line.startswith("import ")]
    assert imports
    assert all('from "node:' in line for line in imports)


FORGED = [*ENTRIES[:300], entry(901, name="Globey"), *ENTRIES[301:]]
SOME: dict[str, Any] = {"selection": {"kind": "company", "company_id": COMPANY}}
RUN_ENTRIES, RUN = run_of([1, 2, 3])

# what, its lines, the notes that are given, and the key
CASES: list[tuple[str, Records, list[str], Any]] = [
    ("all right", WHOLE, [NOTE], KEY),
    ("without a key", WHOLE, [NOTE], None),
    ("without a checkpoint", WHOLE, [], KEY),
    ("compared", WHOLE, [NOTE, *(checkpoint(ENTRIES, size) for size in (1, 2, 255, 256, 257, 300, 512, 599))], KEY),
    *((f"of size {size}", records(ENTRIES[:size]), [checkpoint(ENTRIES[:size])], KEY) for size in (1, 2, 256, 257)),
    ("a range", records(ENTRIES, part=(250, 520), selection={"kind": "range"}), [NOTE], KEY),
    ("some", records(ENTRIES, [3, 4, 258, 599], **SOME), [NOTE], KEY),
    ("some, none", records(ENTRIES, [], **SOME), [NOTE], KEY),
    *((f"some, since {size}", records(ENTRIES, [3, 500], **SOME, previous=(size,)), [checkpoint(ENTRIES, size)], KEY)
      for size in (1, 2, 3, 64, 100, 255, 256, 257, 511, 512, 513, 599)),
    ("some, without a proof", records(ENTRIES, [3, 500], **SOME), [checkpoint(ENTRIES, 300)], KEY),
    ("rewritten", records(FORGED), [checkpoint(ENTRIES, size) for size in (100, 299, 400)], KEY),
    ("rewritten wholly", records(FORGED), [NOTE], KEY),
    ("rewritten, some", records(FORGED, [3, 500], **SOME, previous=(400,)), [checkpoint(ENTRIES, 400)], KEY),
    ("an old one", records(ENTRIES[:500]), [NOTE], KEY),
    ("a strange key", WHOLE, [NOTE], STRANGER),
    ("a strange signature", WHOLE, [checkpoint(ENTRIES, key=STRANGER)], KEY),
    ("a run", RUN, [checkpoint(RUN_ENTRIES)], KEY),
    ("a run with a gap", run_of([1, 3])[1], [checkpoint(RUN_ENTRIES)], KEY),
    *((f"tampered: {name}", build(), [NOTE], KEY) for name, build, *_ in TAMPERED),
]  # fmt: skip


async def test_it_agrees_with_ours(verifier: Path, tmp_path: Path) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def compare(number: int) -> None:
        name, found, notes, key = CASES[number]
        lines = as_lines(found)
        ours = verify(
            lines,
            checkpoint=notes[0] if notes else None,
            key=None if key is None else key.verifier(),
            previous=notes[1:],
        ).as_json()
        file = tmp_path / f"{number}.ndjson.gz"
        file.write_bytes(gzip.compress(b"".join(lines)))
        command = ["node", str(verifier), str(file)]
        for at, note in enumerate(notes):
            path = tmp_path / f"{number}-{at}.note"
            path.write_text(note)
            command += ["--previous" if at else "--checkpoint", str(path)]
        command += [] if key is None else ["--key", str(key.verifier(ORG if number % 2 else None))]
        async with gate:
            code, out, err = await said(*command, cwd=tmp_path)
        assert code == (0 if ours["ok"] else 1), (name, out, err, ours)
        theirs = json.loads(out)
        compared = ("ok", "size", "decisions", "whole") if ours["ok"] else ("ok",)
        assert {key: theirs[key] for key in compared} == {key: ours[key] for key in compared}, name
        if not ours["ok"]:
            places = [{key: side["finding"][key] for key in ("kind", "index", "position")} for side in (theirs, ours)]
            assert places[0] == places[1], (name, theirs, ours)

    await asyncio.gather(*(compare(number) for number in range(len(CASES))))


async def test_what_it_cannot_begin_with(verifier: Path, tmp_path: Path) -> None:
    file = tmp_path / "export.ndjson"
    file.write_bytes(b"".join(as_lines(WHOLE)))
    for options in ([], ["--key", "x"], ["--checkpoint", "/none"]):
        code, _, err = await said("node", str(verifier), str(file), *options, cwd=tmp_path)
        assert (code, bool(err)) == (2, True)


async def test_a_text_with_line_separators_of_unicode(verifier: Path, tmp_path: Path) -> None:
    entries = [entry(1, name="one\u2028two\u2029three\u0085four\rfive")]
    file, note = tmp_path / "export.ndjson", tmp_path / "note"
    file.write_bytes(b"".join(as_lines(records(entries))))
    note.write_text(checkpoint(entries))
    code, out, err = await said("node", str(verifier), str(file), "--checkpoint", str(note), cwd=tmp_path)
    assert code == 0, out + err


@pytest.mark.parametrize("name", EXPECTED)
async def test_the_vectors(verifier: Path, name: str) -> None:
    notes = ["--previous", "previous.note", *([] if name == "rewritten" else ["--checkpoint", "checkpoint.note"])]
    key = (FOLDER / "verifier.txt").read_text().strip()
    _, out, err = await said("node", str(verifier), f"{name}.ndjson", *notes, "--key", key, cwd=FOLDER)
    report, wanted = json.loads(out), EXPECTED[name]
    assert report["ok"] == wanted["ok"], out + err
    if not wanted["ok"]:
        assert {key: report["finding"][key] for key in wanted["finding"]} == wanted["finding"]
