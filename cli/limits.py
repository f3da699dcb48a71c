"""Limits as they are typed: NAME=NUMBER."""

from collections.abc import Sequence

from pydantic import ValidationError

from events.errors import InvalidInputError
from events.limits import Limits


def parse_limits(texts: Sequence[str]) -> Limits:
    """The limits that `NAME=NUMBER` texts name. Raises InvalidInputError with the names there are."""
    given = dict(text.partition("=")[::2] for text in texts)
    try:
        return Limits.model_validate(given)
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise InvalidInputError(f"{faults}. Limits are: {', '.join(Limits.model_fields)}.") from error
