"""What a caller may name in a command: the company it acts for, and the things of its company."""

from events.context import AuthContext
from events.errors import NotFoundError
from events.ids import first_run_id
from events.processing import RUN, SUBMISSION
from gateway.calls import Call
from gateway.problems import ProjectionBehindError, invalid
from projections.queries import access

CATCH_UP_S = 1.0


def company_for(auth: AuthContext, company_id: str | None) -> str:
    """The company that the caller acts for. One that is bound to a company need not name it, and can name no other."""
    if auth.company_id is None:
        if company_id is None:
            raise invalid("/company_id", "A caller of the whole org names the company.")
        return company_id
    if company_id not in (None, auth.company_id):
        raise NotFoundError(f"There is no company {company_id}.")
    return auth.company_id


async def must_see(call: Call, kind: str, thing_id: str) -> None:
    """Raises NotFoundError when a caller that is bound to a company names a thing of another one.

    For a caller of the whole org the command's own org is the bound, and the service says what does not exist. What is
    not in the read models may have been made a moment ago, so they are asked again once they are where the log is now.
    Not the log itself, unless they are far behind: it takes longer (0.2 ms) to find another company's thing than none.
    """
    if call.within is None or await _is_known(call, kind, thing_id):
        return
    try:
        await catch_up(call)
        seen = await _is_known(call, kind, thing_id)
    except ProjectionBehindError:
        first = await call.gateway.log.holder(call.org_id, *_history_of(kind, thing_id), 1)
        seen = first is not None and first.decision.company_id == call.within
    if not seen:
        raise NotFoundError(f"There is no {kind} {thing_id}.")


async def catch_up(call: Call) -> None:
    """Until the read models are where the log is now. Raises ProjectionBehindError when they are far behind."""
    end = (await call.gateway.log.state()).last_position
    await call.gateway.signals.wait_position(end, CATCH_UP_S)


async def _is_known(call: Call, kind: str, thing_id: str) -> bool:
    return await access.company_of(call.gateway.reader, call.scope, kind, thing_id) == call.within


def _history_of(kind: str, thing_id: str) -> tuple[str, str]:
    """In which history a thing's first decision stands; that of a submission is in its first run's."""
    return (RUN, first_run_id(thing_id)) if kind == SUBMISSION else (kind, thing_id)
