"""Events of what an org is made of: companies, users, tokens, blueprints; and the registrations of steps."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from events.context import Role
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


class CompanyCreated(Event):
    """A company of the org exists."""

    TOPIC: ClassVar[str] = "company.created"
    name: str


class UserCreated(Event):
    """A user may act. `identity` is the subject of its sessions (the `sub` claim), None when it has tokens only."""

    TOPIC: ClassVar[str] = "user.created"
    email: str
    name: str | None
    role: Role
    company_id: str | None
    identity: str | None


class UserDeactivated(Event):
    """The user and all its tokens may act no more."""

    TOPIC: ClassVar[str] = "user.deactivated"


class TokenCreated(Event):
    """An API token exists. `verifier` is the SHA-256 of the whole token, which itself is stored nowhere."""

    TOPIC: ClassVar[str] = "token.created"
    name: str
    user_id: str
    hint: str
    verifier: str


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

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: Annotated[int, Field(ge=1, le=20, description="Executions at most, the first included.")] = 3
    backoff_s: Annotated[
        float, Field(ge=0, le=3600, description="Seconds before the second attempt; doubled for each further one.")
    ] = 1.0
    timeout_s: Annotated[float, Field(gt=0, le=3600, description="Seconds that one attempt may take.")] = 60.0


class BlueprintStep(BaseModel):
    """One step of a blueprint: which, how configured, and how it is tried again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
