"""parse_us_address: the parts of a United States postal address, from one text."""

import re
from collections.abc import Callable
from importlib.metadata import version
from threading import Lock
from typing import Any, Final, Literal

import usaddress
from pydantic import ConfigDict, Field, field_validator

from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

MAX_CHARACTERS = 500
SURROGATE = re.compile(r"[\ud800-\udfff]")

Part = Literal[
    "recipient", "building", "number", "street", "cross_street", "unit", "po_box", "city", "state", "zip", "country"
]  # fmt: skip
STREET: Final = ("PreModifier", "PreDirectional", "PreType", "", "PostType", "PostDirectional")
LABELS: Final[dict[Part, tuple[str, ...]]] = {
    "recipient": ("Recipient",),
    "building": ("BuildingName", "LandmarkName", "SubaddressType", "SubaddressIdentifier"),
    "number": ("AddressNumberPrefix", "AddressNumber", "AddressNumberSuffix"),
    "street": tuple(f"StreetName{part}" for part in STREET),
    "cross_street": tuple(f"SecondStreetName{part}" for part in STREET),
    "unit": ("OccupancyType", "OccupancyIdentifier"),
    "po_box": ("USPSBoxType", "USPSBoxID", "USPSBoxGroupType", "USPSBoxGroupID"),
    "city": ("PlaceName",),
    "state": ("StateName",),
    "zip": ("ZipCode",),
    "country": ("CountryName",),
}
"""The parts, and the library's labels that make them up."""

PART_OF: Final[dict[str, str]] = {label: part for part, labels in LABELS.items() for label in labels}

_tagging = Lock()  # the library's one model holds the address that it is at


class ParseUsAddressConfig(RowwiseConfig):
    """Which field holds the address, and where its parts go."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "field": "address",
                    "outputs": {"number": "house", "street": "street", "city": "city", "state": "state", "zip": "zip"},
                }
            ]
        }
    )

    field: str
    """The field with the address, on one line or several."""

    outputs: dict[Part, str] = Field(min_length=1)
    """Which parts to write, and the field for each: `recipient`, `building`, `number`, `street`, `cross_street` (of an
    intersection), `unit`, `po_box`, `city`, `state`, `zip`, `country`. A field of that name is replaced. A part that
    the address has not is null."""

    @field_validator("outputs")
    @classmethod
    def _each_field_is_one_part(cls, outputs: dict[Part, str]) -> dict[Part, str]:
        if len(set(outputs.values())) < len(outputs):
            raise ValueError("two parts go to one field; name another field for one of them")
        return outputs


@frame_step(
    "parse_us_address",
    version=f"1+usaddress{version('usaddress')}+crfsuite{version('python-crfsuite')}",
    summary="Split a United States address into number, street, unit, city, state and ZIP code.",
    config=ParseUsAddressConfig,
    reads=reads_unless_rejecting(lambda config: [config.field]),
    examples=[
        Example(
            "One line becomes fields",
            {
                "field": "address",
                "outputs": {
                    "number": "number",
                    "street": "street",
                    "unit": "unit",
                    "city": "city",
                    "state": "state",
                    "zip": "zip",
                },
                "on_error": "reject",
            },
            [
                {"address": "123 N. Main St. Suite 100, Chicago, IL 60601"},
                {"address": "12 Elm St, Boston MA 02118, 99 Oak St, Salem MA 01970"},
            ],
            [
                {
                    "address": "123 N. Main St. Suite 100, Chicago, IL 60601",
                    "number": "123",
                    "street": "N. Main St.",
                    "unit": "Suite 100",
                    "city": "Chicago",
                    "state": "IL",
                    "zip": "60601",
                }
            ],
            [Reject(1, "address", "ambiguous_address", "12 Elm St, Boston MA 02118, 99 Oak St, Salem MA 01970")],
        )
    ],
)
def parse_us_address(frame: Frame, config: ParseUsAddressConfig, _: Context) -> Result:
    """Write the parts of the address; all are null where it is null or blank.

    The parts are what usaddress' packaged model takes the words for, in the letters that they have; a guess, which
    is best for addresses in usual form. Words that it takes for no part of an address are left out. Faults:
    `not_text`, `too_long` (over 500 characters), `ambiguous_address` (a part comes up in two places),
    `not_an_address` (no word of it is any part), `invalid_unicode` (a lone surrogate). Raises StepError
    `unknown_field`, and the fault's code under `on_error: fail`.
    """
    require_fields(frame, [config.field])
    work = Rowwise(frame, config.on_error)
    work.map_many([config.field], _parser(config), list(config.outputs.values()))
    return work.result()


def _parser(config: ParseUsAddressConfig) -> Callable[[Any], tuple[str | None, ...] | Fault]:
    """The function from a value to the parts that the config names, in its order, or a Fault."""
    nothing = (None,) * len(config.outputs)

    def parse(value: Any) -> tuple[str | None, ...] | Fault:
        if not isinstance(value, str):
            return nothing if value is None else Fault("not_text")
        text = value.strip()
        if not text:
            return nothing
        if len(text) > MAX_CHARACTERS:
            return Fault("too_long")
        if SURROGATE.search(text):
            return Fault("invalid_unicode")
        lines = (" ".join(line.split()).rstrip(",") for line in text.splitlines())
        text = ", ".join(filter(None, lines))
        try:
            with _tagging:
                parts, _ = usaddress.tag(text, tag_mapping=PART_OF)
        except usaddress.RepeatedLabelError:
            return Fault("ambiguous_address")
        if not LABELS.keys() & parts.keys():
            return Fault("not_an_address")
        return tuple(parts.get(part) or None for part in config.outputs)

    return parse
