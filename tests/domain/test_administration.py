"""The rules of what an org is made of: given events, when a decision is asked for, then events or an error."""

from datetime import UTC, datetime, timedelta

import pytest

from events.administration import (
    OrgConfigured,
    OrgCreated,
    SignInRule,
    TokenCreated,
    TokenRevoked,
    TokenRotated,
    UserCreated,
    UserDeactivated,
    UserIdentityLinked,
    UserInvited,
)
from events.context import Role
from events.errors import InvalidInputError, NotFoundError, RejectedError, StateConflictError
from events.model import Event
from services.domain import administration as things

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ORG, USER, TOKEN, COMPANY, OTHER, INVITATION = "org", "user", "token", "company", "other company", "invitation"
RULE = SignInRule(
    name="staff",
    claim="app_metadata.org",
    match="equals",
    value="acme",
    role="member",
    company_id="0b9f2a4e-5a0f-5c3e-9d53-0d3e6f6c7a11",
)


def at(thing: str, version: int) -> dict[str, object]:
    return {"originator_id": thing, "originator_version": version}


def user(role: Role = "member", company_id: str | None = COMPANY) -> UserCreated:
    fields = {"email": "a@b.example", "name": None, "role": role, "company_id": company_id, "identity": None}
    return UserCreated.model_validate(at(USER, 1) | fields)


def invited(ends: datetime = NOW + timedelta(hours=1)) -> UserInvited:
    return UserInvited.model_validate(at(USER, 1) | {"invitation_id": INVITATION, "expires_at": ends})


def token(expires_at: datetime | None = None) -> TokenCreated:
    fields = {"name": "t", "user_id": USER, "hint": "dex_1", "secret_id": "first", "role": "member"}
    return TokenCreated.model_validate(at(TOKEN, 1) | fields | {"company_id": COMPANY, "expires_at": expires_at})


def accept(*given: Event, invitation: str = INVITATION, identity: str = "ada", now: datetime = NOW) -> list[Event]:
    return things.accept_invitation(things.fold(USER, given), invitation, identity, now)


def test_an_invitation_links_the_session_once():
    [linked] = accept(user(), invited())
    assert linked == UserIdentityLinked(**at(USER, 2), identity="ada", invitation_id=INVITATION)
    assert accept(user(), invited(), linked) == [], "the same session again"
    with pytest.raises(NotFoundError):
        accept(user(), invited(), linked, identity="eve")


@pytest.mark.parametrize(
    ("given", "changes", "error"),
    [
        ([], {}, NotFoundError),
        ([user()], {}, NotFoundError),
        ([user(), invited()], {"invitation": "another"}, NotFoundError),
        ([user(), invited()], {"now": NOW + timedelta(hours=1)}, StateConflictError),
        ([user(), invited(), UserDeactivated(**at(USER, 2))], {}, StateConflictError),
    ],
)
def test_invitations_that_do_not_hold(given, changes, error):
    with pytest.raises(error):
        accept(*given, **changes)


@pytest.mark.parametrize(
    ("owner", "role", "company_id", "scope"),
    [
        (user("org_admin", None), None, None, ("org_admin", None)),
        (user("org_admin", None), "member", COMPANY, ("member", COMPANY)),
        (user("company_admin"), None, None, ("company_admin", COMPANY)),
        (user("company_admin"), "member", None, ("member", COMPANY)),
        (user("member"), "member", COMPANY, ("member", COMPANY)),
        (user("member"), "company_admin", None, InvalidInputError),
        (user("company_admin"), "org_admin", None, InvalidInputError),
        (user("company_admin"), None, OTHER, NotFoundError),
        (user("org_admin", None), "member", None, InvalidInputError),
        (user("org_admin", None), "org_admin", COMPANY, InvalidInputError),
        (user("org_admin", None), None, COMPANY, InvalidInputError),
    ],
)
def test_a_token_never_has_more_than_its_user(owner, role, company_id, scope):
    state = things.fold(USER, [owner])
    if isinstance(scope, tuple):
        assert things.scope_of_token(state, role, company_id) == scope
    else:
        with pytest.raises(scope):
            things.scope_of_token(state, role, company_id)


def rotate(*given: Event, overlap_s: int = 60, expires_in_s: int | None = None, now: datetime = NOW) -> list[Event]:
    return things.rotate_token(things.fold(TOKEN, given), "second", "dex_2", now, overlap_s, expires_in_s)


def test_a_rotation_ends_the_old_secret_after_the_overlap():
    ends = NOW + timedelta(days=1)
    [rotated] = rotate(token(ends), expires_in_s=7 * 86_400)
    assert rotated == TokenRotated(
        **at(TOKEN, 2),
        hint="dex_2",
        secret_id="second",
        previous_valid_until=NOW + timedelta(seconds=60),
        expires_at=NOW + timedelta(days=7),
    )
    [rotated] = rotate(token(ends), overlap_s=7 * 86_400)
    assert isinstance(rotated, TokenRotated)
    assert rotated.previous_valid_until == rotated.expires_at == ends, "a rotation prolongs nothing by itself"


@pytest.mark.parametrize(
    "given", [[token(), TokenRevoked(**at(TOKEN, 2))], [token(NOW)], []], ids=["revoked", "expired", "none"]
)
def test_a_token_that_is_over_is_not_rotated(given):
    with pytest.raises(RejectedError):
        rotate(*given)


def test_settings_change_alone_or_together():
    made = OrgCreated(**at(ORG, 1), name="Acme")
    org = things.fold(ORG, [made])
    assert things.configure_org(org, None, None) == things.configure_org(org, True, ()) == []
    [closed] = things.configure_org(org, False, None)
    assert closed == OrgConfigured(**at(ORG, 2), members_may_work=False, sign_in_rules=())
    [ruled] = things.configure_org(things.fold(ORG, [made, closed]), None, (RULE,))
    assert ruled == OrgConfigured(**at(ORG, 3), members_may_work=False, sign_in_rules=(RULE,))


def test_a_rule_makes_a_user_of_its_own_role_and_company():
    org = things.fold(
        ORG,
        [
            OrgCreated(**at(ORG, 1), name="Acme"),
            OrgConfigured(**at(ORG, 2), members_may_work=True, sign_in_rules=(RULE,)),
        ],
    )
    created, linked = things.admit_user(org, USER, "staff", "ada", "ada@acme.example")
    assert isinstance(created, UserCreated)
    assert (created.role, created.company_id) == ("member", RULE.company_id)
    assert linked == UserIdentityLinked(**at(USER, 1), identity="ada", sign_in_rule="staff")
    with pytest.raises(NotFoundError):
        things.admit_user(org, USER, "gone", "ada", "ada@acme.example")


@pytest.mark.parametrize("claim", ["user_metadata.org", "user_metadata", "a..b", "", "a.b.c.d.e.f", "a b"])
def test_claims_that_no_rule_may_trust(claim):
    with pytest.raises(ValueError, match="claim"):
        SignInRule.model_validate(RULE.model_dump() | {"claim": claim})
