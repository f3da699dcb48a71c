"""The entity sets that companies keep: which records are the same thing, over all their submissions."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway import answers, cursors
from gateway.calls import Authenticated, CallRoute
from gateway.exports.reading import page, picked
from gateway.models import (
    CURSOR_EXAMPLE,
    ID_EXAMPLE,
    OTHER_ID_EXAMPLE,
    TIME_EXAMPLE,
    Id,
    Page,
    PageQuery,
    Position,
    Query,
    Timestamp,
    example,
    shown,
)
from gateway.payloads import Reference
from projections.queries import entity_sets
from projections.queries.reader import Row

RECORDS_MAX = 1000
VALUE = "value:"
"""Before the names of compared fields in a set's records (services/steps/_entity_set.py)."""

router = APIRouter(prefix="/v1/entity_sets", tags=["entity sets"], route_class=CallRoute)

SetName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]


class EntitySet(BaseModel):
    """A set; `version` counts the submissions that changed it, `records` what it knows."""

    model_config = shown(
        set_id=ID_EXAMPLE,
        company_id=OTHER_ID_EXAMPLE,
        name="people",
        version=3,
        records=1200,
        last_run_id=ID_EXAMPLE,
        created_at=TIME_EXAMPLE,
        updated_at=TIME_EXAMPLE,
        position=42,
        last_position=99,
    )

    set_id: Id
    company_id: Id
    name: str
    version: int
    records: int
    last_run_id: Id
    created_at: Timestamp
    updated_at: Timestamp
    position: Position
    last_position: Position


class ListEntitySets(PageQuery):
    """Which sets."""

    model_config = example(company_id=ID_EXAMPLE, limit=50)

    company_id: Id | None = None
    name: SetName | None = None


class GetEntitySet(Query):
    """Which set, and which of its records: all, those of an entity, or one."""

    model_config = example(set_id=ID_EXAMPLE, entity_id=OTHER_ID_EXAMPLE, limit=100)

    set_id: Id
    entity_id: Annotated[Id | None, Field(description="Only the records of this entity.")] = None
    record_key: Annotated[
        str | None, Field(min_length=1, max_length=1024, description="Only the record with this key.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=RECORDS_MAX)] = RECORDS_MAX
    cursor: Annotated[str | None, Field(max_length=64)] = None


class EntityRecord(BaseModel):
    """A record of the set: its entity, its compared values, and the link by which it came to its entity."""

    model_config = shown(
        record_key="crm-17",
        entity_id=OTHER_ID_EXAMPLE,
        values={"name": "anna jansen", "city": "utrecht"},
        linked_to="crm-3",
        link_score=0.93,
    )

    record_key: str
    entity_id: Id
    values: dict[str, Any]
    linked_to: str | None
    link_score: float | None


class EntitySetPage(BaseModel):
    """A set, and a page of its records in the order in which they came."""

    model_config = shown(
        entity_set=EntitySet.model_config["json_schema_extra"]["examples"][0],  # type: ignore[index]
        records=[EntityRecord.model_config["json_schema_extra"]["examples"][0]],  # type: ignore[index]
        next_cursor=CURSOR_EXAMPLE,
    )

    entity_set: EntitySet
    records: list[EntityRecord]
    next_cursor: str | None


@router.post("/list", response_model=Page[EntitySet])
async def list_(body: ListEntitySets, call: Authenticated) -> Page[EntitySet]:
    """Sets, newest first; those that the caller may see."""
    scope = answers.narrowed(call, await call.caught_up(body.min_position), body.company_id)
    before = cursors.before(body.cursor)
    rows = await entity_sets.entity_sets(call.gateway.reader, scope, before, body.limit + 1, body.name)
    return answers.page(rows, body.limit, _set)


@router.post("/get", response_model=EntitySetPage)
async def get(body: GetEntitySet, call: Authenticated) -> Response:
    """A set and a page of its records."""
    start = 0 if body.cursor is None else cursors.decode(body.cursor)
    scope = await call.caught_up(body.min_position)
    row = answers.found(
        await entity_sets.entity_set(call.gateway.reader, scope, body.set_id), "entity set", body.set_id
    )
    wanted = {"entity": body.entity_id, "key": body.record_key}
    filters = {name: value for name, value in wanted.items() if value is not None}
    reference = _snapshot(call.org_id, row)
    if filters:
        found, end = await picked(call.gateway.payloads, reference, filters, start, body.limit)
    else:
        rows, found = await page(call.gateway.payloads, reference, start, body.limit)
        end = start + (len(found) or body.limit)
        end = end if end < rows else None
    return answers.json_response(
        {
            "entity_set": _set(row).model_dump(),
            "records": [_record(record) for record in found],
            "next_cursor": None if end is None else cursors.encode(end),
        }
    )


def _snapshot(org_id: str, row: Row) -> Reference:
    return Reference(
        org_id=org_id,
        company_id=row["company_id"],
        digest=row["snapshot_digest"],
        size_bytes=row["snapshot_size_bytes"],
        inline=row["snapshot_inline"],
        position=row["last_position"],
        format=row["snapshot_format"],
    )


def _set(row: Row) -> EntitySet:
    facts = {name: row[name] for name in EntitySet.model_fields if name != "records"}
    return EntitySet(records=row["snapshot_rows"], **facts)


def _record(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "record_key": record["key"],
        "entity_id": record["entity"],
        "values": {name.removeprefix(VALUE): value for name, value in record.items() if name.startswith(VALUE)},
        "linked_to": record.get("parent"),
        "link_score": record.get("parent_score"),
    }
