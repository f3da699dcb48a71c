"""How large a value is, without writing it."""

import math
from typing import Any

from events.columns import INTEGER_MAX, INTEGER_MIN
from services.steps._rowwise import Fault

RESULT_SIZE_MAX = 4_000_000
DEPTH_MAX = 100


def size_of(value: Any, limit: int) -> int | Fault:
    """About the characters of its JSON. A Fault where it is more than `limit` (`too_large`), nests more than 100 deep
    (`too_deep`), or is no JSON that a batch can hold (`not_json`: infinity, integers beyond 64 bits).

    A list or object that is in it twice counts twice, and the walk ends at the limit.
    """
    size = 0
    left: list[tuple[Any, int]] = [(value, 0)]
    while left:
        item, depth = left.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, list | dict):
            if depth == DEPTH_MAX:
                return Fault("too_deep")
            size += len(item)
            if size <= limit:
                left += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
            if isinstance(item, dict):
                size += sum(map(len, item))
        elif isinstance(item, float):
            if not math.isfinite(item):
                return Fault("not_json")
        elif isinstance(item, int) and not INTEGER_MIN <= item <= INTEGER_MAX:
            return Fault("not_json")
        size += 1
        if size > limit:
            return Fault("too_large")
    return size
