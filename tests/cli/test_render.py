"""What is drawn in a terminal: a stranger's text brings no markup, and nothing that a terminal obeys."""

from pathlib import Path

import pytest
import typer

from cli.auditing import show_report, verify_file
from cli.previewing import show_changes
from cli.render import console, facts_table, harmless, records_table, shown, steps_table
from cli.shell import guarded
from events.audit.findings import Finding, Report
from events.errors import InvalidInputError

CLEARS, TURNS = "\x1b[2J\x1b[1;1HVerified", "abc\u202egnp.exe"
MARKUP = ["[/]", "[red]", "\\[bold]x", "\\", "a[/red]\\", "[link=http://x]y[/link]", "[[]]", "\\\\[/]"]


@pytest.mark.parametrize("text", MARKUP)
def test_markup_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.print(f"[bold]{shown(text)}[/] after", soft_wrap=True)
    assert capsys.readouterr().out == f"{text} after\n"


@pytest.mark.parametrize("text", [CLEARS, TURNS, "\x07", "\x9b2J", "\x7f", "a\rb"])
def test_what_a_terminal_obeys_is_escaped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.print(records_table("Rows", [{"name": text}], ["name"]))
    console.print(facts_table("Facts", ["name"], [(text,)]))
    printed = capsys.readouterr().out
    assert not any(char in printed for char in "\x1b\u202e\x07\x9b\x7f\r")
    assert "\\" in printed
    assert harmless("Zoë 🙂 \u200d שלום\n") == "Zoë 🙂 \u200d שלום\n"


def test_an_error_and_a_finding_are_sentences_whatever_they_quote(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise InvalidInputError(f"There is no file x[/y]{CLEARS}.")

    with pytest.raises(typer.Exit):
        guarded(fails)
    assert capsys.readouterr().err == "Error: There is no file x[/y]\\x1b[2J\\x1b[1;1HVerified.\n"
    report = Report()
    report.finding = Finding("altered", f"The line [/] was altered{CLEARS}")
    show_report(report)
    assert capsys.readouterr().out == "Altered: The line [/] was altered\\x1b[2J\\x1b[1;1HVerified\n"


def side(*records: dict, ids: tuple[int, ...] = (0, 1)) -> dict:
    return {"rows": len(records), "row_ids": ids[: len(records)], "records": records}


def test_a_preview_says_what_came_and_went_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    show_changes(side({"a": 1, "gone": "x"}, {"a": 2}), side({"a": 1, "new": "y"}, {"a": 3}))
    out = capsys.readouterr().out
    assert out.startswith("2 rows in, 2 rows out; changed: 2\n")
    assert all(cell in out for cell in ("+ y", "− x", "2 → 3"))
    show_changes(side({"a": 1}), side({"a": 1}))
    assert capsys.readouterr().out == "1 rows in, 1 rows out; changed: 0\n"
    show_changes(side({"a": 1}, {"a": 2}), side({"a": 1}))
    assert "1 −" in capsys.readouterr().out


def test_a_reused_result_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"step_index": 0, "step_key": "derive", "status": "succeeded", "attempt": 0, "reused_from_run_id": "r"}
    console.print(steps_table([result, {**result, "reused_from_run_id": None}]))
    lines = capsys.readouterr().out.splitlines()
    assert [("reused" in line, "succeeded" in line) for line in lines if "derive" in line] == [
        (True, False),
        (False, True),
    ]


def test_a_file_with_brackets_in_its_name_is_only_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        guarded(lambda: verify_file(tmp_path / "[/].ndjson", None, "k", [], quiet=True))
    assert "[/].ndjson" in capsys.readouterr().err
