"""How long a 404 takes tells nothing: a thing of somebody else, and one that never was, interleaved."""

import random
import statistics
import time
from collections.abc import Callable

import pytest

from gateway.permissions import Role, Target
from tests.security.support import Caller, Things, World

SAMPLES = 300
TOLERANCE = 0.06
"""Of the median. Another company's thing that was looked for in the log differed by 13 to 22 %."""
ATTEMPTS = 4
"""A difference that is there is there each time; one that a busy machine made is not."""
SEED = 20_260_123

CASES: dict[str, tuple[str, str, Role, Target]] = {
    "an org admin, a read model of another org": ("runs/get", "run_id", "org_admin", "other org"),
    "an org admin, the log of another org": ("events/list", "run_id", "org_admin", "other org"),
    "an org admin, a command on another org": ("tokens/revoke", "token_id", "org_admin", "other org"),
    "a member, a read model of another company": ("runs/get", "run_id", "member", "other company"),
    "a member, the records of another company": ("results/get", "run_id", "member", "other company"),
    "a member, the log of another company": ("events/list", "run_id", "member", "other company"),
    "a member, a command on another company": ("runs/cancel", "run_id", "member", "other company"),
    "a company admin, a token of another company": ("tokens/revoke", "token_id", "company_admin", "other company"),
}


async def one(caller: Caller, endpoint: str, body: dict[str, str]) -> float:
    began = time.perf_counter()
    answer = await caller.ask(endpoint, body)
    took = time.perf_counter() - began
    assert answer.status_code == 404
    return took


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_foreign_and_absent_take_the_same_time(
    case: tuple[str, str, Role, Target], world: World, record_property: Callable[[str, object], None]
) -> None:
    for _ in range(ATTEMPTS):
        medians = await measured(case, world)
        figures = {which: f"{median * 1e6:.0f} us" for which, median in medians.items()}
        print(f"{case[0]} as {case[2]}: {figures}")
        record_property("medians", figures)
        if abs(medians["foreign"] - medians["absent"]) < TOLERANCE * medians["absent"]:
            return
    pytest.fail(f"the time tells: {figures}")


async def measured(case: tuple[str, str, Role, Target], world: World) -> dict[str, float]:
    """The median seconds of an answer for a foreign thing, and for one that never was."""
    endpoint, name, role, target = case
    caller, foreign = world.callers[role, "token"], getattr(world.things[target], name)
    order = ["foreign", "absent"] * SAMPLES
    random.Random(SEED).shuffle(order)
    took: dict[str, list[float]] = {"foreign": [], "absent": []}
    for _ in range(20):
        await one(caller, endpoint, {name: foreign})
    for which in order:
        thing_id = foreign if which == "foreign" else getattr(Things(), name)
        took[which].append(await one(caller, endpoint, {name: thing_id}))
    return {which: statistics.median(times) for which, times in took.items()}
