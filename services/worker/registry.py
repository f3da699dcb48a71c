"""The steps that a worker serves, loaded from modules that declare them."""

import importlib
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from events.errors import ConfigurationError
from services.steps import catalogue
from services.steps.base import Step

Registry = Mapping[str, Step[Any]]

_KEY = re.compile(r"[a-z][a-z0-9_]{0,62}")


def load_steps(modules: Iterable[str]) -> dict[str, Step[Any]]:
    """The steps of all modules, by key. Raises ConfigurationError naming the module that is at fault."""
    steps: dict[str, Step[Any]] = {}
    for name in modules:
        for step in _declared_in(_imported(name), name):
            if not isinstance(step, Step):
                raise ConfigurationError(f"STEPS of the module {name!r} has something that is no step: {step!r:.200}")
            if not _KEY.fullmatch(step.key):
                raise ConfigurationError(
                    f"The step {step.key!r} of the module {name!r} needs another key: a lower-case letter, then up to "
                    "62 lower-case letters, digits and underscores."
                )
            if step.key in steps:
                raise ConfigurationError(f"The step {step.key!r} is declared twice, at last in {name!r}.")
            steps[step.key] = step
    return steps


def warm_up(steps: Iterable[Step[Any]]) -> None:
    """Execute an example of each of the catalogue's steps that run on the worker's own loop.

    Tables and libraries are loaded when a step first needs them, which takes up to 0.3 s of a step: better now than
    while everybody's tasks wait. Steps of others are left alone, as what they do is not known.
    """
    ours = {id(step) for step in catalogue.STEPS}
    for step in steps:
        if id(step) in ours and not step.isolated and step.examples and not step.examples[0].references:
            step.execute(step.examples[0].records, step.examples[0].config)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module of somebody's own: whatever it raises is why it cannot be used
        raise ConfigurationError(f"The step module {name!r} cannot be used: {error!r}") from error


def _declared_in(module: ModuleType, name: str) -> list[Any]:
    """What `STEPS` lists; of a module without it, the steps that it names itself, in their order."""
    if hasattr(module, "STEPS"):
        return list(module.STEPS)
    found = {id(value): value for value in vars(module).values() if isinstance(value, Step)}
    if not found:
        raise ConfigurationError(f"The step module {name!r} cannot be used: it has no steps, and no STEPS.")
    return list(found.values())
