"""Checking a blueprint's steps against the registry: every fault at once, each with its path."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from events.administration import STEP, BlueprintStep, StepRegistered
from events.context import PLATFORM_ORG
from services.repository import Repository

Problem = dict[str, str]


async def registry_of(repository: Repository, steps: Sequence[BlueprintStep]) -> dict[str, StepRegistered]:
    """The registrations of the steps that a blueprint names; of all, when it names one that is not registered."""
    keys = sorted({step.key for step in steps})
    found = await asyncio.gather(*(repository.thing(PLATFORM_ORG, STEP, key) for key in keys))
    registry = {thing.aggregate_id: thing.registration for thing in found if thing.registration is not None}
    if len(registry) < len(keys):
        for recorded in await repository.log.history(PLATFORM_ORG, STEP, "*"):
            event = recorded.decision.events[-1]
            if isinstance(event, StepRegistered):
                registry[event.originator_id] = event
    return registry


def problems_of(
    steps: Sequence[BlueprintStep], registry: Mapping[str, StepRegistered], *, of_file: bool = False
) -> list[Problem]:
    """Every fault of a blueprint's steps, in their order, as {"path": JSON Pointer (RFC 6901), "message": …}.

    `of_file`: the one step is how an uploaded file is read, and its config stands in the query as `read`.
    """
    problems: list[Problem] = []
    for index, step in enumerate(steps):
        place = "/query/read" if of_file else f"/steps/{index}/config"
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
            problems.append({"path": f"{place}{path}", "message": error.message[:500]})
    return problems


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Draft202012Validator:
    return Draft202012Validator(orjson.loads(schema))


def _escape(part: Any) -> str:
    """One reference token of a JSON Pointer (RFC 6901, section 3)."""
    return str(part).replace("~", "~0").replace("/", "~1")
