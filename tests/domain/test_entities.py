"""A company's entity set: what a batch did to it, told so that whoever follows the events knows the set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.entities import EntitiesMerged, EntitiesUpdated, EntityCreated, EntityExtended, EntitySplit, entity_set_id
from events.errors import VersionConflictError
from events.payload import describe, encode_records
from services.domain import entities
from services.domain.entities import EntitySetState, Matched, Move

SET = entity_set_id("c", "people")


def payload(*records):
    return describe(encode_records(list(records)), len(records))


def matched(base_version=0, snapshot=None):
    return Matched("c", "people", "r", 2, base_version, snapshot or payload({"key": "1"}), payload())


def partition(groups):
    """Each record's entity: that of the group's oldest record, as the step has it."""
    return {key: f"E{min(group)}" for group in groups for key in group}


def moves_between(before, after):
    sizes = [list(assignment.values()) for assignment in (before, after)]
    return [
        Move(key, before.get(key), now, sizes[0].count(before.get(key)), sizes[1].count(now))
        for key, now in after.items()
        if before.get(key) != now
    ]


def grouped(labels):
    """Records 00, 01, … in groups by their labels."""
    groups = {}
    for number, label in enumerate(labels):
        groups.setdefault(label, []).append(f"{number:02}")
    return partition(groups.values())


labels = st.lists(st.integers(0, 4), max_size=12)


@given(before=labels, after=labels)
def test_whoever_follows_the_events_knows_the_set(before, after):
    """From any set to any other that has its records and more."""
    before, after = grouped(before[: len(after)]), grouped(after)
    found = entities.changes(SET, 1, moves_between(before, after))
    followed = dict(before)
    for event in found:
        followed = entities.assign(followed, event)
    assert followed == after

    created = {event.entity_id for event in found if isinstance(event, EntityCreated)}
    extended = {event.entity_id for event in found if isinstance(event, EntityExtended)}
    merged = [part.entity_id for event in found if isinstance(event, EntitiesMerged) for part in event.merged]
    split = [event.entity_id for event in found if isinstance(event, EntitySplit)]
    newcomers = {after[key] for key in after.keys() - before.keys()}
    assert created == newcomers - set(before.values())
    assert extended == newcomers & set(before.values())
    assert not set(merged) & set(after.values())
    assert set(merged) | set(split) >= set(before.values()) - set(after.values())
    for event in found:
        if isinstance(event, EntitiesMerged):
            for part in event.merged:
                assert event.entity_id < part.entity_id, "the oldest id survives"


@given(before=labels, after=labels)
def test_what_was_recorded_is_not_recorded_again(before, after):
    before, after = grouped(before[: len(after)]), grouped(after)
    now = matched(snapshot=payload(after))
    events = entities.record(EntitySetState(SET), now, moves_between(before, after))
    state = entities.fold(SET, events)
    assert state == EntitySetState(SET, 1, payload(after))
    assert entities.record(state, matched(1, payload(after)), []) == []


def test_a_set_that_moved_on_must_be_matched_again():
    state = EntitySetState(SET, 3, payload({"key": "1"}))
    with pytest.raises(VersionConflictError, match="matched at version 2 and is at 3"):
        entities.record(state, matched(2), [])


def test_a_merge_and_a_split_in_one_batch():
    before = partition([["1", "2"], ["3"], ["4", "5"]])
    after = partition([["1"], ["2", "3", "6"], ["4", "5", "7"], ["8"]])
    *changes, updated = entities.record(EntitySetState(SET), matched(), moves_between(before, after))
    at = {"originator_id": SET, "originator_version": 1}
    assert changes == [
        EntitySplit(**at, entity_id="E1", parts=({"entity_id": "E2", "members": ("2",)},)),
        EntitiesMerged(**at, entity_id="E2", merged=({"entity_id": "E3", "members": ("3",)},)),
        EntityCreated(**at, entity_id="E2", members=("6",)),
        EntityExtended(**at, entity_id="E4", members=("7",)),
        EntityCreated(**at, entity_id="E8", members=("8",)),
    ]
    assert isinstance(updated, EntitiesUpdated)
    assert (updated.entities_split, updated.entities_merged) == (1, 1)
    assert (updated.entities_created, updated.entities_extended, updated.changes_unlisted) == (2, 1, 0)


def test_a_decision_stays_small_and_says_how_much_is_told_elsewhere():
    after = {f"{number:06}": f"E{number:06}" for number in range(100_000)}
    moves = [Move(key, None, entity, 0, 1) for key, entity in after.items()]
    *changes, updated = entities.record(EntitySetState(SET), matched(), moves)
    assert 1000 < len(changes) < 3000
    assert isinstance(updated, EntitiesUpdated)
    assert updated.entities_created == 100_000
    assert updated.changes_unlisted == 100_000 - len(changes)


def test_sets_of_companies_and_names_are_kept_apart():
    assert len({entity_set_id(c, n) for c in ("c1", "c2") for n in ("people", "places")}) == 4
