"""The steps that a worker serves, loaded from modules that declare a `STEPS` tuple."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from events.errors import ConfigurationError
from services.steps.base import Step

Registry = Mapping[str, Step[Any]]


def load_steps(modules: Iterable[str]) -> dict[str, Step[Any]]:
    """The steps of all modules, by key. Raises ConfigurationError naming the module that is at fault."""
    steps: dict[str, Step[Any]] = {}
    for name in modules:
        try:
            declared = importlib.import_module(name).STEPS
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"The step module {name!r} cannot be used: {error}") from error
        for step in declared:
            if step.key in steps:
                raise ConfigurationError(f"The step {step.key!r} is declared twice, at last in {name!r}.")
            steps[step.key] = step
    return steps
