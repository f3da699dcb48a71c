"""Who may do what: every endpoint, and the roles that it answers. An endpoint that is missing here cannot be served.

`org_admin` acts in the whole org; `company_admin` and `member` in their own company, which each query and command
enforces besides.
"""

from dataclasses import dataclass

from events.context import AuthContext, Role
from events.errors import ConfigurationError, PermissionError_

EVERYONE: frozenset[Role] = frozenset({"org_admin", "company_admin", "member"})
ADMINS: frozenset[Role] = frozenset({"org_admin", "company_admin"})
ORG_ADMINS: frozenset[Role] = frozenset({"org_admin"})

RANKS: dict[Role, int] = {"member": 0, "company_admin": 1, "org_admin": 2}


@dataclass(frozen=True, slots=True)
class Rule:
    """The roles that may call an endpoint, and whether it changes something."""

    roles: frozenset[Role]
    command: bool = False


ENDPOINTS: dict[str, Rule] = {
    "/v1/submissions/create": Rule(EVERYONE, command=True),
    "/v1/submissions/get": Rule(EVERYONE),
    "/v1/submissions/list": Rule(EVERYONE),
    "/v1/runs/create": Rule(EVERYONE, command=True),
    "/v1/runs/get": Rule(EVERYONE),
    "/v1/runs/list": Rule(EVERYONE),
    "/v1/runs/cancel": Rule(EVERYONE, command=True),
    "/v1/runs/retry": Rule(EVERYONE, command=True),
    "/v1/step_results/list": Rule(EVERYONE),
    "/v1/step_results/get": Rule(EVERYONE),
    "/v1/results/get": Rule(EVERYONE),
    "/v1/events/list": Rule(EVERYONE),
    "/v1/steps/list": Rule(EVERYONE),
    "/v1/steps/get": Rule(EVERYONE),
    "/v1/blueprints/create": Rule(ORG_ADMINS, command=True),
    "/v1/blueprints/get": Rule(EVERYONE),
    "/v1/blueprints/list": Rule(EVERYONE),
    "/v1/blueprints/archive": Rule(ORG_ADMINS, command=True),
    "/v1/orgs/get": Rule(EVERYONE),
    "/v1/orgs/rename": Rule(ORG_ADMINS, command=True),
    "/v1/companies/create": Rule(ORG_ADMINS, command=True),
    "/v1/companies/get": Rule(EVERYONE),
    "/v1/companies/list": Rule(EVERYONE),
    "/v1/users/create": Rule(ADMINS, command=True),
    "/v1/users/get": Rule(EVERYONE),
    "/v1/users/list": Rule(EVERYONE),
    "/v1/users/deactivate": Rule(ADMINS, command=True),
    "/v1/tokens/create": Rule(ADMINS, command=True),
    "/v1/tokens/get": Rule(ADMINS),
    "/v1/tokens/list": Rule(ADMINS),
    "/v1/tokens/revoke": Rule(ADMINS, command=True),
}


def rule_of(endpoint: str) -> Rule:
    """The rule of an endpoint. Raises ConfigurationError, when the application is put together, if it has none."""
    rule = ENDPOINTS.get(endpoint)
    if rule is None:
        raise ConfigurationError(f"The endpoint {endpoint} has no rule in gateway/permissions.py.")
    return rule


def check(rule: Rule, auth: AuthContext) -> None:
    """Raises PermissionError_ when the caller's role may not."""
    if auth.role not in rule.roles:
        raise PermissionError_(f"The role {auth.role} may not do this; {', '.join(sorted(rule.roles))} may.")


def check_grant(auth: AuthContext, role: Role) -> None:
    """Raises PermissionError_ when the caller would give somebody a role above its own."""
    if RANKS[role] > RANKS[auth.role]:
        raise PermissionError_(f"The role {auth.role} cannot create a user with the role {role}.")
