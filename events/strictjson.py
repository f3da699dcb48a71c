"""JSON as this service accepts it: what comes in can be stored by every consumer and is given back unchanged."""

import math
import re
from typing import Any

import jiter
import orjson

from events.errors import InvalidInputError

_MAY_OVERFLOW = re.compile(rb"[eE]\+?0*[1-9][0-9]|[0-9]{290}")


def parse(body: bytes) -> Any:
    """Parse a request body as I-JSON (RFC 7493): no duplicate names, no NaN, no lone surrogates, 64-bit integers.

    Raises InvalidInputError saying what was found. jiter checks the grammar, duplicate names and a nesting of at most
    200 levels (orjson writes 254); the round trip through orjson refuses integers that no consumer could hold.
    """
    try:
        value = jiter.from_json(body, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True)
        orjson.dumps(value)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"The body is not JSON that can be stored: {error}.", code="invalid_json") from error
    if _MAY_OVERFLOW.search(body) and _has_infinity(value):
        raise InvalidInputError("The body holds a number beyond a 64-bit float.", code="invalid_json")
    return value


def _has_infinity(value: Any) -> bool:
    """Whether a number overflowed: jiter reads 1e400 as infinity, which JSON cannot give back."""
    if isinstance(value, float):
        return math.isinf(value)
    if isinstance(value, dict):
        return any(map(_has_infinity, value.values()))
    return isinstance(value, list) and any(map(_has_infinity, value))


def dumps(value: Any) -> bytes:
    """Compact UTF-8 JSON, keys in their order."""
    return orjson.dumps(value)


def loads(data: bytes | str) -> Any:
    """Parse JSON that this service wrote itself."""
    return orjson.loads(data)
