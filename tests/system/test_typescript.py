"""The TypeScript worker of sdk/typescript, built as a user builds it, serves a step of the running system."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.embedded import EmbeddedConfig
from cli.system import System
from events.settings import Settings
from tests.system.client import Org
from tests.system.extra_worker import extra_worker

SOURCE = Path(__file__).parents[2] / "sdk" / "typescript"
STEP = {"key": "initials", "config": {"field": "name", "into": "initials"}}

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs Node 20, npm"
)


async def _npm(folder: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "npm", *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
async def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed from its lock file and built, in a folder of its own; its own tests have passed."""
    folder = tmp_path_factory.mktemp("typescript") / "sdk"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "*.tsbuildinfo"))
    await _npm(folder, "ci", "--no-audit", "--no-fund")
    assert "# fail 0" in await _npm(folder, "test")
    return folder


class Node:
    """The example, running; each line that it prints is a note."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def note(self) -> dict:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 30)
        assert line, "the worker ended"
        return json.loads(line)


@pytest.fixture
async def node(built: Path, servers: EmbeddedConfig) -> AsyncIterator[Node]:
    environment = {**os.environ, "DATA_ENGINE_NATS_URL": servers.nats_urls["remote-worker"]}
    process = await asyncio.create_subprocess_exec(
        "node", "dist/examples/initials.js", cwd=built, env=environment, stdout=asyncio.subprocess.PIPE
    )
    yield Node(process)
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_a_blueprint_with_a_step_in_typescript(
    system: System, system_settings: Settings, org: Org, node: Node, tmp_path: Path
) -> None:
    big = 2**63 - 1
    records = [{"name": "Ada King", "n": big, "x": 1e20}, {"name": 7}, {"name": "Åse 😀", "e": {"deep": [None, 0.1]}}]
    first = await node.note()
    assert first["event"] in ("unheard", "accepted"), first  # nobody serves remote steps yet, or a test before this one
    async with extra_worker(system, system_settings, tmp_path, "--remote", "initials"):
        while first["event"] != "accepted":  # it announces itself again, every ten seconds
            first = await node.note()
        made = await org.submit(
            await org.blueprint(STEP, "test_count"), [{**r, "n": r.get("n", 1) - 1} for r in records]
        )
        run = await org.ended(made)
        assert run["status"] == "succeeded", run
        page = await org.call("results/get", {"run_id": made["run_id"], "min_position": run["position"]})
        assert page["records"] == [
            {"name": "Ada King", "n": big, "x": 1e20, "initials": "AK"},
            {"name": "Åse 😀", "e": {"deep": [None, 0.1]}, "n": 1, "initials": "Å😀"},
        ]
        (first_step, _) = await org.steps(made, run["position"])
        assert first_step["step_version"] == "remote+1"
        assert first_step["rejects"]["rows"] == 1
        large = [{"name": f"Person {n}", "more": "x" * 1000} for n in range(3000)]
        made = await org.submit(await org.blueprint(STEP), large)
        run = await org.ended(made)
        assert run["status"] == "succeeded", run
        node.process.terminate()
        assert await asyncio.wait_for(node.process.wait(), 10) == 0
