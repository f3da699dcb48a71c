"""All projections, those that others require first."""

from collections.abc import Sequence

from events.errors import InvalidInputError
from projections.base import Projection
from projections.blueprints import BLUEPRINTS
from projections.companies import COMPANIES
from projections.entity_sets import ENTITY_SETS
from projections.orgs import ORGS
from projections.runs import RUNS, RUNS_V1
from projections.step_results import STEP_RESULTS
from projections.steps import STEPS
from projections.submissions import SUBMISSIONS
from projections.tokens import TOKENS
from projections.users import USERS
from projections.verifications import VERIFICATIONS

PROJECTIONS: tuple[Projection, ...] = (
    ORGS, COMPANIES, USERS, TOKENS, STEPS, BLUEPRINTS, SUBMISSIONS, RUNS, STEP_RESULTS, ENTITY_SETS,
    VERIFICATIONS,
)  # fmt: skip

"""The generation of each that this code's queries are made for."""

EARLIER: tuple[Projection, ...] = (RUNS_V1,)
"""Generations that stay in service where they are, until their successors are built (projections.generations)."""

KINDS = frozenset(projection.kind for projection in PROJECTIONS)
"""The kinds of aggregates that some projection reads."""


def named(names: Sequence[str], among: Sequence[Projection] = PROJECTIONS) -> tuple[Projection, ...]:
    """The projections of these names, `runs` or `runs_v2`; all for none. Raises InvalidInputError."""
    known = {alias for projection in among for alias in _aliases(projection)}
    if unknown := sorted(set(names) - known):
        choices = ", ".join(projection.name for projection in among)
        raise InvalidInputError(f"There is no projection {unknown[0]!r}. There are: {choices}.")
    return tuple(p for p in among if not names or not _aliases(p).isdisjoint(names))


def with_required(
    projections: Sequence[Projection], among: Sequence[Projection] = PROJECTIONS
) -> tuple[Projection, ...]:
    """The projections and those whose tables they read, in the order in which they are applied."""
    wanted = {view for projection in projections for view in (projection.view, *projection.requires)}
    return tuple(projection for projection in among if projection.view in wanted)


def _aliases(projection: Projection) -> set[str]:
    return {projection.name, projection.view}
