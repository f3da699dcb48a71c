"""The pages of the step catalogue: those in the tree are those that the code makes, and say what users need."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.step_pages import page, pages, write_pages
from services.steps.catalogue import STEPS

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_pages_in_the_docs_are_those_of_the_code() -> None:
    made = pages()
    assert {f"steps/{path.name}" for path in (DOCS / "steps").glob("*.md")} == made.keys() - {"steps.md"}
    for name, text in made.items():
        assert (DOCS / name).read_text() == text, f"{name} is not what the code says: run `dex docs steps --out docs`"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.key)
def test_a_page_tells_all_of_a_step(step) -> None:
    text = page(step)
    shown = re.sub(r"\s+", " ", text).replace("\\|", "|")
    assert step.summary in text
    assert step.version in text
    assert step.holds in text
    for name, field in step.config_schema()["properties"].items():
        assert f"| `{name}` | " in text
        assert re.sub(r"\s+", " ", field["description"]).strip() in shown
    what = text.partition("## What it does")[2].partition("## Config")[0]
    assert len(what.split()) > 5, f"{step.key} has no docstring that says what it does"
    for example in step.examples:
        assert f"## Example: {example.title}" in text
        for reject in example.rejects:
            assert f"`{reject.code}`" in text
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| ")]
    heads = [len(re.findall(r"\|", line)) for line in text.splitlines() if line.startswith("| --- ")]
    assert set(columns) <= set(heads), "a cell breaks its table"


def test_a_page_of_a_step_that_is_no_more_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "gone.md").write_text("old")
    written = write_pages(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*.md")) == sorted(written)
    assert len(written) == len(STEPS) + 1


def test_one_page_is_printed_and_an_unknown_step_is_told() -> None:
    assert CliRunner().invoke(app, ["docs", "steps", "map_fields"]).output == pages()["steps/map_fields.md"]
    assert CliRunner().invoke(app, ["docs", "steps"]).output == pages()["steps.md"]
    refused = CliRunner().invoke(app, ["docs", "steps", "mend_everything"])
    assert refused.exit_code == 2
    assert "mend_everything" in refused.output
