"""validate_identifier: numbers whose check digits are known, and the same with one digit changed."""

import pytest
from pydantic import ValidationError

from services.steps.base import Reject
from services.steps.validate_identifier import validate_identifier


def checked(value, **config):
    output = validate_identifier.execute([{"f": value, "c": config.pop("country", None)}], {"field": "f", **config})
    return output.records[0]["f"]


@pytest.mark.parametrize(
    ("scheme", "value", "compact"),
    [
        ("lei", "5493 001K JTII GC8Y 1R12", "549300 1KJTIIGC8Y1R12".replace(" ", "")),
        ("isin", "us0378331005", "US0378331005"),
        ("iban", "DE89 3704 0044 0532 0130 00", "DE89370400440532013000"),
        ("bic", "deut de ff", "DEUTDEFF"),
        ("vat", "EL 094259216", "EL094259216"),
        ("vat", "GB 980 7806 84", "GB980780684"),
        ("us.ein", "91-1144442", "911144442"),
        ("ean", 73513537, "73513537"),
        ("isin", "  ", None),
        ("isin", None, None),
    ],
)
def test_valid_numbers_are_written_compactly(scheme, value, compact):
    assert checked(value, scheme=scheme) == compact


@pytest.mark.parametrize(
    ("scheme", "value", "code"),
    [
        ("isin", "US0378331006", "invalid_checksum"),
        ("isin", "US037833100", "invalid_length"),
        ("lei", "x" * 100_000, "invalid_length"),
        ("vat", "XX123456789", "unknown_country"),
        ("vat", "D", "unknown_country"),
        ("vat", "١٢٣", "invalid_format"),
        ("iban", ["DE"], "not_text"),
    ],
)
def test_others_are_faults(scheme, value, code):
    config = {"field": "f", "scheme": scheme, "on_error": "reject"}
    output = validate_identifier.execute([{"f": value}], config)
    assert output.rejects == [Reject(0, "f", code, value)]


def test_the_country_of_a_vat_number_may_stand_beside_it():
    config = {"scheme": "vat", "country_field": "c"}
    assert checked("136695976", country="de", **config) == "DE136695976"
    assert checked("DE136695976", country="DE", **config) == "DE136695976"
    assert checked("136695976", country=None, **config) is None
    with pytest.raises(ValidationError, match="vat only"):
        checked("x", scheme="lei", country_field="c")
