"""Commands: what the gateway asks of the command service, and what it answers. Ids are made before they are sent."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from events.administration import BlueprintStep, SignInRule
from events.context import Actor, Role
from events.limits import Limits
from events.payload import Payload


class Command(BaseModel):
    """The base of every command.

    `command_id` derives from the org and the Idempotency-Key, so a repeat is recognised for ever; `digest` is that of
    the request's body, so the same key with another body is an error. `aggregate_id` is the thing that is created or
    changed.
    """

    # A faulty command is told of in logs and dead letters: never by its content, which may hold a token's verifier.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    NAME: ClassVar[str]

    command_id: str
    org_id: str
    aggregate_id: str
    actor: Actor
    digest: str
    request_id: str | None = None


class CreateOrg(Command):
    """Create an org with its first admin and that admin's API token (the platform's operator only)."""

    NAME: ClassVar[str] = "create_org"
    name: str
    admin_user_id: str
    admin_email: str
    token_id: str
    token_hint: str
    token_secret_id: str


class RenameOrg(Command):
    """Give the org another name."""

    NAME: ClassVar[str] = "rename_org"
    name: str


class ConfigureOrg(Command):
    """Change the org's own settings; what is None stays as it is."""

    NAME: ClassVar[str] = "configure_org"
    members_may_work: bool | None
    sign_in_rules: tuple[SignInRule, ...] | None


class SetOrgLimits(Command):
    """Give an org limits of its own (the platform's operator only)."""

    NAME: ClassVar[str] = "set_org_limits"
    limits: Limits


class CreateCompany(Command):
    """Create a company in the org."""

    NAME: ClassVar[str] = "create_company"
    name: str


class EraseCompany(Command):
    """Destroy the key of a company, and with it all that the company handed in and was made of it, for good."""

    NAME: ClassVar[str] = "erase_company"
    confirmation: str


class CreateUser(Command):
    """Create a user of the org."""

    NAME: ClassVar[str] = "create_user"
    email: str
    name: str | None
    role: Role
    company_id: str | None


class InviteUser(Command):
    """Create a user whose sessions are linked when the invitation is accepted."""

    NAME: ClassVar[str] = "invite_user"
    email: str
    name: str | None
    role: Role
    company_id: str | None
    invitation_id: str
    expires_in_s: int


class AcceptInvitation(Command):
    """Link the identity of a session, which the gateway checked, to the invited user."""

    NAME: ClassVar[str] = "accept_invitation"
    invitation_id: str
    identity: str


class AdmitUser(Command):
    """Create the user of a session that a sign-in rule of the org lets in; the gateway checked the session's claims."""

    NAME: ClassVar[str] = "admit_user"
    email: str
    identity: str
    sign_in_rule: str


class DeactivateUser(Command):
    """Deactivate a user, and so its tokens and sessions."""

    NAME: ClassVar[str] = "deactivate_user"


class CreateToken(Command):
    """Create an API token of a user; the gateway made the secret and sends only its id.

    `role` and `company_id` narrow what the user may; None: as the user.
    """

    NAME: ClassVar[str] = "create_token"
    name: str
    user_id: str
    hint: str
    secret_id: str
    role: Role | None
    company_id: str | None
    expires_in_s: int | None


class RotateToken(Command):
    """Give a token a new secret; the one before it stays valid for `overlap_s`."""

    NAME: ClassVar[str] = "rotate_token"
    hint: str
    secret_id: str
    overlap_s: int
    expires_in_s: int | None


class RevokeToken(Command):
    """Revoke an API token."""

    NAME: ClassVar[str] = "revoke_token"


class CreateBlueprint(Command):
    """Create a blueprint; every step's config is checked against its schema."""

    NAME: ClassVar[str] = "create_blueprint"
    name: str
    description: str | None
    steps: tuple[BlueprintStep, ...]


class ArchiveBlueprint(Command):
    """Archive a blueprint."""

    NAME: ClassVar[str] = "archive_blueprint"


class CreateSubmission(Command):
    """Hand in a batch and, with `start_run`, start its first run too."""

    NAME: ClassVar[str] = "create_submission"
    company_id: str
    blueprint_id: str
    name: str | None
    records: Payload
    start_run: bool
    reading: BlueprintStep | None = None
    """The step that makes records of an uploaded file: the first of each run, before those of the blueprint."""
    reuse_results: bool = True


class CheckSubmission(Command):
    """Say what would be wrong with a submission of a file, before the file is taken in. Nothing is decided."""

    NAME: ClassVar[str] = "check_submission"
    company_id: str
    blueprint_id: str
    reading: BlueprintStep


class CreateRun(Command):
    """Start a further run of a submission."""

    NAME: ClassVar[str] = "create_run"
    submission_id: str
    reuse_results: bool = True


class RetryRun(Command):
    """Start a run that goes on from another run's failed step."""

    NAME: ClassVar[str] = "retry_run"
    run_id: str


class VerifyRun(Command):
    """Execute a run's steps again, from its recorded input, and compare each output with the recorded one."""

    NAME: ClassVar[str] = "verify_run"
    run_id: str


class CancelRun(Command):
    """Stop a run."""

    NAME: ClassVar[str] = "cancel_run"
    reason: str | None


COMMANDS: dict[str, type[Command]] = {
    kind.NAME: kind
    for kind in (
        CreateOrg, RenameOrg, ConfigureOrg, SetOrgLimits, CreateCompany, EraseCompany, CreateUser, InviteUser,
        AcceptInvitation, AdmitUser, DeactivateUser, CreateToken, RotateToken, RevokeToken, CreateBlueprint,
        ArchiveBlueprint, CreateSubmission, CheckSubmission, CreateRun, RetryRun, VerifyRun, CancelRun,
    )
}  # fmt: skip


class Accepted(BaseModel):
    """A command's answer: the position of its last decision, and whether this very call made it."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    position: int
    repeated: bool = False


class Answer(BaseModel):
    """What the command service sends back: an acceptance or a rejection (events.errors.rejection_to_json).

    Neither means that the service could not decide now (`unavailable` says why): the gateway defers the command, unless
    the log itself is wrong (`code` is log_rewound), which may take long to mend.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    accepted: Accepted | None = None
    unavailable: str | None = None
    code: str | None = None
    rejected: Annotated[dict[str, Any] | None, Field(description="The wire form of a RejectedError.")] = None
