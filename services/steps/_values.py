"""What values of JSON are to a step that compares them: which are blank, which are equal, which comes first."""

import json
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from services.steps.base import StepError
from services.steps.frame import Frame


def is_blank(value: Any) -> bool:
    """Whether there is nothing to compare: null, NaN, text of whitespace only."""
    if isinstance(value, str):
        return not value or value.isspace()
    return is_missing(value)


def is_missing(value: Any) -> bool:
    """Whether there is no value: null, and NaN, which Python's json reads and which is equal to nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def identity(value: Any) -> Hashable:
    """Equal for values that count as equal: numbers by value (1 is 1.0, but not true), texts as they stand, lists and
    objects by their JSON text with sorted names. None for what is missing. Raises StepError `unusable_value`."""
    if isinstance(value, str):
        return value
    if is_missing(value):
        return None
    if isinstance(value, bool):
        return ("b", value)
    if isinstance(value, int | float):
        return ("n", value)  # Python compares integers and fractions exactly, and gives equal ones one hash
    return ("j", json_text(value))


def order_key(value: Any) -> tuple[int, Any]:
    """Sorts any values: numbers by value, then texts by code point, then false and true, then lists, then objects (by
    their JSON text with sorted names). Not for what is missing. Raises StepError `unusable_value`."""
    if isinstance(value, bool):
        return (2, value)
    if isinstance(value, int | float):
        return (0, value)
    if isinstance(value, str):
        return (1, value)
    return (3 if isinstance(value, list) else 4, json_text(value))


def json_text(value: Any) -> str:
    """A list or an object as JSON with sorted names. Raises StepError `unusable_value` when it nests too deeply."""
    try:
        return json.dumps(value, sort_keys=True)
    except (RecursionError, ValueError) as error:
        raise StepError("a value cannot be compared: it nests too deeply", code="unusable_value") from error


def ranks(values: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Each value's place in the order of `order_key`, from 0; equal ones share a place, what is missing has -1."""
    keys = [None if is_missing(value) else order_key(value) for value in values]
    places = {key: place for place, key in enumerate(sorted({key for key in keys if key is not None}))}
    return np.array([-1 if key is None else places[key] for key in keys], np.int64)


def fullness(frame: Frame) -> npt.NDArray[np.int32]:
    """How many of each row's fields are not blank."""
    counts = np.zeros(len(frame), np.int32)
    for name in frame.names:
        coded = frame.coded(name)
        filled = np.array([not is_blank(value) for value in coded.values], np.int32)
        counts += filled[np.asarray(coded.codes, np.int64)]
    return counts
