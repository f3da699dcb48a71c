"""normalize_email: spelling, tags, faults; and that its short cut for plain addresses agrees with the library."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps._email import ROLES, _plain_address, library_address
from services.steps._rowwise import Fault
from services.steps.base import Record, Reject, StepError
from services.steps.normalize_email import normalize_email


def email_or_code(value: Any, **config: Any) -> Any:
    output = normalize_email.execute([{"e": value}], {"field": "e", "on_error": "reject", **config})
    return output.rejects[0].code if output.rejects else output.records[0]["e"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann.Lee@ACME.com", "Ann.Lee@acme.com"),
        ("  ann@acme.com\n", "ann@acme.com"),
        ("o'neil+x=y@acme.co.uk", "o'neil+x=y@acme.co.uk"),
        ("INFO@acme.com", "info@acme.com"),
        ("ann@MÜLLER.de", "ann@müller.de"),
        ("ann@xn--mller-kva.de", "ann@müller.de"),
        ("jörg@acme.com", "jörg@acme.com"),
        ("jo\u0308rg@acme.com", "jörg@acme.com"),
        ("用户@例子.广告", "用户@例子.广告"),
        ("ann@ａｃｍｅ.com", "ann@acme.com"),
        ("", None),
        (" \t ", None),
        (None, None),
        (7, "not_text"),
        (["ann@acme.com"], "not_text"),
        ("ann", "invalid_email"),
        ("ann@", "invalid_email"),
        ("@acme.com", "invalid_email"),
        ("ann@acme", "invalid_email"),
        ("ann@acme.c0", "invalid_email"),
        ("ann@acme..com", "invalid_email"),
        ("ann@-acme.com", "invalid_email"),
        ("ann@ab--acme.com", "invalid_email"),
        ("ann@xn--a.com", "invalid_email"),
        (".ann@acme.com", "invalid_email"),
        ("ann..lee@acme.com", "invalid_email"),
        ("ann lee@acme.com", "invalid_email"),
        ("ann@acme.com, bob@acme.com", "invalid_email"),
        ("Ann <ann@acme.com>", "invalid_email"),
        ("mailto:ann@acme.com", "invalid_email"),
        ('"ann lee"@acme.com', "invalid_email"),
        ("ann@[10.0.0.1]", "invalid_email"),
        ("ann@10.0.0.1", "invalid_email"),
        ("ann\u202e@acme.com", "invalid_email"),
        ("ann\ud800@acme.com", "invalid_email"),
        ("ann\x00@acme.com", "invalid_email"),
        ("ann@" + "a" * 64 + ".com", "invalid_email"),
        ("a" * 250 + "@acme.com", "invalid_email"),
        ("a" * 1_000_000 + "@acme.com", "invalid_email"),
        ("\u0301" * 1_000_000, "invalid_email"),
        ("@" * 1_000_000, "invalid_email"),
        ("ann@acme.test", "reserved_domain"),
        ("ann@ACME.Local", "reserved_domain"),
        ("ann@localhost", "reserved_domain"),
        ("ann@latest", "invalid_email"),
        ("ann@greatest.com", "ann@greatest.com"),
    ],
)
def test_addresses(text: Any, expected: str | None) -> None:
    assert email_or_code(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann+News+More@acme.com", "Ann@acme.com"),
        ("Info+x@acme.com", "info@acme.com"),
        ("+ann@acme.com", "+ann@acme.com"),
        ("jo\u0308rg+news@acme.com", "jörg@acme.com"),
        ("a.b.c+x@gmail.com", "a.b.c@gmail.com"),
        ("ann@acme.com", "ann@acme.com"),
    ],
)
def test_tags(text: str, expected: str) -> None:
    assert email_or_code(text, strip_plus=True) == expected


def test_lower_case_before_the_sign() -> None:
    assert email_or_code("Ann.LEE@acme.com", lowercase_local=True) == "ann.lee@acme.com"
    assert email_or_code("JÖRG@acme.com", lowercase_local=True) == "jörg@acme.com"
    assert email_or_code("İnci@acme.com", lowercase_local=True) == "i̇nci@acme.com"


def test_ascii_only() -> None:
    assert email_or_code("jörg@acme.com", allow_smtputf8=False) == "invalid_email"
    assert email_or_code("ann@müller.de", allow_smtputf8=False) == "ann@xn--mller-kva.de"


def test_another_field_can_be_written_and_the_raw_value_is_kept() -> None:
    records: list[Record] = [{"e": "Ann@ACME.com"}, {}, {"e": "ann"}]
    output = normalize_email.execute(records, {"field": "e", "output_field": "n", "on_error": "reject"})
    assert output.records == [{"e": "Ann@ACME.com", "n": "Ann@acme.com"}, {"n": None}]
    assert output.rejects == [Reject(2, "e", "invalid_email", "ann")]
    assert normalize_email.execute([{"e": "ann"}], {"field": "e"}).records == [{"e": None}]
    with pytest.raises(StepError, match=r"row 0, field 'e': invalid_email: 'ann'") as caught:
        normalize_email.execute([{"e": "ann"}], {"field": "e", "on_error": "fail"})
    assert caught.value.code == "invalid_email"


def test_the_config_names_a_field() -> None:
    with pytest.raises(ValidationError, match="field"):
        normalize_email.execute([], {})


# Letters that the rules turn on, so that many texts are nearly addresses.
plain_part = st.text(alphabet="abAZ09.-_+'x n", max_size=12)
labels = st.lists(st.text(alphabet="abXn09-", max_size=8) | st.sampled_from(["com", "test", "xn--a", "a" * 63]))
near_addresses = st.builds(
    "{}{}{}".format,
    st.one_of(plain_part, st.sampled_from(sorted(ROLES)).map(str.upper), st.text(max_size=6), st.just("a" * 240)),
    st.sampled_from(["@", "@", "@", "@@", "", "＠"]),
    st.one_of(labels.map(".".join), st.text(max_size=10), st.sampled_from(["acme.com", "a.b\n", "acme.com.", "é.de"])),
)


@settings(derandomize=True, deadline=None, max_examples=3000)
@given(text=near_addresses)
@example(text="a@b.c\n")
@example(text="a" * 248 + "@b.com")
@example(text="a" * 249 + "@b.com")
@example(text="a@b.--c.com")
@example(text="a@" + "b" * 63 + "." + "c" * 63)
@example(text="a@" + "b" * 64 + ".com")
@example(text="POSTMASTER@b.com")
@example(text="a@b.TEST")
def test_the_short_cut_agrees_with_the_library(text: str) -> None:
    plain = _plain_address(text)
    if plain is not None:
        assert plain == library_address(text)
        assert plain == library_address(text, allow_smtputf8=False)


@pytest.mark.parametrize("text", ["ann@acme.com", "A.b-c_d+e@sub.acme-x.co.uk", "0@0.a", "SALES@x1.io"])
def test_the_short_cut_is_taken_for_plain_addresses(text: str) -> None:
    assert _plain_address(text) is not None


@settings(derandomize=True, deadline=None, max_examples=500)
@given(text=near_addresses, smtputf8=st.booleans(), plus=st.booleans(), lower=st.booleans())
def test_what_is_normal_stays_as_it_is(text: str, smtputf8: bool, plus: bool, lower: bool) -> None:
    config = {"allow_smtputf8": smtputf8, "strip_plus": plus, "lowercase_local": lower}
    once = email_or_code(text, **config)
    if once is not None and "@" in once:
        assert email_or_code(once, **config) == once
        assert not isinstance(library_address(once, allow_smtputf8=smtputf8), Fault)
