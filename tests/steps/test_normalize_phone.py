"""normalize_phone: regions, formats and faults; conformance/test_phonenumbers.py has the library's own cases."""

from typing import Any

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps.base import Record, Reject, StepError
from services.steps.normalize_phone import normalize_phone


def phone_or_code(value: Any, **config: Any) -> Any:
    output = normalize_phone.execute([{"p": value}], {"field": "p", "on_error": "reject", **config})
    return output.rejects[0].code if output.rejects else output.records[0]["p"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("(650) 253-0000", "+16502530000"),
        ("1-800-FLOWERS", "+18003569377"),
        ("650.253.0000 x123", "+16502530000"),
        ("+44 (0)20 8366 1177", "+442083661177"),
        ("tel:+44-20-8366-1177", "+442083661177"),
        ("＋１６５０２５３００００", "+16502530000"),
        ("٦٥٠٢٥٣٠٠٠٠", "+16502530000"),
        ("\u202d+1 650 253 0000\u202c", "+16502530000"),
        ("+39 06 698 1234", "+39066981234"),
        ("011 44 20 8366 1177", "+442083661177"),
        ("+800 1234 5678", "+80012345678"),
        ("", None),
        (" ", None),
        (None, None),
        (6502530000, "not_text"),
        (True, "not_text"),
        ("n/a", "not_a_number"),
        ("ann@acme.com", "not_a_number"),
        ("\ud800", "not_a_number"),
        ("253-0000", "local_only"),
        ("12", "too_short"),
        ("+1 650", "too_short"),
        ("650 253 0000 1", "too_long"),
        ("+999 123 4567", "unknown_country_code"),
        ("555 555 5555", "invalid_number"),
        ("+" * 1_000_000, "too_long"),
        ("1" * 251, "too_long"),
        (" " * 1_000_000 + "6502530000", "+16502530000"),
    ],
)
def test_numbers_in_the_united_states(value: Any, expected: str | None) -> None:
    assert phone_or_code(value, default_region="US") == expected


@pytest.mark.parametrize(
    ("number_format", "expected"),
    [
        ("E164", "+442083661177"),
        ("INTERNATIONAL", "+44 20 8366 1177 x5"),
        ("NATIONAL", "020 8366 1177 x5"),
        ("RFC3966", "tel:+44-20-8366-1177;ext=5"),
    ],
)
def test_formats(number_format: str, expected: str) -> None:
    assert phone_or_code("020 83661177 x5", default_region="GB", format=number_format) == expected


def test_the_rows_region_goes_before_the_default() -> None:
    rows: list[tuple[Any, Any]] = [
        ("020 8366 1177", "GB"),
        ("020 8366 1177", " gb "),
        ("(650) 253-0000", None),
        ("(650) 253-0000", ""),
        ("+49 30 123456", "XX"),
        ("030 123456", "XX"),
        ("030 123456", 7),
        (None, 7),
    ]
    records: list[Record] = [{"p": phone, "c": country} for phone, country in rows]
    config = {"field": "p", "region_field": "c", "default_region": "US", "output_field": "e164", "on_error": "reject"}
    output = normalize_phone.execute(records, config)
    assert [record["e164"] for record in output.records] == [
        "+442083661177",
        "+442083661177",
        "+16502530000",
        "+16502530000",
        "+4930123456",
        None,
    ]
    assert output.rejects == [Reject(5, "c", "unknown_region", "XX"), Reject(6, "c", "not_text", 7)]


def test_without_a_region_only_international_numbers_are_read() -> None:
    assert phone_or_code("+1 650 253 0000") == "+16502530000"
    assert phone_or_code("650 253 0000") == "unknown_region"
    with pytest.raises(StepError, match="unknown_region"):
        phone_or_code("650 253 0000", on_error="fail")


@pytest.mark.parametrize("region", ["UK", "us", "001", ""])
def test_the_default_region_must_have_a_numbering_plan(region: str) -> None:
    with pytest.raises(ValidationError, match="not an ISO 3166-1 alpha-2 code with a numbering plan"):
        phone_or_code("1", default_region=region)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    digits=st.text(alphabet="0123456789", min_size=4, max_size=12),
    region=st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS)),
)
def test_what_is_normal_stays_as_it_is_and_is_valid(digits: str, region: str) -> None:
    once = phone_or_code(digits, default_region=region)
    if once.startswith("+"):
        assert phone_or_code(once) == once
        assert phonenumbers.is_valid_number(phonenumbers.parse(once))
