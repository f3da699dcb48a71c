"""What the service lets in can be stored by every consumer and comes back unchanged."""

import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import strictjson
from events.errors import InvalidInputError

REFUSED = {
    "NaN": b"[NaN]",
    "Infinity": b"[-Infinity]",
    "a float that overflows": b"[1e400]",
    "a long float that overflows": b"[1" + b"0" * 400 + b".5]",
    "a long mantissa with a short exponent": b"[1" + b"0" * 250 + b"e99]",
    "a negative overflow": b'{"a":[{"b":-1E+999}]}',
    "a duplicate key": b'{"a":1,"a":2}',
    "an escaped duplicate key": b'{"a":1,"\\u0061":2}',
    "a lone surrogate": b'["\\ud800"]',
    "a reversed pair": b'["\\udc00\\ud800"]',
    "an integer beyond 64 bits": b"[18446744073709551616]",
    "a negative integer beyond 64 bits": b"[-9223372036854775809]",
    "deep nesting": b"[" * 5000 + b"]" * 5000,
    "invalid UTF-8": b'["\xff"]',
    "nothing": b"",
    "a byte order mark": b"\xef\xbb\xbf[]",
    "a trailing comma": b"[1,]",
    "two values": b"[] []",
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_stored_is_refused(body):
    with pytest.raises(InvalidInputError):
        strictjson.parse(body)


@pytest.mark.parametrize(
    "value",
    ["\u0000", "\U0001f4a9", 18446744073709551615, -9223372036854775808, 1.7976931348623157e308, 5e-324, {"": None}],
)
def test_odd_but_storable_values_come_back_unchanged(value):
    body = orjson.dumps([value])
    assert strictjson.parse(body) == [value]
    assert strictjson.dumps(strictjson.parse(body)) == body


def test_ten_thousand_keys():
    value = {f"key {number}": number for number in range(10_000)}
    assert strictjson.parse(orjson.dumps(value)) == value


storable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(storable)
def test_every_storable_value_makes_the_round_trip(value):
    parsed = strictjson.parse(strictjson.dumps(value))
    assert parsed == value
    assert not (isinstance(parsed, float) and math.isnan(parsed))
