"""What `dex submit` and `dex download` say when something goes wrong, and what they leave behind."""

from pathlib import Path

import httpx
import pytest

from cli.api import Api, ApiError
from cli.submitting import download_results
from events.errors import DataEngineError, InvalidInputError

BODY = {"step_index": None, "kind": "output", "format": "csv", "row_ids": False}


def api_that(answer: httpx.Response) -> Api:
    api = Api("http://gateway.test", "dex_token")
    api.close()
    api._http = httpx.Client(base_url="http://gateway.test/v1/", transport=httpx.MockTransport(lambda _: answer))
    return api


def test_a_download_is_there_when_it_is_whole(tmp_path: Path) -> None:
    made = download_results(api_that(httpx.Response(200, content=b"a\n1\n")), "r", tmp_path / "x.csv", BODY, quiet=True)
    assert made["size_bytes"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_a_refused_download_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("before")
    refused = api_that(httpx.Response(404, json={"detail": "There is no run r."}))
    with pytest.raises(ApiError, match="404: There is no run r"):
        download_results(refused, "r", tmp_path / "x.csv", BODY, quiet=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    ("name", "told", "message"),
    [
        ("nowhere/x.csv", "csv", "x.csv cannot be written"),
        ("x.txt", "txt", r"rows\.csv, rows\.jsonl, rows\.parquet, rows\.arrow"),
        ("x", "", r"rows\.csv"),
    ],
)
def test_a_file_that_cannot_be_written_is_said_to_be_one(tmp_path: Path, name: str, told: str, message: str) -> None:
    api = api_that(httpx.Response(200, content=b"a\n"))
    with pytest.raises(InvalidInputError, match=message):
        download_results(api, "r", tmp_path / name, {**BODY, "format": told}, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_of_something_that_is_no_gateway_is_shown() -> None:
    with pytest.raises(DataEngineError, match="answered 502, and not as the gateway does: '<html>Bad Gateway"):
        api_that(httpx.Response(502, text="<html>Bad Gateway</html>")).call("runs/get")
