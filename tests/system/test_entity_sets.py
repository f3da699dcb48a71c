"""Entities that stay, end to end: submissions teach a company's set one by one, and every change is an event."""

import asyncio

from events.entities import ENTITIES, EntitiesMerged, EntitiesUpdated, EntityCreated, EntityExtended, entity_set_id
from events.log import EventLog
from services.repository import events_of
from tests.system.client import Org

RULES = {
    "blocking": [[{"field": "name", "transform": "prefix", "length": 1}], [{"field": "city"}]],
    "comparisons": [
        {"fields": ["name"], "method": "levenshtein", "weight": 2},
        {"fields": ["city"], "method": "exact", "weight": 1},
    ],
    "threshold": 0.8,
    "entity_set": "people",
    "record_key": ["id"],
}
MATCH = {"key": "match_entities", "config": RULES}
FIRST = [
    {"id": "1", "name": "Anna Jansen", "city": "Utrecht"},
    {"id": "2", "name": "Bob de Vries", "city": "Delft"},
    {"id": "3", "name": "Anna Jansem", "city": "Utrecht"},
]
SECOND = [
    {"id": "4", "name": "Anna Janssen", "city": "Utrecht"},
    {"id": "5", "name": "Carla Bakker", "city": "Breda"},
]


async def matched(org: Org, blueprint: str, records: list[dict], **more) -> tuple[dict[str, str], dict]:
    """Each record's entity after a submission, and the step's result."""
    made = await org.submit(blueprint, records, **more)
    run = await org.ended(made)
    assert run["status"] == "succeeded", run
    rows = (await org.call("results/get", {"run_id": run["run_id"]}))["records"]
    result = (await org.steps(made, run["last_position"]))[0]
    return {row["id"]: row["entity_id"] for row in rows}, result


async def told(log: EventLog, org: Org, name: str = "people") -> list:
    return events_of(await log.history(org.org_id, ENTITIES, entity_set_id(org.company_id, name)))


def clusters(entities: dict[str, str]) -> set[frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for record, entity in entities.items():
        groups.setdefault(entity, set()).add(record)
    return {frozenset(group) for group in groups.values()}


async def test_a_later_submission_is_matched_against_what_is_known(org, log):
    blueprint = await org.blueprint(MATCH)
    first, result = await matched(org, blueprint, FIRST)
    assert clusters(first) == {frozenset({"1", "3"}), frozenset({"2"})}
    assert result["report"]["entities"] == {"set": "people", "base_version": 0, "version": 1}

    second, result = await matched(org, blueprint, SECOND)
    assert second["4"] == first["1"], "the id stays"
    assert second["5"] not in first.values()
    assert result["report"]["entities"] == {"set": "people", "base_version": 1, "version": 2}

    events = await told(log, org)
    assert [type(event) for event in events] == [
        EntityCreated, EntityCreated, EntitiesUpdated, EntityExtended, EntityCreated, EntitiesUpdated,
    ]  # fmt: skip
    assert (events[2].entities_created, events[5].entities_extended, events[5].entities_created) == (2, 1, 1)
    assert events[3].entity_id == first["1"]
    assert events[3].members == ("4",)


async def test_a_record_that_connects_two_entities_merges_them(org, log):
    blueprint = await org.blueprint(MATCH)
    apart, _ = await matched(
        org, blueprint, [{"id": "1", "name": "Annab", "city": "A"}, {"id": "2", "name": "Annabella", "city": "A"}]
    )
    assert len(clusters(apart)) == 2
    joined, _ = await matched(org, blueprint, [{"id": "3", "name": "Annabel", "city": "A"}])
    assert joined["3"] == apart["1"], "the oldest record gives the entity its id"
    merges = [event for event in await told(log, org) if isinstance(event, EntitiesMerged)]
    assert [(merge.entity_id, merge.merged[0].entity_id) for merge in merges] == [(apart["1"], apart["2"])]


async def test_the_same_batch_again_changes_nothing_and_is_then_found(org, log):
    blueprint = await org.blueprint(MATCH)
    first, _ = await matched(org, blueprint, FIRST)
    again, result = await matched(org, blueprint, FIRST)
    assert again == first
    assert result["report"]["entities"] == {"set": "people", "base_version": 1, "version": 1}
    third, result = await matched(org, blueprint, FIRST)
    assert third == first
    assert result["reused_from_run_id"], "the same batch against the same set is the same step"
    assert sum(isinstance(event, EntitiesUpdated) for event in await told(log, org)) == 1


async def test_one_by_one_or_all_at_once_gives_the_same_entities(org, org_factory):
    blueprint = await org.blueprint(MATCH)
    for record in [*FIRST, *SECOND]:
        await matched(org, blueprint, [record])
    one_by_one, _ = await matched(org, blueprint, [*FIRST, *SECOND])
    other = await org_factory()
    at_once, _ = await matched(other, await other.blueprint(MATCH), [*FIRST, *SECOND])
    assert clusters(one_by_one) == clusters(at_once)
    assert set(one_by_one.values()).isdisjoint(at_once.values()), "no company's ids are another's"


async def test_submissions_at_the_same_time_lose_nothing(org, log):
    blueprint = await org.blueprint(MATCH)
    people = [{"id": str(n), "name": f"{letter * 6} {n}", "city": f"c{n}"} for n, letter in enumerate("abcdefgh")]
    batches = [people[start : start + 2] for start in range(0, len(people), 2)]
    await asyncio.gather(*(matched(org, blueprint, batch) for batch in batches))
    updates = [event for event in await told(log, org) if isinstance(event, EntitiesUpdated)]
    assert [update.originator_version for update in updates] == [1, 2, 3, 4]
    assert updates[-1].snapshot.rows == len(people)
    entities, _ = await matched(org, blueprint, people)
    assert len(clusters(entities)) == len(people)


async def test_a_company_never_meets_the_entities_of_another(org, log):
    blueprint = await org.blueprint(MATCH)
    mine, _ = await matched(org, blueprint, FIRST)
    sister = (await org.call("companies/create", {"name": "Sister"}))["company_id"]
    hers, result = await matched(org, blueprint, FIRST, company_id=sister)
    assert set(hers.values()).isdisjoint(mine.values())
    assert result["report"]["entities"]["base_version"] == 0


async def test_a_set_is_listed_and_its_records_are_found(org, other_org):
    blueprint = await org.blueprint(MATCH)
    entities, result = await matched(org, blueprint, FIRST)
    listed = (await org.call("entity_sets/list", {"name": "people", "min_position": result["position"]}))["items"]
    assert [(found["name"], found["records"], found["version"]) for found in listed] == [("people", 3, 1)]
    set_id = listed[0]["set_id"]
    mine = await org.call("entity_sets/get", {"set_id": set_id, "entity_id": entities["1"]})
    assert [record["record_key"] for record in mine["records"]] == ["1", "3"]
    assert mine["records"][1]["linked_to"] == "1"
    assert mine["records"][1]["values"] == {"name": "anna jansem", "city": "utrecht"}
    pages = [await org.call("entity_sets/get", {"set_id": set_id, "limit": 2})]
    pages.append(await org.call("entity_sets/get", {"set_id": set_id, "limit": 2, "cursor": pages[0]["next_cursor"]}))
    assert [record["record_key"] for page in pages for record in page["records"]] == ["1", "2", "3"]
    assert pages[1]["next_cursor"] is None
    assert (await other_org.post("entity_sets/get", {"set_id": set_id})).status_code == 404
