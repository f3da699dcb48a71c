"""E-mail addresses as steps read them: email-validator's verdict and spelling, and a short cut for plain ones."""

import re
from importlib.metadata import version
from typing import NamedTuple

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailSyntaxError, validate_email
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES, EMAIL_MAX_LENGTH

from services.steps._rowwise import Fault

# The domain is compared, lower-cased and decoded by the idna package, so its tables are part of the answer.
VERSION = f"email-validator{version('email-validator')}+idna{version('idna')}"

# RFC 5321 bounds an address at 254 octets; a display name may come on top, which the library then refuses by name.
MAX_CHARACTERS = 4 * EMAIL_MAX_LENGTH

ROLES = frozenset(CASE_INSENSITIVE_MAILBOX_NAMES)
"""The mailbox names of RFC 2142, whose case does not matter."""

_RESERVED = tuple(f".{name}" for name in SPECIAL_USE_DOMAIN_NAMES)
_ATEXT = r"[A-Za-z0-9_!#$%&'*+\-/=?^`{|}~]+"
# A label with two hyphens in the third place is Punycode or reserved (RFC 5891 section 4.2.3.1): the library's matter.
_LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_TOP_LABEL = r"(?!..--)(?:[A-Za-z0-9][A-Za-z0-9-]{0,61})?[A-Za-z]"
_PLAIN = re.compile(rf"({_ATEXT}(?:\.{_ATEXT})*)@((?:{_LABEL}\.)+{_TOP_LABEL})")


class Address(NamedTuple):
    """An address in normal form. `domain` may have other letters than ASCII; `ascii_domain` has A-labels for them."""

    local: str
    domain: str
    ascii_domain: str


def read_address(text: str, *, allow_smtputf8: bool = True) -> Address | Fault:
    """The address that `text` is, in email-validator's normal form.

    Faults: `invalid_email`; `reserved_domain` for one that cannot receive mail, such as `.test` (RFC 6761).
    """
    return _plain_address(text) or library_address(text, allow_smtputf8=allow_smtputf8)


def library_address(text: str, *, allow_smtputf8: bool = True) -> Address | Fault:
    """As `read_address`, by the library alone; it is asked about form only, never about DNS."""
    if len(text) > MAX_CHARACTERS:
        return Fault("invalid_email")
    try:
        found = validate_email(text, allow_smtputf8=allow_smtputf8, check_deliverability=False)
    except EmailSyntaxError:
        reserved = ("." + text.rpartition("@")[2]).lower().endswith(_RESERVED)
        return Fault("reserved_domain" if reserved else "invalid_email")
    return Address(found.local_part, found.domain, found.ascii_domain)


def _plain_address(text: str) -> Address | None:
    """The address when it is an ordinary one, for which the library's rules come down to one pattern; else None."""
    match = _PLAIN.fullmatch(text) if len(text) <= EMAIL_MAX_LENGTH else None
    if match is None:
        return None
    local, domain = match[1], match[2].lower()
    if domain.endswith(_RESERVED):
        return None
    return Address(role_case(local), domain, domain)


def role_case(local: str) -> str:
    """The local part, in lower case when it is one of ROLES."""
    lower = local.lower()
    return lower if lower in ROLES else local
