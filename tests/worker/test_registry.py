"""Which steps a worker finds in modules, and what it says of modules that cannot be used."""

import subprocess
import sys
from pathlib import Path

import pytest

from events.errors import ConfigurationError
from services.worker.registry import load_steps, warm_up

HEAD = """
from data_engine_x import StepConfig, StepOutput, step

class Config(StepConfig):
    pass

def make(key):
    return step(key, version="1", summary="A step.", config=Config)(lambda records, config: StepOutput(list(records)))
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Write a module of the test's own; its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"steps_of_{abs(hash(request.node.nodeid))}"

    def written(code: str) -> str:
        (tmp_path / f"{name}.py").write_text(HEAD + code)
        return name

    return written


def test_the_steps_of_a_module_are_those_that_it_names_in_their_order(write):
    assert list(load_steps([write('b = make("b")\na = make("a")\nagain = a\n')])) == ["b", "a"]


def test_a_list_of_steps_says_which_ones(write):
    assert list(load_steps([write('b = make("b")\na = make("a")\nSTEPS = (a,)\n')])) == ["a"]


@pytest.mark.parametrize(
    "code, word",
    [
        ("", "no steps"),
        ("STEPS = (1,)", "no step: 1"),
        ("STEPS = (make('x.>'),)", "another key"),
        ("STEPS = (make('a'), make('a'))", "twice"),
        ("1 / 0", "ZeroDivisionError"),
        ("this is no Python", "SyntaxError"),
        ("import no_such_package_of_ours", "no_such_package_of_ours"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_the_reason(write, code, word):
    name = write(code)
    with pytest.raises(ConfigurationError) as raised:
        load_steps([name])
    assert name in raised.value.message
    assert word in raised.value.message


def test_a_module_that_there_is_not():
    with pytest.raises(ConfigurationError, match="there_is_not"):
        load_steps(["there_is_not"])


def test_what_takes_more_than_its_rows_time_is_not_done_on_the_workers_loop():
    """64 KiB of these steps' input took 5 seconds, in which the worker did nothing for anybody else."""
    steps = load_steps(["services.steps.catalogue"])
    wanted = {"cluster_values", "map_values", "match_entities", "derive", "filter", "validate", "flatten"}
    assert {key for key in wanted if not steps[key].isolated} == set()


WARM = """
import sys
from services.steps.catalogue import STEPS
from services.worker.registry import warm_up
warm_up(STEPS)
before = set(sys.modules)
warm_up(STEPS)
assert "pandas" in before
print(sorted(set(sys.modules) - before))
"""


def test_a_warm_worker_imports_nothing_for_its_first_tasks():
    done = subprocess.run([sys.executable, "-c", WARM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LOUD = """
from data_engine_x import Example
CALLS = []

@step("loud", version="1", summary="A step.", config=Config, examples=[Example("It", {}, [{"a": 1}], [{"a": 1}])])
def loud(records, config):
    CALLS.append(records)
    return StepOutput(list(records))
"""


def test_steps_of_others_are_not_executed_to_warm_up(write):
    name = write(LOUD)
    steps = load_steps([name])
    warm_up(steps.values())
    assert sys.modules[name].CALLS == []
    steps["loud"].execute([{"a": 1}], {})
    assert len(sys.modules[name].CALLS) == 1
