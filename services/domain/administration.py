"""What an org is made of: org, company, user, token, blueprint. Small aggregates whose rules fit in a line each.

Pure: no clock, no id, no I/O. Each is the same: a state, `evolve`, and decisions that return events.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from events.administration import (
    BlueprintArchived,
    BlueprintCreated,
    BlueprintStep,
    CompanyCreated,
    CompanyErased,
    OrgConfigured,
    OrgCreated,
    OrgLimitsSet,
    OrgRenamed,
    SignInRule,
    StepRegistered,
    TokenCreated,
    TokenRevoked,
    TokenRotated,
    UserCreated,
    UserDeactivated,
    UserIdentityLinked,
    UserInvited,
)
from events.context import ROLE_RANKS, Role
from events.errors import ErasedError, InvalidInputError, NotFoundError, StateConflictError
from events.limits import NO_LIMITS, Limits
from events.model import Event


@dataclass(frozen=True, slots=True)
class Thing:
    """The state of an administrative aggregate: what it is, and whether it is still in use.

    `version` 0 means that it does not exist. `company_id` and `user_id` are those that it belongs to; `steps` are a
    blueprint's; `name`, `members_may_work`, `sign_in_rules` and `limits` an org's; `role`, `identity` and `invitation`
    a user's; `expires_at` a token's; `erased` a
    company's.
    """

    aggregate_id: str
    version: int = 0
    active: bool = False
    name: str = ""
    company_id: str | None = None
    user_id: str | None = None
    steps: tuple[BlueprintStep, ...] = ()
    registration: StepRegistered | None = None
    members_may_work: bool = True
    sign_in_rules: tuple[SignInRule, ...] = ()
    limits: Limits = NO_LIMITS
    role: Role | None = None
    identity: str | None = None
    invitation: UserInvited | None = None
    expires_at: datetime | None = None
    erased: bool = False

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
        case CompanyErased():
            return replace(thing, active=False, erased=True, name="")
        case OrgRenamed():
            return replace(thing, name=event.name)
        case OrgConfigured():
            return replace(thing, members_may_work=event.members_may_work, sign_in_rules=event.sign_in_rules)
        case OrgLimitsSet():
            return replace(thing, limits=event.limits)
        case UserCreated():
            return replace(thing, active=True, company_id=event.company_id, role=event.role, identity=event.identity)
        case UserInvited():
            return replace(thing, invitation=event)
        case UserIdentityLinked():
            return replace(thing, identity=event.identity, invitation=None)
        case TokenCreated():
            return replace(
                thing, active=True, user_id=event.user_id, company_id=event.company_id, expires_at=event.expires_at
            )
        case TokenRotated():
            return replace(thing, expires_at=event.expires_at)
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
    """The thing itself. Raises NotFoundError, ErasedError, StateConflictError when it is out of use (`state`: how)."""
    if thing.erased:
        raise ErasedError(f"The {what} {thing.aggregate_id} is erased.")
    if not must_exist(thing, what).active:
        raise StateConflictError(f"The {what} {thing.aggregate_id} is {state}.")
    return thing


def rename_org(org: Thing, name: str) -> list[Event]:
    """Give the org another name; nothing when it has it."""
    must_exist(org, "org")
    if org.name == name:
        return []
    return [OrgRenamed(originator_id=org.aggregate_id, originator_version=org.version + 1, name=name)]


def configure_org(
    org: Thing, members_may_work: bool | None, sign_in_rules: tuple[SignInRule, ...] | None
) -> list[Event]:
    """Change the settings that are given; nothing when they are so."""
    must_exist(org, "org")
    members = org.members_may_work if members_may_work is None else members_may_work
    rules = org.sign_in_rules if sign_in_rules is None else sign_in_rules
    if (members, rules) == (org.members_may_work, org.sign_in_rules):
        return []
    at = {"originator_id": org.aggregate_id, "originator_version": org.version + 1}
    return [OrgConfigured.model_validate({**at, "members_may_work": members, "sign_in_rules": rules})]


def set_limits(org: Thing, limits: Limits) -> list[Event]:
    """Give the org these limits; nothing when it has them."""
    if must_exist(org, "org").limits == limits:
        return []
    return [OrgLimitsSet(originator_id=org.aggregate_id, originator_version=org.version + 1, limits=limits)]


def accept_invitation(user: Thing, invitation_id: str, identity: str, now: datetime) -> list[Event]:
    """Link a session's identity to an invited user; nothing when it is linked by this identity."""
    if must_be_active(user, "user", "deactivated").identity == identity:
        return []
    if user.invitation is None or user.invitation.invitation_id != invitation_id:
        raise NotFoundError("There is no such invitation.")
    if user.invitation.expires_at <= now:
        raise StateConflictError("The invitation has expired; ask for another.", code="invitation_expired")
    return [
        UserIdentityLinked(
            originator_id=user.aggregate_id,
            originator_version=user.version + 1,
            identity=identity,
            invitation_id=invitation_id,
        )
    ]


