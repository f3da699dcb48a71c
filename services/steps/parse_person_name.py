"""parse_person_name: the parts of a person's name, from one text."""

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any, Final, Literal

from nameparser import FAMILY_FIRST, FAMILY_FIRST_GIVEN_LAST, GIVEN_FIRST, Parser, Policy
from pydantic import ConfigDict, Field, field_validator

from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

MAX_CHARACTERS = 500
SURROGATE = re.compile(r"[\ud800-\udfff]")

Part = Literal["title", "first", "middle", "last", "suffix", "nickname", "maiden"]
Order = Literal["given_first", "family_first", "family_first_given_last"]

PARTS: Final[dict[Part, str]] = {
    "title": "title",
    "first": "given",
    "middle": "middle",
    "last": "family",
    "suffix": "suffix",
    "nickname": "nickname",
    "maiden": "maiden",
}
"""The parts, and the library's names for them."""

ORDERS: Final = {
    "given_first": GIVEN_FIRST,
    "family_first": FAMILY_FIRST,
    "family_first_given_last": FAMILY_FIRST_GIVEN_LAST,
}


class ParsePersonNameConfig(RowwiseConfig):
    """Which field holds the name, and where its parts go."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"field": "name", "outputs": {"title": "title", "first": "given_name", "last": "surname"}}]
        }
    )

    field: str
    """The field with a person's full name, in either order with a comma (`Vega, Juan de la`), else in `order`."""

    outputs: dict[Part, str] = Field(min_length=1)
    """Which parts to write, and the field for each: `title`, `first`, `middle`, `last`, `suffix`, `nickname`,
    `maiden`. A field of that name is replaced. A part that the name has not is null."""

    order: Order = "given_first"
    """How names without a comma are written: given name first; family name first, the given name next; or family name
    first and the given name last, the middle names between them. Names in Chinese, Japanese and Korean script are read
    family name first in any event."""

    @field_validator("outputs")
    @classmethod
    def _each_field_is_one_part(cls, outputs: dict[Part, str]) -> dict[Part, str]:
        if len(set(outputs.values())) < len(outputs):
            raise ValueError("two parts go to one field; name another field for one of them")
        return outputs


@frame_step(
    "parse_person_name",
    version=f"1+nameparser{version('nameparser')}",
    summary="Split a person's full name into title, first, middle and last name, suffix and nickname.",
    config=ParsePersonNameConfig,
    reads=reads_unless_rejecting(lambda config: [config.field]),
    examples=[
        Example(
            "Titles, particles and both orders",
            {
                "field": "name",
                "outputs": {"title": "title", "first": "first", "last": "last", "suffix": "suffix"},
                "on_error": "reject",
            },
            [
                {"name": "Dr. Juan Q. Xavier de la Vega III"},
                {"name": "Lee, Ann"},
                {"name": "???"},
                {"name": None},
            ],
            [
                {
                    "name": "Dr. Juan Q. Xavier de la Vega III",
                    "title": "Dr.",
                    "first": "Juan",
                    "last": "de la Vega",
                    "suffix": "III",
                },
                {"name": "Lee, Ann", "title": None, "first": "Ann", "last": "Lee", "suffix": None},
                {"name": None, "title": None, "first": None, "last": None, "suffix": None},
            ],
            [Reject(2, "name", "not_a_name", "???")],
        )
    ],
)
def parse_person_name(frame: Frame, config: ParsePersonNameConfig, _: Context) -> Result:
    """Write the parts of the name; all are null where the name is null or blank.

    The parts are nameparser's reading, with the letters as they stand; a surname alone is read as the first name it
    may as well be. Faults: `not_text`, `too_long` (over 500 characters), `not_a_name` (no letter in it, or
    no part found), `invalid_unicode` (a lone surrogate). Raises StepError `unknown_field`, and the fault's code under
    `on_error: fail`.
    """
    require_fields(frame, [config.field])
    work = Rowwise(frame, config.on_error)
    work.map_many([config.field], _parser(config), list(config.outputs.values()))
    return work.result()


@cache
def _library(order: Order) -> Parser:
    # Frozen, with the packaged vocabulary: HumanName's module-wide constants, which callers may change, play no part.
    return Parser(policy=Policy(name_order=ORDERS[order]))


def _parser(config: ParsePersonNameConfig) -> Callable[[Any], tuple[str | None, ...] | Fault]:
    """The function from a value to the parts that the config names, in its order, or a Fault."""
    library = _library(config.order)
    names = [PARTS[part] for part in config.outputs]

    def parse(value: Any) -> tuple[str | None, ...] | Fault:
        if not isinstance(value, str):
            return (None,) * len(names) if value is None else Fault("not_text")
        text = value.strip()
        if not text:
            return (None,) * len(names)
        if len(text) > MAX_CHARACTERS:
            return Fault("too_long")
        if SURROGATE.search(text):
            return Fault("invalid_unicode")
        if not any(character.isalpha() for character in text):
            return Fault("not_a_name")
        parts = library.parse(text).as_dict()
        if not any(parts.values()):
            return Fault("not_a_name")
        return tuple(parts[name] or None for name in names)

    return parse
