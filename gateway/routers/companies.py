"""The companies of an org."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from events import commands
from events.administration import COMPANY
from events.errors import StateConflictError
from gateway import answers, cursors
from gateway.calls import Authenticated, CallRoute
from gateway.models import (
    ID_EXAMPLE,
    TIME_EXAMPLE,
    Done,
    Id,
    Name,
    Page,
    PageQuery,
    Position,
    Query,
    Timestamp,
    Withdrawn,
    example,
    shown,
)
from projections.queries import administration, work
from projections.queries.reader import Row

router = APIRouter(prefix="/v1/companies", tags=["companies"], route_class=CallRoute)


class Company(BaseModel):
    """A company of the org: submissions are handed in for one. One that was erased has no name any more."""

    model_config = shown(company_id=ID_EXAMPLE, name="Globex", created_at=TIME_EXAMPLE, erased_at=None, position=7)

    company_id: Id
    name: str | None
    created_at: Timestamp
    erased_at: Timestamp | None
    position: Position


class CreateCompany(BaseModel):
    """A company to be."""

    model_config = example(name="Globex")

    name: Name


class CompanyCreated(Done):
    """The new company's id."""

    model_config = shown(company_id=ID_EXAMPLE, position=7, repeated=False)

    company_id: Id


class EraseCompany(BaseModel):
    """Which company is to be erased, for good."""

    model_config = example(company_id=ID_EXAMPLE, confirmation="Globex")

    company_id: Id
    confirmation: Annotated[Name, Field(description="The company's id or its name once more: this cannot be undone.")]


class CompanyIsErased(Withdrawn):
    """The erased company's id."""

    model_config = shown(company_id=ID_EXAMPLE, position=42, repeated=False, in_force=True)

    company_id: Id


class GetCompany(Query):
    """Which company."""

    model_config = example(company_id=ID_EXAMPLE)

    company_id: Id


class ListCompanies(PageQuery):
    """Which companies."""

    model_config = example(name_prefix="Glo", limit=50)

    name_prefix: Annotated[Name | None, Field(description="Names that begin so, in any case of letters.")] = None


@router.post("/create", status_code=201, response_model=CompanyCreated)
async def create(body: CreateCompany, call: Authenticated) -> Response:
    """Create a company."""
    envelope = call.envelope(body)
    company_id = envelope.new_id(COMPANY)
    command = commands.CreateCompany(**envelope.fields(), aggregate_id=company_id, name=body.name)
    return await answers.do(call, envelope, command, 201, company_id=company_id)


@router.post("/erase", response_model=CompanyIsErased)
async def erase(body: EraseCompany, call: Authenticated) -> Response:
    """Erase a company: its key is destroyed, so that whatever it handed in and was made of it cannot be read any more.

    Its users and tokens act no more; the log keeps its sealed decisions, so that every proof still holds. Refused while
    runs of the company are open: cancel them, or wait for their end.
    """
    scope = await call.caught_up((await call.gateway.log.state()).last_position)
    answers.found(await administration.company(call.gateway.reader, scope, body.company_id), "company", body.company_id)
    only = answers.narrowed(call, scope, body.company_id)
    if await work.runs(call.gateway.reader, only, cursors.before(None), 1, None, None, "running", True):
        raise StateConflictError(
            "Runs of the company are open; cancel them, or wait for their end (runs/list, status running).",
            code="runs_open",
        )
    envelope = call.envelope({"company_id": body.company_id})  # not what confirms it: its digest stays readable
    command = commands.EraseCompany(**envelope.fields(), aggregate_id=body.company_id, confirmation=body.confirmation)
    outcome = await call.gateway.commands.send_now(command)
    in_force = await answers.in_force(call, outcome.position)
    return answers.accepted(outcome, 200, company_id=body.company_id, in_force=in_force)


@router.post("/get", response_model=Company)
async def get(body: GetCompany, call: Authenticated) -> Company:
    """One company."""
    scope = await call.caught_up(body.min_position)
    row = await administration.company(call.gateway.reader, scope, body.company_id)
    return _company(answers.found(row, "company", body.company_id))


@router.post("/list", response_model=Page[Company])
async def list_(body: ListCompanies, call: Authenticated) -> Page[Company]:
    """Companies, newest first; those that the caller may see."""
    scope = await call.caught_up(body.min_position)
    rows = await administration.companies(
        call.gateway.reader, scope, cursors.before(body.cursor), body.limit + 1, body.name_prefix
    )
    return answers.page(rows, body.limit, _company)


def _company(row: Row) -> Company:
    return Company.model_validate(dict(row))
