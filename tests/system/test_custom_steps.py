"""The example of docs/custom-steps.md: a package in a folder, served by `dex worker --module` from there."""

import json
import re
import subprocess
import sys
from pathlib import Path

from cli.system import System
from events.settings import Settings
from tests.system.client import Org
from tests.system.extra_worker import extra_worker

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "custom-steps.md").read_text()
CODE, CALL = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
GIVEN, EXPECTED = map(json.loads, re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL))


def package_in(folder: Path) -> None:
    """The document's package."""
    package = folder / "acme_steps"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "steps.py").write_text(CODE)


async def test_a_package_from_a_folder_is_served_to_a_blueprint_beside_the_catalogue(
    system: System, system_settings: Settings, org: Org, tmp_path: Path
) -> None:
    package_in(tmp_path)
    async with extra_worker(system, system_settings, tmp_path, "--module", "acme_steps.steps"):
        names = {"key": "normalize_text", "config": {"fields": ["name"]}}
        blueprint_id = await org.blueprint(names, GIVEN["step"])
        made = await org.submit(blueprint_id, GIVEN["records"])
        run = await org.ended(made)
        assert run["status"] == "succeeded", run
        page = {"run_id": made["run_id"], "min_position": run["position"]}
        assert (await org.call("results/get", page))["records"] == EXPECTED["output"]
        rejects = await org.call("results/get", {**page, "step_index": 1, "kind": "rejects"})
        assert rejects["records"] == EXPECTED["rejects"]
        large = await org.submit(blueprint_id, [{"name": "Acme", "employees": n} for n in range(5000)])
        run = await org.ended(large)  # in a step process, which finds the package too
        assert run["status"] == "succeeded", run


def test_the_step_can_be_called_without_a_server(tmp_path: Path) -> None:
    package_in(tmp_path)
    done = subprocess.run([sys.executable, "-c", CALL], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
