"""The rules of the house, as tests: who may import whom, what is banned and what instead, how long things are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("events", "services", "projections", "gateway", "migrations", "cli", "bench", "data_engine_x")

# package → the packages of ours that it may import; the longest matching prefix decides
MAY_IMPORT = {
    "events": {"events"},
    "services/domain": {"events", "services.domain"},
    "services/steps": {"services.steps", "services.ingest.step", "events.columns"},
    "services": {"events", "services"},
    "projections": {"events", "projections"},
    "gateway": {"events", "gateway", "projections.queries", "projections.database"},
    "migrations": {"events", "migrations"},
    "cli": {"events", "services", "projections", "gateway", "migrations", "cli"},
    "data_engine_x": {"services.steps"},
    "bench": {"events", "services", "projections", "gateway", "migrations", "cli", "bench"},
}
DOMAIN_MAY_USE = {"collections", "dataclasses", "datetime", "typing", "events", "services"}
BANNED = {
    "datetime.now": "time enters a decider as data",
    "time.time": "time enters a decider as data",
    "uuid4": "ids enter a decider as data",
    "random": "a decider is deterministic",
    "print": "nothing is logged in the core",
}
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed_for(path: Path) -> set[str]:
    name = name_of(path)
    prefixes = [prefix for prefix in MAY_IMPORT if name.startswith(f"{prefix}/")]
    return MAY_IMPORT[max(prefixes, key=len)]


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_follow_the_house(path):
    allowed = allowed_for(path)
    for module in imports(path):
        if module.split(".")[0] in PACKAGES:
            assert any(module == ok or module.startswith(f"{ok}.") for ok in allowed), (
                f"{name_of(path)} imports {module}"
            )


@pytest.mark.parametrize("path", sorted((ROOT / "services" / "domain").glob("*.py")), ids=name_of)
def test_the_core_is_pure(path):
    assert {module.split(".")[0] for module in imports(path)} <= DOMAIN_MAY_USE
    text = path.read_text()
    for banned, instead in BANNED.items():
        assert not re.search(rf"\b{re.escape(banned)}\(", text), f"{name_of(path)} uses {banned}: {instead}"
    assert "async def" not in text, "no I/O in the core"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_files_and_functions_can_be_read(path):
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} in {name_of(path)} has {length} lines"


def test_only_the_log_publishes_decisions():
    """No code path appends without the version check (design rule 2)."""
    offenders = [
        name_of(path)
        for path in sources()
        if "subjects.decision(" in path.read_text() and name_of(path) != "events/log.py"
    ]
    assert offenders == []


def test_settings_are_read_by_entry_points_only():
    readers = [name_of(p) for p in sources() if "Settings()" in p.read_text() or "os.environ.get(" in p.read_text()]
    assert all(name.startswith(("cli/", "bench/")) for name in readers), readers


def test_every_file_is_used():
    """A module that nothing imports, and that is no entry point, is dead."""
    entries = {"cli.main", "cli.launch", "services.worker.child"}
    used = {module for path in [*sources(), *(ROOT / "tests").rglob("*.py")] for module in imports(path)}
    text = " ".join(path.read_text() for path in sources())
    for path in sources():
        module = name_of(path).removesuffix(".py").replace("/", ".")
        if path.name == "__init__.py" or module in entries or module.startswith("bench."):
            continue
        assert any(u == module or u.startswith(f"{module}.") for u in used) or f'"{module}"' in text, (
            f"{module} is dead"
        )
