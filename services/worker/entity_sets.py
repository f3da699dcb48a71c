"""A company's entity sets: what a step is told of one, and how what it learnt is recorded.

A set is recorded before the step's result. Whoever does the step again after a crash between the two matches the batch
against a set that has it already: nothing changes, and the result is the same.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from events.batch import BatchStore
from events.columns import Column
from events.context import SERVICE_ACTOR
from events.entities import ENTITIES, entity_set_id
from events.errors import VersionConflictError
from events.keys import Owner
from events.log import EventLog, decision_id
from events.model import Decision, Event
from events.payload import Payload
from services.domain import entities
from services.domain.entities import EntitySetState, Matched, Move
from services.domain.run import RunState
from services.repository import events_of

PREFIX: Final = "entities:"
MOVES: Final = ":moves"
_MOVE_FIELDS: Final = ("key", "before", "after", "before_size", "after_size")


class KnownChanged(Exception):
    """What a step was told of earlier batches is not what is known now; `references` is."""

    def __init__(self, references: Mapping[str, Payload | None]) -> None:
        super().__init__("what is known has changed")
        self.references = references


def is_entity_set(reference: str) -> bool:
    """Whether a step's reference names an entity set; else it is the id of a run."""
    return reference.startswith(PREFIX)


async def known_set(
    log: EventLog, org_id: str, company_id: str, reference: str, version: int | None = None
) -> EntitySetState:
    """The set that a reference names, as it is now, or as it was at a version. Raises UnavailableError."""
    set_id = entity_set_id(company_id, reference.removeprefix(PREFIX))
    events = events_of(await log.history(org_id, ENTITIES, set_id))
    return entities.fold(set_id, (e for e in events if version is None or e.originator_version <= version))


def learning_of(
    log: EventLog,
    batches: BatchStore,
    scheduled: Decision,
    state: RunState,
    step_index: int,
    sets: Mapping[str, EntitySetState],
) -> "Learning | None":
    """For a step that learns about a set; one step learns about one at most."""
    for reference, known in sets.items():
        return Learning(
            log, batches, scheduled, state.run_id, state.company_id, state.submission_id, step_index, reference, known
        )
    return None


@dataclass(slots=True)
class Learning:
    """What one step of a run learns about one set. `base` is the set that it was told of.

    `changed` says whether the set is another by it: then the same step over the same batch has another input.
    """

    log: EventLog
    batches: BatchStore
    scheduled: Decision
    run_id: str
    company_id: str
    submission_id: str
    step_index: int
    reference: str
    base: EntitySetState
    changed: bool = False

    async def learn(self, kept: Mapping[str, Payload]) -> Mapping[str, Any]:
        """Record the set with the batch in it; what there is to report of that.

        Raises KnownChanged when somebody else taught the set meanwhile, UnavailableError.
        """
        name = self.reference.removeprefix(PREFIX)
        matched = Matched(
            self.company_id, name, self.run_id, self.step_index, self.base.version,
            kept[self.reference], kept[self.reference + MOVES],
        )  # fmt: skip
        report = {"set": name, "base_version": self.base.version, "version": self.base.version}
        if self.base.snapshot is not None and self.base.snapshot.digest == matched.snapshot.digest:
            return {"entities": report}
        moves = await self._moves(matched.moves)
        events = await asyncio.to_thread(entities.record, self.base, matched, moves)
        try:
            await self.log.append(self._decision(events))
        except VersionConflictError:
            self.base = await known_set(self.log, self.scheduled.org_id, self.company_id, self.reference)
            raise KnownChanged({self.reference: self.base.snapshot}) from None
        self.changed = True
        self.base = replace(self.base, version=self.base.version + 1, snapshot=matched.snapshot)
        return {"entities": {**report, "version": self.base.version}}

    async def _moves(self, moves: Payload) -> list[Move]:
        owner = Owner(self.scheduled.org_id, self.company_id)
        manifest = await self.batches.manifest(owner, moves)
        found: list[Move] = []
        async for columns, _ in self.batches.chunks(owner, manifest, _MOVE_FIELDS):
            found += await asyncio.to_thread(_moves_of, columns)
        return found

    def _decision(self, events: list[Event]) -> Decision:
        return Decision(
            org_id=self.scheduled.org_id,
            kind=ENTITIES,
            aggregate_id=self.base.set_id,
            version=self.base.version + 1,
            routing=entities.routing(),
            decision_id=decision_id(),
            at=datetime.now(UTC),
            actor=SERVICE_ACTOR,
            events=tuple(events),
            company_id=self.company_id,
            causation_id=self.scheduled.decision_id,
            correlation_id=self.submission_id,
            request_id=self.scheduled.request_id,
        )


def _moves_of(columns: Mapping[str, Column]) -> list[Move]:
    return [Move(*move) for move in zip(*(columns[name].values() for name in _MOVE_FIELDS), strict=True)]
