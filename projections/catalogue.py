"""All projections, those that others require first."""

from collections.abc import Sequence

from events.errors import NotFoundError
from projections.base import Projection
from projections.blueprints import BLUEPRINTS
from projections.companies import COMPANIES
from projections.orgs import ORGS
from projections.runs import RUNS
from projections.step_results import STEP_RESULTS
from projections.steps import STEPS
from projections.submissions import SUBMISSIONS
from projections.tokens import TOKENS
from projections.users import USERS

PROJECTIONS: tuple[Projection, ...] = (
    ORGS, COMPANIES, USERS, TOKENS, STEPS, BLUEPRINTS, SUBMISSIONS, RUNS, STEP_RESULTS,
)  # fmt: skip


def named(names: Sequence[str]) -> tuple[Projection, ...]:
    """The projections of these names in the order of PROJECTIONS; all for none. Raises NotFoundError."""
    known = {projection.name for projection in PROJECTIONS}
    if unknown := sorted(set(names) - known):
        raise NotFoundError(f"There is no projection {unknown[0]!r}; there are {', '.join(sorted(known))}.")
    return tuple(projection for projection in PROJECTIONS if not names or projection.name in names)


def with_required(projections: Sequence[Projection]) -> tuple[Projection, ...]:
    """The projections and those whose tables they read."""
    wanted = {name for projection in projections for name in (projection.name, *projection.requires)}
    return named(sorted(wanted)) if wanted else ()
