"""Who may do what: every endpoint, the roles that it answers, and how far each of them reaches. The one place.

An endpoint that is missing here cannot be served. docs/security.md shows this table; a test calls every endpoint of it
as every role, on things of the own company, of another one and of another org.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from events.context import ROLE_RANKS, AuthContext, Role
from events.errors import ConfigurationError, PermissionError_

EVERYONE: frozenset[Role] = frozenset({"org_admin", "company_admin", "member"})
ADMINS: frozenset[Role] = frozenset({"org_admin", "company_admin"})
ORG_ADMINS: frozenset[Role] = frozenset({"org_admin"})

Reach = Literal["company", "org", "platform"]
"""Whose things an endpoint is about: a company's, which a caller of another company does not see; the org's, which all
its callers see; or nobody's."""
Target = Literal["own company", "other company", "other org"]
Outcome = Literal["yes", "403", "404"]
TARGETS: tuple[Target, ...] = ("own company", "other company", "other org")
ROLES: tuple[Role, ...] = ("org_admin", "company_admin", "member")


@dataclass(frozen=True, slots=True)
class Rule:
    """The roles that may call an endpoint, whose things it is about, and whether it changes something.

    `work`: a member may only as long as its org allows its members to work. `session`: for sessions alone, and also
    for those that no user is known for.
    """

    roles: frozenset[Role]
    reach: Reach = "company"
    command: bool = False
    work: bool = False
    session: bool = False

    def outcome(self, role: Role, target: Target) -> Outcome:
        """What a caller of this role gets for a thing that belongs to `target`."""
        if role not in self.roles:
            return "403"
        if self.reach == "platform" or target == "own company":
            return "yes"
        if target == "other org":
            return "404"
        return "yes" if role == "org_admin" or self.reach == "org" else "404"


ENDPOINTS: dict[str, Rule] = {
    "/v1/submissions/create": Rule(EVERYONE, command=True, work=True),
    "/v1/submissions/upload": Rule(EVERYONE, command=True, work=True),
    "/v1/submissions/get": Rule(EVERYONE),
    "/v1/submissions/list": Rule(EVERYONE),
    "/v1/runs/create": Rule(EVERYONE, command=True, work=True),
    "/v1/runs/get": Rule(EVERYONE),
    "/v1/runs/list": Rule(EVERYONE),
    "/v1/runs/diff": Rule(EVERYONE),
    "/v1/runs/cancel": Rule(EVERYONE, command=True, work=True),
    "/v1/runs/retry": Rule(EVERYONE, command=True, work=True),
    "/v1/step_results/list": Rule(EVERYONE),
    "/v1/step_results/get": Rule(EVERYONE),
    "/v1/results/get": Rule(EVERYONE),
    "/v1/results/download": Rule(EVERYONE),
    "/v1/entity_sets/list": Rule(EVERYONE),
    "/v1/entity_sets/get": Rule(EVERYONE),
    "/v1/events/list": Rule(EVERYONE),
    "/v1/events/stream": Rule(EVERYONE),
    "/v1/events/trace": Rule(EVERYONE),
    "/v1/audit/verify_run": Rule(EVERYONE, command=True, work=True),
    "/v1/audit/verification": Rule(EVERYONE),
    "/v1/audit/checkpoint": Rule(ADMINS, "org"),
    "/v1/audit/inclusion": Rule(ADMINS),
    "/v1/audit/consistency": Rule(ADMINS, "org"),
    "/v1/audit/export": Rule(ADMINS),
    "/v1/steps/list": Rule(EVERYONE, "platform"),
    "/v1/steps/get": Rule(EVERYONE, "platform"),
    "/v1/blueprints/create": Rule(ORG_ADMINS, "org", command=True),
    "/v1/blueprints/get": Rule(EVERYONE, "org"),
    "/v1/blueprints/list": Rule(EVERYONE, "org"),
    "/v1/blueprints/preview": Rule(EVERYONE, work=True),
    "/v1/blueprints/archive": Rule(ORG_ADMINS, "org", command=True),
    "/v1/orgs/get": Rule(EVERYONE, "org"),
    "/v1/orgs/rename": Rule(ORG_ADMINS, "org", command=True),
    "/v1/orgs/configure": Rule(ORG_ADMINS, command=True),
    "/v1/companies/create": Rule(ORG_ADMINS, "org", command=True),
    "/v1/companies/erase": Rule(ORG_ADMINS, command=True),
    "/v1/companies/get": Rule(EVERYONE),
    "/v1/companies/list": Rule(EVERYONE),
    "/v1/users/create": Rule(ADMINS, command=True),
    "/v1/users/invite": Rule(ADMINS, command=True),
    "/v1/users/accept_invitation": Rule(EVERYONE, "platform", command=True, session=True),
    "/v1/users/get": Rule(EVERYONE),
    "/v1/users/list": Rule(EVERYONE),
    "/v1/users/deactivate": Rule(ADMINS, command=True),
    "/v1/tokens/create": Rule(ADMINS, command=True),
    "/v1/tokens/get": Rule(ADMINS),
    "/v1/tokens/list": Rule(ADMINS),
    "/v1/tokens/rotate": Rule(ADMINS, command=True),
    "/v1/tokens/revoke": Rule(ADMINS, command=True),
}


def rule_of(endpoint: str) -> Rule:
    """The rule of an endpoint. Raises ConfigurationError, when the application is put together, if it has none."""
    rule = ENDPOINTS.get(endpoint)
    if rule is None:
        raise ConfigurationError(f"The endpoint {endpoint} has no rule in gateway/permissions.py.")
    return rule


def check(rule: Rule, auth: AuthContext, *, members_may_work: bool) -> None:
    """Raises PermissionError_ when the caller's role may not."""
    if auth.role not in rule.roles:
        raise PermissionError_(f"The role {auth.role} may not do this; {', '.join(sorted(rule.roles))} may.")
    if rule.work and auth.role == "member" and not members_may_work:
        raise PermissionError_("The org does not allow its members to do this; its admins may.")


def check_grant(auth: AuthContext, role: Role) -> None:
    """Raises PermissionError_ when the caller would give somebody a role above its own."""
    if ROLE_RANKS[role] > ROLE_RANKS[auth.role]:
        raise PermissionError_(f"The role {auth.role} cannot give the role {role}.")


def matrix() -> Iterator[str]:
    """The table as Markdown, line by line."""
    shown = {"yes": "✓", "403": "403", "404": "404"}
    yield f"| endpoint | {' | '.join(f'{role}: {target}' for role in ROLES for target in TARGETS)} |"
    yield "|---|" + "---|" * (len(ROLES) * len(TARGETS))
    for endpoint, rule in ENDPOINTS.items():
        cells = [
            shown[rule.outcome(role, target)]
            + ("¹" if rule.work and role == "member" and target == "own company" else "")
            + ("²" if rule.session else "")
            for role in ROLES
            for target in TARGETS
        ]
        yield f"| `{endpoint.removeprefix('/v1/')}` | {' | '.join(cells)} |"
