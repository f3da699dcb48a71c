"""extract_domain: the registrable domain behind URLs and e-mail addresses, by the Public Suffix List."""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any, Self

import ada_url
from publicsuffixlist import PublicSuffixList
from pydantic import ConfigDict, Field, model_validator

from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

MAX_URL_CHARACTERS = 8192
MAX_DOMAIN_CHARACTERS = 253
HOSTS_REMEMBERED = 32_768
"""By a process, some 10 MB: many of a batch's addresses are at the same few hosts."""

WEB_SCHEME = re.compile(r"https?:", re.IGNORECASE)
# Nothing in it for the parser to decide, which takes several times as long: plain labels, the last of letters (so that
# the host is no number), no user, no port, no escapes in the host.
PLAIN_URL = re.compile(
    r"(?:https?://)?((?:[a-z0-9-]{1,63}\.){1,16}[a-z]{2,63})(?:[/?#][\x21-\x7e]*)?", re.IGNORECASE | re.ASCII
)
# What would end the host or begin another part of a URL, were an address's domain pasted into one.
NOT_IN_A_DOMAIN = re.compile(r"[\s/\\?#@:%<>\[\]]")
# Letters, digits, hyphen: RFC 1123 section 2.1, which registries hold to; RFC 1035 bounds a label at 63.
REGISTRABLE = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class ExtractDomainConfig(RowwiseConfig):
    """Where to look for a domain, and how much of it to keep."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url_fields": ["website"], "email_fields": ["email"], "output_field": "domain"}],
        }
    )

    url_fields: list[str] = Field(default=[], max_length=100)
    """Fields with URLs or bare host names, in order of preference. They are tried before `email_fields`."""

    email_fields: list[str] = Field(default=[], max_length=100)
    """Fields with e-mail addresses, in order of preference; what follows the last `@` is looked at."""

    output_field: str = "domain"
    """The field to write the domain into, as lower-case ASCII (IDNA A-labels). A field of that name is replaced."""

    private_suffixes: bool = False
    """Also count the list's private suffixes, so that `shop.github.io` is a domain of its own and not `github.io`."""

    @model_validator(mode="after")
    def _some_field_is_read(self) -> Self:
        if not self.url_fields and not self.email_fields:
            raise ValueError("name at least one field in url_fields or email_fields")
        return self


@frame_step(
    "extract_domain",
    version=f"1+psl{version('publicsuffixlist')}+ada{version('ada-url')}",
    summary="Find the registrable domain of a website or e-mail address.",
    config=ExtractDomainConfig,
    reads=reads_unless_rejecting(lambda config: [*config.url_fields, *config.email_fields]),
    examples=[
        Example(
            "The website first, the e-mail address where there is none",
            {"url_fields": ["website"], "email_fields": ["email"], "on_error": "reject"},
            [
                {"website": "HTTPS://www.Acme.co.uk/about?x=1", "email": "ann@gmail.com"},
                {"website": None, "email": "info@mail.müller.de"},
                {"website": "http://192.168.0.1/", "email": None},
                {"website": "", "email": None},
            ],
            [
                {"website": "HTTPS://www.Acme.co.uk/about?x=1", "email": "ann@gmail.com", "domain": "acme.co.uk"},
                {"website": None, "email": "info@mail.müller.de", "domain": "xn--mller-kva.de"},
                {"website": "", "email": None, "domain": None},
            ],
            [Reject(2, "website", "ip_address", "http://192.168.0.1/")],
        )
    ],
)
def extract_domain(frame: Frame, config: ExtractDomainConfig, _: Context) -> Result:
    """Write the registrable domain of the first field that has one; null when all the fields are null or blank.

    Faults, when fields have values and none gives a domain (the first such field is named): `not_text`,
    `invalid_url`, `invalid_email`, `ip_address`, `public_suffix` (the host is a suffix, such as co.uk),
    `unknown_suffix` (the host's top-level domain is not on the list). Raises StepError `unknown_field`, and the
    fault's code under `on_error: fail`.

    Hosts are parsed by the WHATWG URL Standard; the list is the one packaged with publicsuffixlist.
    """
    sources = [*config.url_fields, *config.email_fields]
    require_fields(frame, sources)
    by_url = _finder(_host_of_url, "invalid_url", config.private_suffixes)
    by_email = _finder(_host_of_email, "invalid_email", config.private_suffixes)
    work = Rowwise(frame, config.on_error)
    finders = [by_url] * len(config.url_fields) + [by_email] * len(config.email_fields)
    work.first_of(sources, finders, config.output_field)
    return work.result()


@cache
def _suffixes(private: bool) -> PublicSuffixList:
    # The packaged list only: a list fetched at run time would let the same input give another output tomorrow.
    return PublicSuffixList(accept_unknown=False, only_icann=not private)


@lru_cache(HOSTS_REMEMBERED)
def _domain_of(host: str, private: bool) -> str | None:
    """The registrable domain of a host name, or a fault's code with `!` before it; None where the host is none."""
    host = host.removesuffix(".")
    if len(host) > MAX_DOMAIN_CHARACTERS or ".." in host or host.startswith("."):
        return None
    suffixes = _suffixes(private)
    domain: str | None = suffixes.privatesuffix(host)
    if domain is None:
        return "!public_suffix" if suffixes.publicsuffix(host) is not None else "!unknown_suffix"
    return domain if REGISTRABLE.fullmatch(domain) else None


def _finder(
    host_of: Callable[[str], tuple[str, bool] | None], invalid: str, private: bool
) -> Callable[[Any], str | Fault | None]:
    """The function from a field's value to its registrable domain, None for a blank one, or a Fault."""

    def find(value: Any) -> str | Fault | None:
        if not isinstance(value, str):
            return None if value is None else Fault("not_text")
        text = value.strip()
        if not text:
            return None
        parsed = host_of(text)
        if parsed is None:
            return Fault(invalid)
        host, is_name = parsed
        if not is_name:
            return Fault("ip_address")
        domain = _domain_of(host, private)
        if domain is None:
            return Fault(invalid)
        return Fault(domain[1:]) if domain[0] == "!" else domain

    return find


def _host_of_url(text: str) -> tuple[str, bool] | None:
    """The host, and whether it is a name rather than an address; None when the text is no web address."""
    if len(text) > MAX_URL_CHARACTERS:
        return None
    if plain := PLAIN_URL.fullmatch(text):
        host = plain[1].lower()
        if "xn--" not in host:
            return host, True
    return _parsed_host(text)


def _parsed_host(text: str) -> tuple[str, bool] | None:
    """`_host_of_url` by the URL Standard's parser."""
    if not WEB_SCHEME.match(text):
        if "://" in text:
            return None
        text = "https://" + text.removeprefix("//")
    try:
        url = ada_url.URL(text)
    except ValueError:  # also UnicodeEncodeError, for a lone surrogate
        return None
    return url.hostname, url.host_type == ada_url.HostType.DEFAULT


def _host_of_email(text: str) -> tuple[str, bool] | None:
    local, _, domain = text.rpartition("@")
    if not local or not domain:
        return None
    if domain[0] == "[" and domain[-1] == "]":  # an address literal, RFC 5321 section 4.1.3
        return domain, False
    if NOT_IN_A_DOMAIN.search(domain):
        return None
    return _host_of_url(domain)
