"""normalize_email: one spelling for e-mail addresses that reach the same mailbox, and a verdict on the others."""

import unicodedata
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict

from services.steps._email import VERSION, library_address, read_address, role_case
from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame


class NormalizeEmailConfig(RowwiseConfig):
    """Which field holds the address, and how much of it to make equal."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"field": "email", "output_field": "email_normalized", "strip_plus": True, "lowercase_local": True}
            ]
        }
    )

    field: str
    """The field with the e-mail address: the bare address, without a display name."""

    output_field: str | None = None
    """The field to write into, which is replaced if there is one; null writes into `field` itself."""

    allow_smtputf8: bool = True
    """Accept letters beyond ASCII before the `@` (RFC 6531), and write domains with theirs. Without it such an address
    is a fault, and domains are written in ASCII (`xn--`)."""

    strip_plus: bool = False
    """Take off a tag: `ann+news@acme.com` becomes `ann@acme.com`. Nothing is done about dots."""

    lowercase_local: bool = False
    """Also write what precedes the `@` in lower case. Mail servers may tell cases apart, though few do; the domain,
    and the role names of RFC 2142 such as `Info`, are written in lower case in any event."""


@frame_step(
    "normalize_email",
    version=f"1+{VERSION}+ucd{unicodedata.unidata_version}",
    summary="Check e-mail addresses and write them in one spelling.",
    config=NormalizeEmailConfig,
    reads=reads_unless_rejecting(lambda config: [config.field]),
    examples=[
        Example(
            "Tags and capitals go, what is no address is rejected",
            {"field": "email", "strip_plus": True, "lowercase_local": True, "on_error": "reject"},
            [
                {"id": 1, "email": " Ann.Lee+News@ACME.com "},
                {"id": 2, "email": "jörg@MÜLLER.de"},
                {"id": 3, "email": "bob(at)acme.com"},
                {"id": 4, "email": ""},
            ],
            [
                {"id": 1, "email": "ann.lee@acme.com"},
                {"id": 2, "email": "jörg@müller.de"},
                {"id": 4, "email": None},
            ],
            [Reject(2, "email", "invalid_email", "bob(at)acme.com")],
        )
    ],
)
def normalize_email(frame: Frame, config: NormalizeEmailConfig, _: Context) -> Result:
    """Write the address in normal form; null and blank stay null. Outer whitespace is taken off.

    Form is judged by email-validator (RFC 5321, 5322, 6531, UTS #46), without asking DNS; quoted local parts, address
    literals and display names are not accepted. Faults: `not_text`, `invalid_email`, `reserved_domain` (special-use
    names such as `.test`). Raises StepError `unknown_field`, and the fault's code under `on_error: fail`.
    """
    require_fields(frame, [config.field])
    work = Rowwise(frame, config.on_error)
    work.map(config.field, _normaliser(config), config.output_field)
    return work.result()


def _normaliser(config: NormalizeEmailConfig) -> Callable[[Any], str | Fault | None]:
    """The function that normalises one value: the address, None for null and blank, or a Fault."""
    smtputf8, strip_plus, lowercase = config.allow_smtputf8, config.strip_plus, config.lowercase_local

    def normalise(value: Any) -> str | Fault | None:
        if not isinstance(value, str):
            return None if value is None else Fault("not_text")
        text = value.strip()
        if not text:
            return None
        address = read_address(text, allow_smtputf8=smtputf8)
        if isinstance(address, Fault):
            return address
        local = address.local
        if strip_plus and "+" in local:
            local = role_case(_without_tag(local))
        if lowercase:
            local = local.lower()
        if local != address.local and not local.isascii():
            # A change of case can undo the normal form or the length that were checked.
            again = library_address(f"{unicodedata.normalize('NFC', local)}@{address.domain}")
            if isinstance(again, Fault):
                return again
            local = again.local
        return f"{local}@{address.domain if smtputf8 else address.ascii_domain}"

    return normalise


def _without_tag(local: str) -> str:
    """The local part up to its first plus sign; as it is when that leaves nothing that can stand before an `@`."""
    name = local.partition("+")[0]
    return local if not name or name.endswith(".") else name