def admit_user(org: Thing, user_id: str, rule_name: str, identity: str, email: str) -> list[Event]:
    """Create the user of a session that one of the org's rules lets in."""
    rule = next((rule for rule in must_exist(org, "org").sign_in_rules if rule.name == rule_name), None)
    if rule is None:
        raise NotFoundError(f"The org has no sign-in rule {rule_name}.")
    user = UserCreated(
        originator_id=user_id,
        originator_version=1,
        email=email,
        name=None,
        role=rule.role,
        company_id=rule.company_id,
        identity=None,
    )
    linked = UserIdentityLinked(originator_id=user_id, originator_version=1, identity=identity, sign_in_rule=rule_name)
    return [user, linked]


def scope_of_token(user: Thing, role: Role | None, company_id: str | None) -> tuple[Role, str | None]:
    """The role and the company that a token of this user has: what was asked for, never more than the user has."""
    if user.role is None:
        raise StateConflictError(f"The user {user.aggregate_id} has no role.")
    wanted = role or user.role
    if ROLE_RANKS[wanted] > ROLE_RANKS[user.role]:
        raise InvalidInputError(f"A token of a {user.role} cannot be a {wanted}.")
    if user.company_id is not None and company_id not in (None, user.company_id):
        raise NotFoundError(f"There is no company {company_id}.")
    company = company_id or user.company_id
    if wanted == "org_admin" and company is not None:
        raise InvalidInputError("A token for one company needs the role company_admin or member.")
    if wanted != "org_admin" and company is None:
        raise InvalidInputError(f"A token with the role {wanted} needs the company_id that it is for.")
    return wanted, company


def rotate_token(
    token: Thing, secret_id: str, hint: str, now: datetime, overlap_s: int, expires_in_s: int | None
) -> list[Event]:
    """A new secret; the present one ends after `overlap_s`, and no later than the token did."""
    must_be_active(token, "token", "revoked")
    if token.expires_at is not None and token.expires_at <= now:
        raise StateConflictError(f"The token {token.aggregate_id} has expired.", code="token_expired")
    until = now + timedelta(seconds=overlap_s)
    return [
        TokenRotated(
            originator_id=token.aggregate_id,
            originator_version=token.version + 1,
            hint=hint,
            secret_id=secret_id,
            previous_valid_until=until if token.expires_at is None else min(until, token.expires_at),
            expires_at=token.expires_at if expires_in_s is None else now + timedelta(seconds=expires_in_s),
        )
    ]


def erase_company(company: Thing, confirmation: str) -> list[Event]:
    """Erase a company, when its id or its name is said again; nothing when it is erased."""
    if company.erased:
        return []
    if confirmation not in (company.aggregate_id, must_exist(company, "company").name):
        problem = {"path": "/confirmation", "message": "neither the company's id nor its name"}
        raise InvalidInputError("Erasing cannot be undone: repeat the company's id or its name.", [problem])
    return [CompanyErased(originator_id=company.aggregate_id, originator_version=company.version + 1)]


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
