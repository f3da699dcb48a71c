"""mask_fields: what is left of a value, and whose pseudonyms are whose."""

import pytest

from services.steps.base import Context, StepError
from services.steps.mask_fields import mask_fields

OURS, THEIRS = Context(tenant_key=b"o" * 32), Context(tenant_key=b"t" * 32)


def masked(value, context=OURS, **config):
    return mask_fields.execute([{"f": value}], {"fields": ["f"], **config}, context).records[0]["f"]


def test_a_pseudonym_is_of_one_org_and_one_value():
    first = masked("ann@example.com", method="pseudonym")
    assert len(first) == 32
    assert first == masked("ann@example.com", method="pseudonym")
    assert first != masked("bob@example.com", method="pseudonym")
    assert first != masked("ann@example.com", THEIRS, method="pseudonym")
    assert masked({"b": 1, "a": 2}, method="pseudonym") == masked({"a": 2, "b": 1}, method="pseudonym")


def test_without_a_key_there_is_none():
    with pytest.raises(StepError) as caught:
        masked("x", Context(), method="pseudonym")
    assert caught.value.code == "no_tenant_key"


@pytest.mark.parametrize(
    ("value", "config", "left"),
    [
        ("0123456789", {"method": "partial"}, "******6789"),
        ("123", {"method": "partial", "keep_last": 3}, "***"),
        ("123", {"method": "partial", "keep_last": 0}, "***"),
        (4111, {"method": "partial", "keep_last": 1}, "***1"),
        ("", {"method": "partial"}, ""),
        ("x", {"method": "redact", "replacement": "gone"}, "gone"),
        ("x", {"method": "remove"}, None),
        (None, {"method": "redact"}, None),
    ],
)
def test_what_is_left(value, config, left):
    assert masked(value, **config) == left
