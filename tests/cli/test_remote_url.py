"""`dex remote-url`: what a worker in another language connects with."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.system import state_path


def running(home: Path, **urls: str) -> None:
    """As a system on `home` tells of itself."""
    path = state_path(home)
    path.parent.mkdir(parents=True)
    known = {"supervisor_pid": os.getpid(), "nats_url": "nats://o:p@h", "database_url": "postgresql://o:p@h/d"}
    path.write_text(json.dumps({**known, "process_nats_urls": urls}))


def test_the_url_of_an_embedded_server_is_printed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running(home, **{"remote-worker": "nats://remote-worker:secret@127.0.0.1:4222", "worker": "nats://worker:x@h"})
    monkeypatch.setenv("DATA_ENGINE_HOME", str(home))
    result = CliRunner().invoke(app, ["remote-url"])
    assert (result.exit_code, result.stdout) == (0, "nats://remote-worker:secret@127.0.0.1:4222\n")


def test_where_it_is_not_known_it_says_how_to_make_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running(home, worker="nats://worker:x@h")
    monkeypatch.setenv("DATA_ENGINE_HOME", str(home))
    result = CliRunner().invoke(app, ["remote-url"])
    assert result.exit_code == 1
    assert "NATS_REMOTE_WORKER_PASSWORD" in result.output
