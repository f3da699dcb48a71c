"""Events of what an org is made of: companies, users, tokens, blueprints; and the registrations of steps.

No secret, and nothing that is derived from one: a token or an invitation is known by the random id of its secret.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from events.context import Role
from events.limits import Limits
from events.model import Event

ORG, COMPANY, USER, TOKEN, BLUEPRINT, STEP = "org", "company", "user", "token", "blueprint", "step"


class OrgCreated(Event):
    """An org exists. `originator_id` is the org's id."""

    TOPIC: ClassVar[str] = "org.created"
    name: str


class OrgRenamed(Event):
    """The org has another name."""

    TOPIC: ClassVar[str] = "org.renamed"
    name: str


class SignInRule(BaseModel):
    """Lets in sessions that no user is known for yet, when their claim says so (just-in-time provisioning).

    `equals`: the claim at this dotted path is this text. `email_domain`: the claim is an address of this domain. Both
    look at an address only if `email_verified` is true. Take claims that only the identity provider can set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="Names the rule in the events.")]
    claim: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_:/-]{1,100}(\.[A-Za-z0-9_:/-]{1,100}){0,4}$",
            description="A dotted path into the session's claims, such as `app_metadata.org`; never `user_metadata`, "
            "which the users of some providers can write themselves.",
        ),
    ]
    match: Literal["equals", "email_domain"]
    value: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
    role: Annotated[Literal["company_admin", "member"], Field(description="What the new user may do.")]
    company_id: Annotated[
        str,
        Field(
            pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
            description="The company that the new user belongs to.",
        ),
    ]

    @field_validator("claim")
    @classmethod
    def _not_the_users_own(cls, claim: str) -> str:
        if claim.split(".")[0] == "user_metadata":
            raise ValueError("users can write user_metadata themselves")
        return claim


class OrgConfigured(Event):
    """The org's own settings, all of them as they are from now on."""

    TOPIC: ClassVar[str] = "org.configured"
    members_may_work: bool
    sign_in_rules: tuple[SignInRule, ...]


class OrgLimitsSet(Event):
    """The platform's operator gave the org limits of its own; what is null is the platform's default."""

    TOPIC: ClassVar[str] = "org.limits_set"
    limits: Limits


class CompanyCreated(Event):
    """A company of the org exists."""

    TOPIC: ClassVar[str] = "company.created"
    name: str


class CompanyErased(Event):
    """The company's key is to be destroyed: of all that was its, only sealed bytes stay. Never sealed itself."""

    TOPIC: ClassVar[str] = "company.erased"


class UserCreated(Event):
    """A user may act. `identity` is the subject of its sessions, None until one is linked (`user.identity_linked`)."""

    TOPIC: ClassVar[str] = "user.created"
    email: str
    name: str | None
    role: Role
    company_id: str | None
    identity: str | None


class UserInvited(Event):
    """Whoever brings the invitation, and a session, becomes this user. The code itself is recorded nowhere."""

    TOPIC: ClassVar[str] = "user.invited"
    invitation_id: str
    expires_at: datetime


class UserIdentityLinked(Event):
    """Sessions of this identity (the `sub` claim) act as the user, by its invitation or by a rule of the org."""

    TOPIC: ClassVar[str] = "user.identity_linked"
    identity: str
    invitation_id: str | None = None
    sign_in_rule: str | None = None


class UserDeactivated(Event):
    """The user and all its tokens may act no more."""

    TOPIC: ClassVar[str] = "user.deactivated"


class TokenCreated(Event):
    """An API token exists: it acts as its user, within its own role and company. None for `role`: as the user may.

    `secret_id` names its secret; neither the secret nor its hash is in the log.
    """

    TOPIC: ClassVar[str] = "token.created"
    class_version: ClassVar[int] = 2
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0", "0.1.0")
    name: str
    user_id: str
    hint: str
    secret_id: str
    role: Role | None = None
    company_id: str | None = None
    expires_at: datetime | None = None

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 carried the hash. Its secret has no id of its own: `credentials` knows it by the token's."""
        del state["verifier"]
        state["secret_id"] = ""


class TokenRotated(Event):
    """The token has a new secret; the one before it ends at `previous_valid_until`."""

    TOPIC: ClassVar[str] = "token.rotated"
    hint: str
    secret_id: str
    previous_valid_until: datetime
    expires_at: datetime | None


class TokenRevoked(Event):
    """The token may be used no more."""

    TOPIC: ClassVar[str] = "token.revoked"


class StepRegistered(Event):
    """A worker serves this version of a step. `originator_id` is the step's key; the org is `platform`."""

    TOPIC: ClassVar[str] = "step.registered"
    version: str
    summary: str
    config_schema: dict[str, Any]
    has_effects: bool


class RetryPolicy(BaseModel):
    """How a step is tried again after a retryable error: up to `attempts`, after `backoff_s` doubled each time."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    attempts: Annotated[int, Field(ge=1, le=20, description="Executions at most, the first included.")] = 3
    backoff_s: Annotated[
        float, Field(ge=0, le=3600, description="Seconds before the second attempt; doubled for each further one.")
    ] = 1.0
    timeout_s: Annotated[float, Field(gt=0, le=3600, description="Seconds that one attempt may take.")] = 60.0


class BlueprintStep(BaseModel):
    """One step of a blueprint: which, how configured, and how it is tried again."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="The key of a registered step.")]
    config: Annotated[dict[str, Any], Field(description="Checked against the step's config schema.")] = Field(
        default_factory=dict
    )
    retry: RetryPolicy = RetryPolicy()


class BlueprintCreated(Event):
    """An ordered list of steps that runs of the org can follow; never changed, only archived."""

    TOPIC: ClassVar[str] = "blueprint.created"
    name: str
    description: str | None
    steps: tuple[BlueprintStep, ...]


class BlueprintArchived(Event):
    """The blueprint starts no further runs."""

    TOPIC: ClassVar[str] = "blueprint.archived"
