"""parse_person_name: parts, orders, faults; conformance/test_nameparser.py has the library's own cases."""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from nameparser import HumanName
from nameparser.config import CONSTANTS
from pydantic import ValidationError

from services.steps.base import Record, Reject, StepError
from services.steps.parse_person_name import PARTS, parse_person_name

ALL = {part: part for part in PARTS}


def parts_or_code(value: Any, **config: Any) -> Any:
    output = parse_person_name.execute([{"n": value}], {"field": "n", "outputs": ALL, "on_error": "reject", **config})
    if output.rejects:
        return output.rejects[0].code
    return {part: output.records[0][part] for part in PARTS if output.records[0][part] is not None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Ann Lee", {"first": "Ann", "last": "Lee"}),
        ("Lee, Ann", {"first": "Ann", "last": "Lee"}),
        ("LEE, ANN B.", {"first": "ANN", "middle": "B.", "last": "LEE"}),
        ("Vega, Juan de la", {"first": "Juan", "last": "de la Vega"}),
        (
            "Dr. Juan Q. Xavier de la Vega III (Doc Vega)",
            {
                "title": "Dr.",
                "first": "Juan",
                "middle": "Q. Xavier",
                "last": "de la Vega",
                "suffix": "III",
                "nickname": "Doc Vega",
            },
        ),
        ("Ludwig van Beethoven", {"first": "Ludwig", "last": "van Beethoven"}),
        ("Prof. Dr. Ann Lee, PhD", {"title": "Prof. Dr.", "first": "Ann", "last": "Lee", "suffix": "PhD"}),
        ("José Ñuñez", {"first": "José", "last": "Ñuñez"}),
        ("山田 太郎", {"first": "太郎", "last": "山田"}),
        ("  Ann   Lee ", {"first": "Ann", "last": "Lee"}),
        ("Ann 🎉 Lee", {"first": "Ann", "last": "Lee"}),
        ("Prince", {"title": "Prince"}),
        ("", {}),
        (None, {}),
        (7, "not_text"),
        ("???", "not_a_name"),
        ("42", "not_a_name"),
        ("a, " * 200_000, "too_long"),
        ("Ann \ud800", "invalid_unicode"),
    ],
)
def test_names(name: Any, expected: Any) -> None:
    assert parts_or_code(name) == expected


def test_the_order_of_names_without_a_comma() -> None:
    assert parts_or_code("Lee Ann Mary", order="family_first") == {"first": "Ann", "middle": "Mary", "last": "Lee"}
    last = parts_or_code("Lee Mary Ann", order="family_first_given_last")
    assert last == {"first": "Ann", "middle": "Mary", "last": "Lee"}


def test_parts_go_to_the_fields_that_are_named() -> None:
    records: list[Record] = [{"n": "Lee, Ann"}, {}, {"n": 1}]
    output = parse_person_name.execute(
        records, {"field": "n", "outputs": {"last": "n", "suffix": "s"}, "on_error": "reject"}
    )
    assert output.records == [{"n": "Lee", "s": None}, {"n": None, "s": None}]
    assert output.rejects == [Reject(2, "n", "not_text", 1)]
    with pytest.raises(StepError) as caught:
        parts_or_code("?", on_error="fail")
    assert caught.value.code == "not_a_name"


@pytest.mark.parametrize("outputs", [{}, {"given": "x"}, {"first": "x", "last": "x"}])
def test_outputs_that_cannot_be(outputs: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="outputs"):
        parts_or_code("Ann Lee", outputs=outputs)


@pytest.fixture
def changed_constants() -> Iterator[None]:
    """The library's module-wide constants with a title that nobody has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # to change them is deprecated, and still works
        CONSTANTS.titles.add("zorp")
        yield
        CONSTANTS.titles.remove("zorp")


@pytest.mark.usefixtures("changed_constants")
def test_the_librarys_constants_have_no_say() -> None:
    assert HumanName("Zorp Ann Lee").title == "Zorp"
    assert parts_or_code("Zorp Ann Lee") == {"first": "Zorp", "middle": "Ann", "last": "Lee"}


def test_a_name_is_read_the_same_whatever_was_read_before() -> None:
    names = ["Dr. Ann Lee", "Lee, Ann", "Ann de la Vega III", "de la", "Mr. & Mrs. Lee", "Ann (Annie) Lee", "山田太郎"]
    alone = [parts_or_code(name) for name in names]
    assert [parts_or_code(name) for name in reversed(names)] == alone[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(parts_or_code, names * 20)) == alone * 20
