"""`dex audit verify` on files, and what it says."""

import gzip
import json
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from cli.embedded import new_key
from cli.main import app
from events.audit.checkpoint import AuditKey
from events.audit.note import Verifier
from tests.audit.support import KEY, OTHER_ORG, as_lines, checkpoint, entry, history, records
from tests.audit.test_verify import ENTRIES, NOTE, WHOLE, replaced, without

OTHERS = checkpoint(history(9, org_id=OTHER_ORG), org_id=OTHER_ORG)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    whole = b"".join(as_lines(WHOLE))
    (tmp_path / "good.ndjson").write_bytes(whole)
    (tmp_path / "good.ndjson.gz").write_bytes(gzip.compress(whole))
    (tmp_path / "cut.ndjson.gz").write_bytes(gzip.compress(whole)[:-3000])
    (tmp_path / "bad.ndjson").write_bytes(b"".join(as_lines(replaced(WHOLE, 300, entry(901, name="Globey")))))
    (tmp_path / "gone.ndjson").write_bytes(b"".join(as_lines(without(WHOLE, 300))))
    (tmp_path / "some.ndjson").write_bytes(
        b"".join(as_lines(records(ENTRIES, [3, 500], selection={"kind": "company"})))
    )
    (tmp_path / "note").write_text(NOTE)
    (tmp_path / "answer.json").write_text(json.dumps({"size": 600, "checkpoint": NOTE}, indent=1))
    pushed = [OTHERS, *(checkpoint(ENTRIES, size) for size in (1, 300, 599)), NOTE]
    (tmp_path / "pushed").write_bytes(b"".join(orjson.dumps({"checkpoint": note}) + b"\n" for note in pushed))
    (tmp_path / "received").write_bytes(orjson.dumps({"checkpoints": pushed}))
    return tmp_path


def dex(*arguments: object, stdin: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["audit", *map(str, arguments)], input=stdin)
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["good.ndjson", "good.ndjson.gz"])
@pytest.mark.parametrize("source", ["note", "answer.json", "pushed", "received"])
def test_what_holds(files: Path, name: str, source: str) -> None:
    code, said = dex("verify", files / name, "--checkpoint", files / source, "--key", KEY.verifier())
    assert code == 0, said
    assert "Verified: 600 decisions, all" in said
    assert "signature checked" in said
    assert ("4 checkpoints" in said) == (source in ("pushed", "received"))


def test_what_is_trusted_is_said(files: Path) -> None:
    code, said = dex("verify", files / "good.ndjson", "--checkpoint", "-", stdin=NOTE)
    assert (code, "signature not checked" in said) == (0, True)
    (files / "older").write_text(checkpoint(ENTRIES, 300))
    code, said = dex("verify", files / "good.ndjson", "--checkpoint", files / "older")
    assert (code, "From index 300 on it rests on the export's own word" in said) == (0, True)
    code, said = dex("verify", files / "some.ndjson", "--key", KEY.verifier())
    assert (code, "2 of 600" in said, "no others cannot be seen" in said) == (0, True, True)


def test_what_does_not_hold(files: Path) -> None:
    for name, kind, place in (
        ("bad.ndjson", "Altered:", "(index 300, position 901, line 304)"),
        ("gone.ndjson", "Removed:", "(index 300, line 304)"),
    ):
        code, said = dex("verify", files / name, "--checkpoint", files / "note")
        assert (code, kind in said, place in said.replace("\n", " ")) == (1, True, True), said
    code, said = dex("verify", files / "cut.ndjson.gz", "--key", KEY.verifier(), "--json")
    assert (code, json.loads(said)["finding"]["kind"]) in ((1, "truncated"), (1, "malformed"))


def test_json(files: Path) -> None:
    code, said = dex("verify", files / "bad.ndjson", "--previous", files / "pushed", "--key", KEY.verifier(), "--json")
    report = json.loads(said)
    assert (code, report["ok"], report["finding"]["kind"]) == (1, False, "altered")
    assert (report["finding"]["index"], report["finding"]["position"], report["finding"]["line"]) == (300, 901, 304)


@pytest.mark.parametrize(
    "arguments",
    [["none", "--key", "x"], ["good.ndjson"], ["good.ndjson", "--key", "x"],
     ["good.ndjson", "--checkpoint", "none"], ["good.ndjson", "--checkpoint", "empty"],
     ["good.ndjson", "--checkpoint", "others"], ["good.ndjson", "--checkpoint", "strange"]],
)  # fmt: skip
def test_what_it_cannot_begin_with(files: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    (files / "empty").write_text("{}")
    (files / "strange").write_text('{"checkpoint": 1}\n{"checkpoint": 2}')
    (files / "others").write_bytes((orjson.dumps({"checkpoint": OTHERS}) + b"\n") * 2)
    code, said = dex("verify", *arguments)
    assert (code, said.startswith("Error:")) == (1, True), said


def test_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATA_ENGINE_HOME", str(tmp_path))
    monkeypatch.delenv("DATA_ENGINE_AUDIT_KEY", raising=False)
    assert dex("key")[0] == 1
    code, secret = dex("new-key")
    assert code == 0
    (tmp_path / "embedded.json").write_text(json.dumps({"audit_key": secret.strip()}))
    of_folder = dex("key")[1]
    monkeypatch.setenv("DATA_ENGINE_AUDIT_KEY", new_key())
    monkeypatch.setenv("DATA_ENGINE_AUDIT_ORIGIN", "history.example")
    of_setting = dex("key", "--org", OTHER_ORG)[1]
    assert str(Verifier.parse(of_folder)) == str(AuditKey.of(secret, "data-engine-x.local").verifier())
    assert Verifier.parse(of_setting).name == f"history.example/{OTHER_ORG}"
