"""extract_domain: URL and e-mail parsing, the Public Suffix List, the order of preference."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps.base import Record, Reject, StepError
from services.steps.extract_domain import PLAIN_URL, _parsed_host, extract_domain


def domain_or_code(value: Any, kind: str = "url_fields", **config: Any) -> str | None:
    output = extract_domain.execute([{"a": value}], {kind: ["a"], "on_error": "reject", **config})
    return output.rejects[0].code if output.rejects else output.records[0]["domain"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.acme.com/about?x=1#y", "acme.com"),
        ("HTTP://ACME.COM.", "acme.com"),
        ("acme.com", "acme.com"),
        ("//acme.com/x", "acme.com"),
        ("www.acme.co.uk:8080/x", "acme.co.uk"),
        ("  acme.com\n", "acme.com"),
        ("https://user:secret@shop.acme.de/", "acme.de"),
        ("https://müller.de/ß", "xn--mller-kva.de"),
        ("https://XN--MLLER-KVA.de", "xn--mller-kva.de"),
        ("https://ａｃｍｅ.com", "acme.com"),
        ("https://acme.com/?next=https://evil.example", "acme.com"),
        ("shop.github.io", "github.io"),
        ("co.uk", "public_suffix"),
        ("https://com", "public_suffix"),
        ("server.local", "unknown_suffix"),
        ("acme", "unknown_suffix"),
        ("n/a", "unknown_suffix"),
        ("http://192.168.0.1/x", "ip_address"),
        ("http://[::1]:80/", "ip_address"),
        ("3232235521", "ip_address"),
        ("ftp://acme.com", "invalid_url"),
        ("javascript:alert(1)", "invalid_url"),
        ("acme .com", "invalid_url"),
        ("http://", "invalid_url"),
        ("http://a..com", "invalid_url"),
        ("http://-acme-.com", "invalid_url"),
        ("http://ac_me.com", "invalid_url"),
        ("http://\ud800.com", "invalid_url"),
        ("a" * 64 + ".com", "invalid_url"),
        ("a." * 130 + "com", "invalid_url"),
        ("acme.com/" + "a" * 9000, "invalid_url"),
        ("", None),
        ("  ", None),
        (None, None),
        (7, "not_text"),
    ],
)
def test_urls(url: Any, expected: str | None) -> None:
    assert domain_or_code(url) == expected


@pytest.mark.parametrize(
    ("email", "expected"),
    [
        ("ann@mail.acme.com", "acme.com"),
        (" Ann@ACME.CO.UK ", "acme.co.uk"),
        ('"a@b"@acme.com', "acme.com"),
        ("ann@müller.de", "xn--mller-kva.de"),
        ("ann@[192.168.0.1]", "ip_address"),
        ("ann@10.0.0.1", "ip_address"),
        ("ann@localhost", "unknown_suffix"),
        ("ann@co.uk", "public_suffix"),
        ("acme.com", "invalid_email"),
        ("@acme.com", "invalid_email"),
        ("ann@", "invalid_email"),
        ("Ann <ann@acme.com>", "invalid_email"),
        ("ann@acme.com/x", "invalid_email"),
        ("ann@acme.com:80", "invalid_email"),
        ("ann@acme.com, bob@evil.com x", "invalid_email"),
        ("", None),
    ],
)
def test_emails(email: str, expected: str | None) -> None:
    assert domain_or_code(email, "email_fields") == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [  # from the Public Suffix List's own test data
        ("b.example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("uk.com", "public_suffix"),
        ("b.example.uk.com", "example.uk.com"),
        ("test.ac", "test.ac"),
        ("c.mm", "public_suffix"),
        ("a.b.c.mm", "b.c.mm"),
        ("a.b.test.jp", "test.jp"),
        ("ac.jp", "public_suffix"),
        ("a.b.test.ac.jp", "test.ac.jp"),
        ("ide.kyoto.jp", "public_suffix"),
        ("a.b.ide.kyoto.jp", "b.ide.kyoto.jp"),
        ("c.kobe.jp", "public_suffix"),
        ("a.b.c.kobe.jp", "b.c.kobe.jp"),
        ("city.kobe.jp", "city.kobe.jp"),
        ("www.city.kobe.jp", "city.kobe.jp"),
        ("test.ck", "public_suffix"),
        ("www.www.ck", "www.ck"),
        ("a.b.test.k12.ak.us", "test.k12.ak.us"),
        ("www.食狮.com.cn", "xn--85x722f.com.cn"),
        ("shishi.公司.cn", "shishi.xn--55qx5d.cn"),
        ("公司.cn", "public_suffix"),
        ("食狮.中国", "xn--85x722f.xn--fiqs8s"),
    ],
)
def test_the_public_suffix_list(host: str, expected: str) -> None:
    assert domain_or_code(host, private_suffixes=True) == expected


def test_private_suffixes() -> None:
    assert domain_or_code("a.shop.github.io", private_suffixes=True) == "shop.github.io"
    assert domain_or_code("github.io", private_suffixes=True) == "public_suffix"
    assert domain_or_code("a.shop.github.io") == "github.io"


def test_the_first_field_with_a_domain_wins_urls_before_emails() -> None:
    config = {"url_fields": ["site", "blog"], "email_fields": ["mail"], "output_field": "d", "on_error": "reject"}
    records: list[Record] = [
        {"site": "a.com", "blog": "b.com", "mail": "x@c.com"},
        {"site": "http://10.0.0.1", "blog": " ", "mail": "x@c.com"},
        {"site": None, "blog": "co.uk", "mail": "nobody"},
        {},
    ]
    output = extract_domain.execute(records, config)
    assert [record["d"] for record in output.records] == ["a.com", "c.com", None]
    assert output.rejects == [Reject(2, "blog", "public_suffix", "co.uk")]


def test_faults_are_null_or_fail_the_step() -> None:
    assert extract_domain.execute([{"a": "co.uk"}], {"url_fields": ["a"]}).records == [{"a": "co.uk", "domain": None}]
    with pytest.raises(StepError) as caught:
        extract_domain.execute([{"a": "co.uk"}], {"url_fields": ["a"], "on_error": "fail"})
    assert caught.value.code == "public_suffix"


def test_some_field_must_be_named() -> None:
    with pytest.raises(ValidationError, match="at least one field"):
        extract_domain.execute([], {})


hosts = st.lists(
    st.text(alphabet="abzAZ019-", max_size=6) | st.sampled_from(["xn--", "com", "co", "uk", "1", "0x7f"]), max_size=5
)
urls = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "http://", "HTTPS://", "https:", "//", "ftp://", "http:/", "u@", "https://u:p@"]),
    hosts.map(".".join),
    st.sampled_from(["", "/", "/a b", "?q=@x", "#f", ":80/x", "\\x", "/\t", "/é", "/%zz", ".", "./a"])
    | st.text(max_size=4),
)


@settings(derandomize=True, deadline=None, max_examples=3000)
@given(urls)
def test_what_looks_plain_is_what_the_standards_parser_finds(text: str) -> None:
    plain = PLAIN_URL.fullmatch(text)
    if plain is not None and "xn--" not in plain[1].lower():
        assert _parsed_host(text) == (plain[1].lower(), True)


def test_a_later_field_is_looked_at_in_the_rows_that_an_earlier_one_gave_nothing_for() -> None:
    records: list[Record] = [
        {"site": "acme.com", "mail": 7},
        {"site": None, "mail": "a@b.org"},
        {"site": "co.uk", "mail": "a@b.org"},
        {"site": "co.uk", "mail": "nobody"},
        {"site": " ", "mail": "nobody"},
        {"site": None, "mail": None},
    ]
    config = {"url_fields": ["site"], "email_fields": ["mail"], "on_error": "reject"}
    output = extract_domain.execute(records, config)
    assert [record["domain"] for record in output.records] == ["acme.com", "b.org", "b.org", None]
    assert output.rejects == [Reject(3, "site", "public_suffix", "co.uk"), Reject(4, "mail", "invalid_email", "nobody")]
