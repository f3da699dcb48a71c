"""parse_us_address: parts, faults, and the same answer from any thread."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
import usaddress
from pydantic import ValidationError

from services.steps.base import Record, Reject, StepError
from services.steps.parse_us_address import LABELS, PART_OF, Part, parse_us_address

ALL = {part: part for part in LABELS}


def parts_or_code(value: Any, **config: Any) -> Any:
    output = parse_us_address.execute([{"a": value}], {"field": "a", "outputs": ALL, "on_error": "reject", **config})
    if output.rejects:
        return output.rejects[0].code
    return {part: output.records[0][part] for part in ALL if output.records[0][part] is not None}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            "123 N. Main St. Suite 100, Chicago, IL 60601",
            {
                "number": "123",
                "street": "N. Main St.",
                "unit": "Suite 100",
                "city": "Chicago",
                "state": "IL",
                "zip": "60601",
            },
        ),
        (
            "1600 Pennsylvania Avenue NW,\r\n\n Washington,  DC 20500-0005",
            {
                "number": "1600",
                "street": "Pennsylvania Avenue NW",
                "city": "Washington",
                "state": "DC",
                "zip": "20500-0005",
            },
        ),
        ("PO Box 123, Boise, ID 83701", {"po_box": "PO Box 123", "city": "Boise", "state": "ID", "zip": "83701"}),
        (
            "Broadway & W 57th St, New York, NY",
            {"street": "Broadway", "cross_street": "W 57th St", "city": "New York", "state": "NY"},
        ),
        ("", {}),
        (" \n", {}),
        (None, {}),
        (60601, "not_text"),
        ("...", "not_an_address"),
        ("12 Elm St, Boston MA 02118, 99 Oak St, Salem MA 01970", "ambiguous_address"),
        ("12 Elm St " * 100_000, "too_long"),
        ("12 Elm \ud800", "invalid_unicode"),
    ],
)
def test_addresses(address: Any, expected: Any) -> None:
    assert parts_or_code(address) == expected


def test_every_label_of_the_library_is_of_one_part_or_none() -> None:
    assert set(LABELS) == set(get_args(Part))
    assert set(usaddress.LABELS) - set(PART_OF) == {"CornerOf", "IntersectionSeparator", "NotAddress"}
    assert len(PART_OF) == sum(map(len, LABELS.values()))


def test_parts_go_to_the_fields_that_are_named() -> None:
    records: list[Record] = [{"a": "12 Elm St, Boston, MA"}, {}, {"a": 1}]
    output = parse_us_address.execute(
        records, {"field": "a", "outputs": {"zip": "z", "city": "a"}, "on_error": "reject"}
    )
    assert output.records == [{"z": None, "a": "Boston"}, {"z": None, "a": None}]
    assert output.rejects == [Reject(2, "a", "not_text", 1)]
    with pytest.raises(StepError) as caught:
        parts_or_code("...", on_error="fail")
    assert caught.value.code == "not_an_address"


@pytest.mark.parametrize("outputs", [{}, {"town": "x"}, {"city": "x", "state": "x"}])
def test_outputs_that_cannot_be(outputs: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="outputs"):
        parts_or_code("12 Elm St", outputs=outputs)


def test_threads_do_not_get_into_each_others_way() -> None:
    addresses = [f"{number} Elm St, Boston, MA 0{number}" for number in range(2100, 2200)]
    alone = [parts_or_code(address) for address in addresses]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(parts_or_code, addresses * 5)) == alone * 5
