"""Checking a blueprint's steps against the registry: every fault at once, each with its path."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from events.administration import BlueprintStep, StepRegistered

Problem = dict[str, str]


def problems_of(steps: Sequence[BlueprintStep], registry: Mapping[str, StepRegistered]) -> list[Problem]:
    """Every fault of a blueprint's steps, in their order, as {"path": JSON Pointer (RFC 6901), "message": …}."""
    problems: list[Problem] = []
    for index, step in enumerate(steps):
        registration = registry.get(step.key)
        if registration is None:
            known = ", ".join(sorted(registry)) or "none"
            problems.append(
                {"path": f"/steps/{index}/key", "message": f"There is no step {step.key!r}. Registered: {known}."}
            )
            continue
        validator = _validator(orjson.dumps(registration.config_schema))
        for error in sorted(validator.iter_errors(step.config), key=lambda error: list(map(str, error.absolute_path))):
            path = "".join(f"/{_escape(part)}" for part in error.absolute_path)
            problems.append({"path": f"/steps/{index}/config{path}", "message": error.message[:500]})
    return problems


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Draft202012Validator:
    return Draft202012Validator(orjson.loads(schema))


def _escape(part: Any) -> str:
    """One reference token of a JSON Pointer (RFC 6901, section 3)."""
    return str(part).replace("~", "~0").replace("/", "~1")
