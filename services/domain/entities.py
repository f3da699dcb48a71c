"""A company's entity set. Pure: no clock, no id, no I/O.

What belongs together is worked out by the step `match_entities`, from a batch and the set as it was. Here it is decided
what that means for the set: whether the set is still the one that was matched against, and which entities were
created, extended, merged and split. Whoever records this records the step's result after it, with this decision's
version; when that fails, the same batch against the new set changes nothing, and so decides nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from events.entities import (
    EntitiesMerged,
    EntitiesUpdated,
    EntityCreated,
    EntityExtended,
    EntityMembers,
    EntitySplit,
)
from events.errors import VersionConflictError
from events.model import Event
from events.payload import Payload

LISTED_CHARS_MAX = 200_000
"""Of record keys, in one decision; the changes beyond are in its `moves` alone. Splits and merges come first."""


@dataclass(frozen=True, slots=True)
class EntitySetState:
    """What the history of a set says: the set itself is in its snapshot."""

    set_id: str
    version: int = 0
    snapshot: Payload | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A record that is in another entity than before (None: it is new), and how many records both have."""

    key: str
    before: str | None
    after: str
    before_size: int
    after_size: int


@dataclass(frozen=True, slots=True)
class Matched:
    """What a run's step made of a batch and the set of version `base_version` (0: none yet)."""

    company_id: str
    name: str
    run_id: str
    step_index: int
    base_version: int
    snapshot: Payload
    moves: Payload


def evolve(state: EntitySetState, event: Event) -> EntitySetState:
    """The state after one more event."""
    if isinstance(event, EntitiesUpdated):
        return replace(state, version=event.originator_version, snapshot=event.snapshot)
    return replace(state, version=event.originator_version)


def fold(set_id: str, events: Iterable[Event]) -> EntitySetState:
    """The state that a history gives."""
    state = EntitySetState(set_id)
    for event in events:
        state = evolve(state, event)
    return state


def record(state: EntitySetState, matched: Matched, moves: Iterable[Move]) -> list[Event]:
    """Record what a batch did to the set. Nothing when it left the set as it was.

    Raises VersionConflictError when the set has changed since it was matched against: the step must be done again.
    """
    if matched.base_version != state.version:
        raise VersionConflictError(
            f"The entity set {matched.name!r} was matched at version {matched.base_version} and is at {state.version}."
        )
    if state.snapshot is not None and state.snapshot.digest == matched.snapshot.digest:
        return []
    found = changes(state.set_id, state.version + 1, moves)
    listed: list[Event] = []
    room = LISTED_CHARS_MAX
    for event in found:
        room -= _size(event)
        if room < 0:
            break
        listed.append(event)
    updated = EntitiesUpdated(
        originator_id=state.set_id,
        originator_version=state.version + 1,
        company_id=matched.company_id,
        name=matched.name,
        run_id=matched.run_id,
        step_index=matched.step_index,
        snapshot=matched.snapshot,
        moves=matched.moves,
        entities_split=sum(isinstance(event, EntitySplit) for event in found),
        entities_merged=sum(len(event.merged) for event in found if isinstance(event, EntitiesMerged)),
        entities_created=sum(isinstance(event, EntityCreated) for event in found),
        entities_extended=sum(isinstance(event, EntityExtended) for event in found),
        changes_unlisted=len(found) - len(listed),
    )
    return [*listed, updated]


def changes(set_id: str, version: int, moves: Iterable[Move]) -> list[Event]:
    """What became of the entities: splits, then merges, then what is new; each in the order of the moves.

    An entity is gone when as many records left it as it had. It is new when as many came to it as it has.
    """
    groups: dict[tuple[str | None, str], list[str]] = {}
    before_sizes: dict[str, int] = {}
    after_sizes: dict[str, int] = {}
    for move in moves:
        groups.setdefault((move.before, move.after), []).append(move.key)
        after_sizes[move.after] = move.after_size
        if move.before is not None:
            before_sizes[move.before] = move.before_size
    left: dict[str, dict[str, tuple[str, ...]]] = {}
    came: dict[str, int] = {}
    for (source, target), keys in groups.items():
        came[target] = came.get(target, 0) + len(keys)
        if source is not None:
            left.setdefault(source, {})[target] = tuple(keys)
    at: dict[str, Any] = {"originator_id": set_id, "originator_version": version}
    splits: list[Event] = []
    merged: dict[str, list[EntityMembers]] = {}
    for source, targets in left.items():
        (target, members), *others = targets.items()
        if not others and len(members) == before_sizes[source]:
            merged.setdefault(target, []).append(EntityMembers(entity_id=source, members=members))
        else:
            parts = tuple(EntityMembers(entity_id=into, members=keys) for into, keys in targets.items())
            splits.append(EntitySplit(**at, entity_id=source, parts=parts))
    merges = [EntitiesMerged(**at, entity_id=target, merged=tuple(parts)) for target, parts in merged.items()]
    added: list[Event] = [
        (EntityCreated if came[target] == after_sizes[target] else EntityExtended)(
            **at, entity_id=target, members=tuple(keys)
        )
        for (source, target), keys in groups.items()
        if source is None
    ]
    return [*splits, *merges, *added]


def assign(entities: Mapping[str, str], event: Event) -> dict[str, str]:
    """Each record's entity, by its key, after one more event: for those who follow the changes."""
    match event:
        case EntitySplit(parts=parts):
            return {**entities, **{key: part.entity_id for part in parts for key in part.members}}
        case EntitiesMerged(entity_id=entity, merged=merged):
            return {**entities, **{key: entity for part in merged for key in part.members}}
        case EntityCreated(entity_id=entity, members=members) | EntityExtended(entity_id=entity, members=members):
            return {**entities, **dict.fromkeys(members, entity)}
    return dict(entities)


def routing() -> str:
    """The routing tokens of a set's decisions: no task, and no ending."""
    return "log.entities"


def _size(event: Event) -> int:
    """About how many characters the event's keys and ids take."""
    match event:
        case EntitySplit(parts=parts) | EntitiesMerged(merged=parts):
            return sum(_length(part.members) for part in parts)
        case EntityCreated(members=members) | EntityExtended(members=members):
            return _length(members)
    return 0


def _length(members: Iterable[str]) -> int:
    return 100 + sum(len(key) + 4 for key in members)
