"""classify_email_domain: the packaged lists, the config's, and roles."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.steps.base import Record, Reject, StepError
from services.steps.classify_email_domain import DISPOSABLE, FREE, classify_email_domain


def kind_or_code(value: Any, **config: Any) -> Any:
    output = classify_email_domain.execute([{"e": value}], {"field": "e", "on_error": "reject", **config})
    return output.rejects[0].code if output.rejects else output.records[0]["email_domain_kind"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ann@acme.com", "business"),
        ("ann@GMAIL.com", "free"),
        (" ann@web.de ", "free"),
        ("gmail.com", "free"),
        ("acme.com", "business"),
        ("ann@mailinator.com", "disposable"),
        ("ann@inbox.mailinator.com", "disposable"),
        ("ann@acmemailinator.com", "business"),
        ("ann@acme.za.com", "business"),
        ("ann@0-mail.com", "disposable"),
        ("ann@müller.de", "business"),
        ("", None),
        (None, None),
        (7, "not_text"),
        ("nobody", "invalid_email"),
        ("a@b@c.com", "invalid_email"),
        ("ann@acme.test", "reserved_domain"),
        ("x" * 1_000_000, "invalid_email"),
        ("ann@\ud800.com", "invalid_email"),
    ],
)
def test_the_packaged_lists(value: Any, expected: str | None) -> None:
    assert kind_or_code(value) == expected


def test_one_on_both_lists_is_disposable() -> None:
    both = sorted(FREE & DISPOSABLE)
    assert len(both) > 100
    assert kind_or_code(f"ann@{both[0]}") == "disposable"


def test_the_configs_lists_go_first() -> None:
    assert kind_or_code("ann@gmail.com", business=["gmail.com"]) == "business"
    assert kind_or_code("ann@acme.com", free=["ACME.com"]) == "free"
    assert kind_or_code("ann@mail.acme.com", disposable=["acme.com"]) == "disposable"
    assert kind_or_code("ann@mailinator.com", free=["mailinator.com"]) == "free"
    assert kind_or_code("ann@müller.de", free=["MÜLLER.de"]) == "free"
    assert kind_or_code("ann@xn--mller-kva.de", free=["müller.de"]) == "free"
    lists = {"business": ["hr.acme.com"], "free": ["acme.com"]}
    assert kind_or_code("ann@hr.acme.com", **lists) == "business"
    assert kind_or_code("ann@it.acme.com", **lists) == "free"
    assert kind_or_code("ann@acme.com", business=["acme.com"], disposable=["acme.com"]) == "business"


@pytest.mark.parametrize("name", ["acme", "", "ann@acme.com", "a..com", "acme.test"])
def test_a_list_with_something_else_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is not a domain name that can receive mail"):
        kind_or_code("ann@acme.com", free=["fine.com", name])


def test_roles() -> None:
    emails = ["info@acme.com", "NoReply+7@acme.com", "ann@gmail.com", "acme.com", None, "ann"]
    records: list[Record] = [{"e": email} for email in emails]
    output = classify_email_domain.execute(records, {"field": "e", "role_field": "r", "on_error": "reject"})
    assert [record["r"] for record in output.records] == [True, True, False, None, None]
    assert output.rejects == [Reject(5, "e", "invalid_email", "ann")]
    plain = classify_email_domain.execute([{"e": "info@acme.com"}], {"field": "e"})
    assert plain.records == [{"e": "info@acme.com", "email_domain_kind": "business"}]


def test_a_fault_can_fail_the_step() -> None:
    with pytest.raises(StepError) as caught:
        kind_or_code("nobody", on_error="fail")
    assert caught.value.code == "invalid_email"
