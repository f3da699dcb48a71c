"""Who acts: the one AuthContext that both ways in (API token, JWT session) give, and its trace in the log."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Role = Literal["org_admin", "company_admin", "member"]
ROLE_RANKS: dict[Role, int] = {"member": 0, "company_admin": 1, "org_admin": 2}
"""Who may do all that another may."""

AuthMethod = Literal["api_token", "jwt", "platform", "service"]

PLATFORM_ORG = "platform"
"""The org token of facts that belong to no tenant (step registrations)."""


class AuthContext(BaseModel):
    """The caller of a request. `company_id` is None for an org_admin only."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    org_id: str
    user_id: str | None
    company_id: str | None = None
    role: Role
    auth_method: AuthMethod
    token_id: str | None = None


class Actor(BaseModel):
    """Who caused a decision, as the log keeps it; no secret, no claim of a session."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    method: AuthMethod
    user_id: str | None = None
    token_id: str | None = None
    role: Role | None = None

    @classmethod
    def of(cls, auth: AuthContext) -> "Actor":
        """The actor that an AuthContext stands for."""
        return cls(method=auth.auth_method, user_id=auth.user_id, token_id=auth.token_id, role=auth.role)


SERVICE_ACTOR = Actor(method="service")
PLATFORM_ACTOR = Actor(method="platform")
