"""What an org is made of: org, company, user, token, blueprint. Small aggregates whose rules fit in a line each.

Pure: no clock, no id, no I/O. Each is the same: a state, `evolve`, and decisions that return events.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from events.administration import (
    BlueprintArchived,
    BlueprintCreated,
    BlueprintStep,
    CompanyCreated,
    OrgCreated,
    OrgRenamed,
    StepRegistered,
    TokenCreated,
    TokenRevoked,
    UserCreated,
    UserDeactivated,
)
from events.errors import NotFoundError, StateConflictError
from events.model import Event


@dataclass(frozen=True, slots=True)
class Thing:
    """The state of an administrative aggregate: what it is, and whether it is still in use.

    `version` 0 means that it does not exist. `company_id` and `user_id` are those that it belongs to; `steps` are a
    blueprint's; `name` is an org's.
    """

    aggregate_id: str
    version: int = 0
    active: bool = False
    name: str = ""
    company_id: str | None = None
    user_id: str | None = None
    steps: tuple[BlueprintStep, ...] = ()
    registration: StepRegistered | None = None

    @property
    def exists(self) -> bool:
        """Whether it was ever created."""
        return self.version > 0


def evolve(thing: Thing, event: Event) -> Thing:
    """The state after one more event."""
    thing = replace(thing, version=event.originator_version)
    match event:
        case OrgCreated() | CompanyCreated():
            return replace(thing, active=True, name=event.name)
        case OrgRenamed():
            return replace(thing, name=event.name)
        case UserCreated():
            return replace(thing, active=True, company_id=event.company_id)
        case TokenCreated():
            return replace(thing, active=True, user_id=event.user_id)
        case BlueprintCreated():
            return replace(thing, active=True, name=event.name, steps=event.steps)
        case StepRegistered():
            return replace(thing, active=True, registration=event)
        case UserDeactivated() | TokenRevoked() | BlueprintArchived():
            return replace(thing, active=False)
    return thing


def fold(aggregate_id: str, events: Iterable[Event]) -> Thing:
    """The state that a history gives."""
    thing = Thing(aggregate_id)
    for event in events:
        thing = evolve(thing, event)
    return thing


def must_exist(thing: Thing, what: str) -> Thing:
    """The thing itself. Raises NotFoundError when it was never created."""
    if not thing.exists:
        raise NotFoundError(f"There is no {what} {thing.aggregate_id}.")
    return thing


def must_be_active(thing: Thing, what: str, state: str) -> Thing:
    """The thing itself. Raises NotFoundError, or StateConflictError when it is out of use (`state` names how)."""
    if not must_exist(thing, what).active:
        raise StateConflictError(f"The {what} {thing.aggregate_id} is {state}.")
    return thing


def rename_org(org: Thing, name: str) -> list[Event]:
    """Give the org another name; nothing when it has it."""
    must_exist(org, "org")
    if org.name == name:
        return []
    return [OrgRenamed(originator_id=org.aggregate_id, originator_version=org.version + 1, name=name)]


def deactivate_user(user: Thing) -> list[Event]:
    """Deactivate a user; nothing when it is."""
    if not must_exist(user, "user").active:
        return []
    return [UserDeactivated(originator_id=user.aggregate_id, originator_version=user.version + 1)]


def revoke_token(token: Thing) -> list[Event]:
    """Revoke a token; nothing when it is."""
    if not must_exist(token, "token").active:
        return []
    return [TokenRevoked(originator_id=token.aggregate_id, originator_version=token.version + 1)]


def archive_blueprint(blueprint: Thing) -> list[Event]:
    """Archive a blueprint; nothing when it is."""
    if not must_exist(blueprint, "blueprint").active:
        return []
    return [BlueprintArchived(originator_id=blueprint.aggregate_id, originator_version=blueprint.version + 1)]


def register_step(step: Thing, registration: StepRegistered) -> list[Event]:
    """Register a step; nothing when this very registration is the present one."""
    known = step.registration
    same = known is not None and known.model_dump(exclude={"originator_version"}) == registration.model_dump(
        exclude={"originator_version"}
    )
    return [] if same else [registration.model_copy(update={"originator_version": step.version + 1})]
