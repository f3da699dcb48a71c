"""The vectors that docs/audit-format.md names: files that never change, for whoever implements it a second time.

Each is verified with verifier.txt, previous.note and, but for `rewritten`, checkpoint.note.
"""

import json
from pathlib import Path

import pytest

from events.audit.note import Verifier
from events.audit.verify import verify

FOLDER = Path(__file__).parent / "vectors"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def test_none_is_left_out() -> None:
    assert {path.stem for path in FOLDER.glob("*.ndjson")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_vector(name: str) -> None:
    checkpoint, previous = ((FOLDER / file).read_text() for file in ("checkpoint.note", "previous.note"))
    report = verify(
        (FOLDER / f"{name}.ndjson").read_bytes().splitlines(),
        checkpoint=None if name == "rewritten" else checkpoint,
        key=Verifier.parse((FOLDER / "verifier.txt").read_text()),
        previous=[previous],
    ).as_json()
    wanted = EXPECTED[name]
    assert report["ok"] == wanted["ok"], report
    if not wanted["ok"]:
        assert {key: report["finding"][key] for key in wanted["finding"]} == wanted["finding"]
