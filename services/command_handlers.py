"""What each command does: load, decide, append. Every handler may run any number of times for one command.

A creation's decision is version 1 of a new aggregate and carries the command's id, so the log itself recognises the
repeat. A change looks for its own decision in the history first. Either way the first answer is given again.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from events import administration as admin
from events import commands as cmd
from events import subjects
from events.commands import Accepted, Command
from events.errors import InvalidInputError, NotFoundError, RejectedError, UnavailableError, VersionConflictError
from events.ids import first_run_id
from events.keys import Owner
from events.model import Event
from events.processing import RUN, SubmissionCreated
from services.blueprint_check import problems_of, registry_of
from services.creations import after, first, new_user
from services.domain import administration as things
from services.domain import run as runs
from services.domain import verification
from services.domain.administration import Thing
from services.erasure import CompanyKeyKeeper
from services.open_runs import OpenRuns
from services.recording import accepted, answered_in, decision_of
from services.repository import Repository, events_of

CONFLICT_ATTEMPTS = 10

Handler = Callable[["CommandHandlers", Any], Awaitable[Accepted]]


class CommandHandlers:
    """The handlers of all commands over one repository. `handle` raises RejectedError or UnavailableError."""

    def __init__(self, repository: Repository, open_runs: OpenRuns, keys: CompanyKeyKeeper) -> None:
        self._keys = keys
        self._repository = repository
        self._open_runs = open_runs
        self._log = repository.log

    async def handle(self, command: Command) -> Accepted:
        """Do a command and answer it; for a repeated one, give the first answer."""
        return await _HANDLERS[type(command)](self, command)

    async def create_org(self, command: cmd.CreateOrg) -> Accepted:
        """The org, its first admin and that admin's token."""
        await self._create(command, admin.ORG, admin.OrgCreated(**first(command), name=command.name))
        user = admin.UserCreated(
            originator_id=command.admin_user_id,
            originator_version=1,
            email=command.admin_email,
            name=None,
            role="org_admin",
            company_id=None,
            identity=None,
        )
        await self._create(command, admin.USER, user)
        token = admin.TokenCreated(
            originator_id=command.token_id,
            originator_version=1,
            name="bootstrap",
            user_id=command.admin_user_id,
            hint=command.token_hint,
            secret_id=command.token_secret_id,
            role="org_admin",
        )
        return await self._create(command, admin.TOKEN, token)

    async def create_company(self, command: cmd.CreateCompany) -> Accepted:
        """A company of an org that exists."""
        await self._active(command, admin.ORG, command.org_id)
        await self._keys.make(Owner(command.org_id, command.aggregate_id))
        event = admin.CompanyCreated(**first(command), name=command.name)
        return await self._create(command, admin.COMPANY, event, company_id=command.aggregate_id)

    async def erase_company(self, command: cmd.EraseCompany) -> Accepted:
        """A company is erased: recorded first, then its key is destroyed, also when a repeat finds it recorded."""
        owner = Owner(command.org_id, command.aggregate_id)
        company = await self._repository.fresh_thing(owner.org_id, admin.COMPANY, owner.company_id)
        if not things.must_exist(company, "company").erased:
            await self._keys.must_be_erasable(owner)
        answer = await self._change(
            command, admin.COMPANY, lambda c: things.erase_company(c, command.confirmation), subjects.ERASED_ROUTING
        )
        await self._keys.destroy(owner, datetime.now(UTC))
        return answer

    async def create_user(self, command: cmd.CreateUser) -> Accepted:
        """A user of the whole org, or of a company that exists."""
        await self._company_exists(command, command.company_id)
        return await self._create(command, admin.USER, new_user(command), company_id=command.company_id)

    async def invite_user(self, command: cmd.InviteUser) -> Accepted:
        """A user, and the invitation by which a session becomes it."""
        await self._company_exists(command, command.company_id)
        invited = admin.UserInvited(
            **first(command),
            invitation_id=command.invitation_id,
            expires_at=datetime.now(UTC) + timedelta(seconds=command.expires_in_s),
        )
        return await self._create(command, admin.USER, new_user(command), invited, company_id=command.company_id)

    async def accept_invitation(self, command: cmd.AcceptInvitation) -> Accepted:
        """The invited user is whoever holds this session."""
        return await self._change(
            command,
            admin.USER,
            lambda user: things.accept_invitation(user, command.invitation_id, command.identity, datetime.now(UTC)),
        )

    async def admit_user(self, command: cmd.AdmitUser) -> Accepted:
        """A user by a rule of the org. Its id derives from the identity, so that two sign-ins at once are one user."""
        try:
            org = await self._active(command, admin.ORG, command.org_id)
            events = things.admit_user(org, command.aggregate_id, command.sign_in_rule, command.identity, command.email)
            company_id = events[0].company_id if isinstance(events[0], admin.UserCreated) else None
            await self._company_exists(command, company_id)
        except RejectedError as error:
            return await self._first_answer(command, admin.USER, error)
        return await self._create(command, admin.USER, *events, company_id=company_id)

    async def create_token(self, command: cmd.CreateToken) -> Accepted:
        """A token of a user that is active, within what the user may."""
        try:
            user = await self._active(command, admin.USER, command.user_id)
            role, company_id = things.scope_of_token(user, command.role, command.company_id)
            await self._company_exists(command, company_id)
        except RejectedError as error:
            return await self._first_answer(command, admin.TOKEN, error)
        event = admin.TokenCreated(
            **first(command),
            name=command.name,
            user_id=command.user_id,
            hint=command.hint,
            secret_id=command.secret_id,
            role=role,
            company_id=company_id,
            expires_at=after(command.expires_in_s),
        )
        return await self._create(command, admin.TOKEN, event, company_id=company_id)

    async def rotate_token(self, command: cmd.RotateToken) -> Accepted:
        """A token has a new secret."""
        now = datetime.now(UTC)
        return await self._change(
            command,
            admin.TOKEN,
            lambda token: things.rotate_token(
                token, command.secret_id, command.hint, now, command.overlap_s, command.expires_in_s
            ),
        )

    async def create_blueprint(self, command: cmd.CreateBlueprint) -> Accepted:
        """A blueprint, when every step is registered and every config fits its schema."""
        if problems := problems_of(command.steps, await registry_of(self._repository, command.steps)):
            return await self._first_answer(
                command, admin.BLUEPRINT, InvalidInputError("The blueprint's steps are not valid.", problems)
            )
        event = admin.BlueprintCreated(
            **first(command), name=command.name, description=command.description, steps=command.steps
        )
        return await self._create(command, admin.BLUEPRINT, event)

    async def rename_org(self, command: cmd.RenameOrg) -> Accepted:
        """Another name for the org."""
        return await self._change(command, admin.ORG, lambda org: things.rename_org(org, command.name))

    async def configure_org(self, command: cmd.ConfigureOrg) -> Accepted:
        """Other settings of the org; the companies that they name exist."""
        for rule in command.sign_in_rules or ():
            await self._company_exists(command, rule.company_id)
        return await self._change(
            command,
            admin.ORG,
            lambda org: things.configure_org(org, command.members_may_work, command.sign_in_rules),
        )

    async def set_org_limits(self, command: cmd.SetOrgLimits) -> Accepted:
        """Other limits for an org."""
        return await self._change(command, admin.ORG, lambda org: things.set_limits(org, command.limits))

    async def deactivate_user(self, command: cmd.DeactivateUser) -> Accepted:
        """A user acts no more."""
        return await self._change(command, admin.USER, things.deactivate_user)

    async def revoke_token(self, command: cmd.RevokeToken) -> Accepted:
        """A token is used no more."""
        return await self._change(command, admin.TOKEN, things.revoke_token)

    async def archive_blueprint(self, command: cmd.ArchiveBlueprint) -> Accepted:
        """A blueprint starts no further runs."""
        return await self._change(command, admin.BLUEPRINT, things.archive_blueprint)

    async def create_submission(self, command: cmd.CreateSubmission) -> Accepted:
        """A submission and, unless it is told not to, its first run: one decision."""
        try:
            reading, blueprint = await self._plan(command)
        except RejectedError as error:
            return await self._first_answer(command, RUN, error, first_run_id(command.aggregate_id))
        events = runs.submit(
            first_run_id(command.aggregate_id),
            company_id=command.company_id,
            submission_id=command.aggregate_id,
            blueprint_id=command.blueprint_id,
            name=command.name,
            records=command.records,
            plan=(*reading, *blueprint.steps) if command.start_run else None,
            reading=command.reading,
            reuse_results=command.reuse_results,
        )
        return await self._create_run(command, events, command.company_id, command.aggregate_id)

    async def check_submission(self, command: cmd.CheckSubmission) -> Accepted:
        """Refuses what `create_submission` would refuse, unless that was accepted already."""
        try:
            await self._plan(command)
        except RejectedError:
            if not await self._log.history(command.org_id, RUN, first_run_id(command.aggregate_id)):
                raise
        return Accepted(position=0)

    async def _plan(
        self, command: cmd.CreateSubmission | cmd.CheckSubmission
    ) -> tuple[Sequence[admin.BlueprintStep], Thing]:
        """How the file is read, if it is one, and the blueprint. Raises RejectedError."""
        await self._active(command, admin.COMPANY, command.company_id)
        blueprint = await self._active(command, admin.BLUEPRINT, command.blueprint_id)
        reading = () if command.reading is None else (command.reading,)
        if problems := problems_of(reading, await registry_of(self._repository, reading), of_file=True):
            raise InvalidInputError("What is said of the file is not valid.", problems)
        return reading, blueprint

    async def create_run(self, command: cmd.CreateRun) -> Accepted:
        """A further run of a submission, by its blueprint."""
        try:
            submission = await self._submission(command.org_id, command.submission_id)
            blueprint = await self._active(command, admin.BLUEPRINT, submission.blueprint_id)
        except RejectedError as error:
            return await self._first_answer(command, RUN, error)
        started = runs.start(
            command.aggregate_id,
            company_id=submission.company_id,
            submission_id=command.submission_id,
            blueprint_id=blueprint.aggregate_id,
            plan=blueprint.steps if submission.reading is None else (submission.reading, *blueprint.steps),
            records=submission.records,
            reuse_results=command.reuse_results,
        )
        return await self._create_run(command, started, submission.company_id, command.submission_id)

    async def retry_run(self, command: cmd.RetryRun) -> Accepted:
        """A run that goes on from another one's failed step."""
        try:
            state = await self._repository.run(command.org_id, command.run_id)
            if state.status == "none":
                raise NotFoundError(f"There is no run {command.run_id}.")
            started = runs.start_again(state, command.aggregate_id)
        except RejectedError as error:
            return await self._first_answer(command, RUN, error)
        return await self._create_run(command, started, state.company_id, state.submission_id)

    async def verify_run(self, command: cmd.VerifyRun) -> Accepted:
        """A run that executes another one's steps again, and compares."""
        try:
            history = await self._log.history(command.org_id, RUN, command.run_id)
            started = verification.start(command.run_id, history, command.aggregate_id)
            state = runs.fold(command.aggregate_id, started)
        except RejectedError as error:
            return await self._first_answer(command, RUN, error)
        return await self._create_run(command, started, state.company_id, state.submission_id)

    async def cancel_run(self, command: cmd.CancelRun) -> Accepted:
        """Stop a run; its pending steps are skipped."""
        for _ in range(CONFLICT_ATTEMPTS):
            history = await self._log.history(command.org_id, RUN, command.aggregate_id)
            if not history:
                raise NotFoundError(f"There is no run {command.aggregate_id}.")
            if (answer := answered_in(history, command)) is not None:
                return answer
            state = runs.fold(command.aggregate_id, events_of(history))
            if state.status == "none":  # a submission that has no first run
                raise NotFoundError(f"There is no run {command.aggregate_id}.")
            events = runs.cancel(state, command.reason)
            if not events:
                return Accepted(position=history[-1].position)
            decision = decision_of(
                command, RUN, events, runs.routing(events, verifies=state.verifies is not None), state.company_id,
                state.submission_id,
            )  # fmt: skip
            try:
                return accepted(await self._log.append(decision))
            except VersionConflictError:
                continue
        raise UnavailableError("The run changes too fast to be cancelled now; try again.")

    async def _change(
        self, command: Command, kind: str, decide: Callable[[Thing], list[Event]], routing: str | None = None
    ) -> Accepted:
        """Load an administrative aggregate, decide, append; again when somebody else was faster."""
        for _ in range(CONFLICT_ATTEMPTS):
            history = await self._log.history(command.org_id, kind, command.aggregate_id)
            if (answer := answered_in(history, command)) is not None:
                return answer
            thing = things.fold(command.aggregate_id, events_of(history))
            events = decide(thing)
            if not events:
                return Accepted(position=history[-1].position)
            try:
                company_id = thing.aggregate_id if kind == admin.COMPANY else thing.company_id
                decision = decision_of(command, kind, events, routing or f"log.{kind}", company_id, None)
                return accepted(await self._log.append(decision))
            except VersionConflictError:
                continue
        raise UnavailableError(f"The {kind} changes too fast to be changed now; try again.")

    async def _create(self, command: Command, kind: str, *events: Event, company_id: str | None = None) -> Accepted:
        decision = decision_of(command, kind, events, f"log.{kind}", company_id, None)
        return accepted(await self._log.append(decision))

    async def _create_run(self, command: Command, events: list[Event], company_id: str, submission_id: str) -> Accepted:
        run_id = events[0].originator_id
        routing = runs.routing(events)
        if subjects.is_task(routing):
            routing = runs.routing(events, self._open_runs.start(command.org_id, run_id))
        fresh = False
        try:
            appended = await self._log.append(decision_of(command, RUN, events, routing, company_id, submission_id))
            fresh = not appended.repeated
        finally:
            if not fresh and not await self._is_running(command.org_id, run_id):
                self._open_runs.end(run_id)
        return accepted(appended)

    async def _is_running(self, org_id: str, run_id: str) -> bool:
        """Whether a run is open, when it was not started just now; no, when the log does not answer."""
        try:
            return (await self._repository.run(org_id, run_id)).status == "running"
        except UnavailableError:
            return False

    async def _submission(self, org_id: str, submission_id: str) -> SubmissionCreated:
        """A submission, from the history of its first run."""
        for recorded in await self._log.history(org_id, RUN, first_run_id(submission_id)):
            for created in recorded.decision.events[:1]:
                if isinstance(created, SubmissionCreated):
                    return created
        raise NotFoundError(f"There is no submission {submission_id}.")

    async def _first_answer(
        self, command: Command, kind: str, refusal: RejectedError | None = None, aggregate_id: str | None = None
    ) -> Accepted:
        """The answer of this command's first time, should there have been one; else the refusal holds."""
        history = await self._log.history(command.org_id, kind, aggregate_id or command.aggregate_id)
        if (answer := answered_in(history, command)) is not None:
            return answer
        raise refusal or NotFoundError("What the command refers to does not exist.")

    async def _active(self, command: Command, kind: str, aggregate_id: str) -> Thing:
        thing = await self._repository.thing(command.org_id, kind, aggregate_id)
        return things.must_be_active(thing, kind, "archived" if kind == admin.BLUEPRINT else "deactivated")

    async def _company_exists(self, command: Command, company_id: str | None) -> None:
        """Raises NotFoundError unless the command's own org has the company; None is the org itself."""
        if company_id is not None:
            await self._active(command, admin.COMPANY, company_id)


_HANDLERS: dict[type[Command], Handler] = {kind: getattr(CommandHandlers, name) for name, kind in cmd.COMMANDS.items()}
