"""Events of a company's entity sets: which records are the same thing, as the submissions taught it one by one.

One aggregate a company and set (`entity_set_id`). A decision is one batch: the changes that it made, as far as they can
be listed, and last an EntitiesUpdated that names the set as it is from then on.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from events.ids import derive_id
from events.model import Event
from events.payload import Payload

ENTITIES = "entities"


def entity_set_id(company_id: str, name: str) -> str:
    """The aggregate's id: the same for ever for a company and a set's name."""
    return derive_id(company_id, ENTITIES, name)


class EntityMembers(BaseModel):
    """Some records, by their keys, and an entity that they were or are in."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    entity_id: str
    members: tuple[str, ...]


class EntitySplit(Event):
    """Records left the entity: each part is in the entity that it names from now on. The entity is gone when all left.

    The part with the oldest record keeps the id, and is not told here.
    """

    TOPIC: ClassVar[str] = "entity.split"
    entity_id: str
    parts: tuple[EntityMembers, ...]


class EntitiesMerged(Event):
    """Whole entities became part of this one, which has the oldest record; their ids are gone."""

    TOPIC: ClassVar[str] = "entities.merged"
    entity_id: str
    merged: tuple[EntityMembers, ...]


class EntityCreated(Event):
    """New records are an entity of their own, or with others that left theirs (told by `entity.split`)."""

    TOPIC: ClassVar[str] = "entity.created"
    entity_id: str
    members: tuple[str, ...]


class EntityExtended(Event):
    """New records are in an entity that was there."""

    TOPIC: ClassVar[str] = "entity.extended"
    entity_id: str
    members: tuple[str, ...]


class EntitiesUpdated(Event):
    """A run's step matched a batch against the set. Last in its decision.

    `snapshot` is the set from now on: every record with its entity. `moves` lists every record whose entity changed;
    `changes_unlisted` of the changes are told there alone, because they are too many for the log.
    """

    TOPIC: ClassVar[str] = "entities.updated"
    company_id: str
    name: str
    run_id: str
    step_index: int
    snapshot: Payload
    moves: Payload
    entities_split: int
    entities_merged: int
    entities_created: int
    entities_extended: int
    changes_unlisted: int = 0
