"""Sessions that no user is known for yet: an org's rules may let them in, and the user that this makes is an event."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from events.administration import SignInRule
from events.commands import AdmitUser
from events.context import Actor
from events.errors import RejectedError
from events.ids import derive_id
from events.logging import get_logger
from gateway.commands import CommandSender
from gateway.sessions import Session, is_storable
from gateway.signals import Signals
from projections.queries import access
from projections.queries.reader import Reader

EMAIL_MAX_CHARS = 254
ADDRESS_CLAIM = "email"
"""Whoever signs up may claim any address: rules look at it only when the provider says that it was verified."""

_RULES = TypeAdapter(tuple[SignInRule, ...])
_logger = get_logger("sign_in")


class SignIn:
    """Lets sessions into orgs by the orgs' own rules."""

    def __init__(self, reader: Reader, commands: CommandSender, signals: Signals) -> None:
        self._reader = reader
        self._commands = commands
        self._signals = signals

    async def admit(self, session: Session, org_id: str, request_id: str) -> bool:
        """Whether the org has a user for the session now. A user that was deactivated is not let in again."""
        row = await access.sign_in(self._reader, org_id, session.identity)
        if row is None or row["user_id"] is not None:
            return row is not None and bool(row["active"])
        rule = matching(_RULES.validate_json(row["sign_in_rules"]), session.claims)
        email = session.claims.get("email")
        if rule is None or not isinstance(email, str) or not _is_address(email):
            return False
        try:
            command = _command(session.identity, org_id, rule, email, request_id)
            outcome = await self._commands.send_now(command)
        except RejectedError as error:
            _logger.warning("not_admitted", org_id=org_id, rule=rule.name, reason=error.message)
            return False
        await self._signals.wait_position(outcome.position)
        return True


def _is_address(email: str) -> bool:
    return 3 <= len(email) <= EMAIL_MAX_CHARS and is_storable(email)


def matching(rules: Iterable[SignInRule], claims: Mapping[str, Any]) -> SignInRule | None:
    """The first rule that lets these claims in."""
    return next((rule for rule in rules if _matches(rule, claims)), None)


def _matches(rule: SignInRule, claims: Mapping[str, Any]) -> bool:
    value: Any = claims
    for part in rule.claim.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, str):
        return False
    of_address = rule.match == "email_domain" or rule.claim == ADDRESS_CLAIM
    if of_address and claims.get("email_verified") is not True:
        return False
    if rule.match == "equals":
        return value == rule.value
    return _lower(value).rpartition("@")[1:] == ("@", _lower(rule.value))


def _lower(text: str) -> str:
    """Lower case, of ASCII letters alone: `str.lower` makes a k of the Kelvin sign, and so one domain of another."""
    return "".join(char.lower() if char.isascii() else char for char in text)


def _command(identity: str, org_id: str, rule: SignInRule, email: str, request_id: str) -> AdmitUser:
    """The ids derive from the identity: whoever signs in twice at once is one user."""
    user_id = derive_id(org_id, "user of session", identity)
    return AdmitUser(
        command_id=derive_id(org_id, "admit_user", identity),
        org_id=org_id,
        aggregate_id=user_id,
        actor=Actor(method="jwt", user_id=user_id, role=rule.role),
        digest=hashlib.sha256(identity.encode()).hexdigest(),
        request_id=request_id,
        email=email,
        identity=identity,
        sign_in_rule=rule.name,
    )
