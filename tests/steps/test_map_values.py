"""map_values: exact, folded, approximate, and what is in no table."""

import pytest
from pydantic import ValidationError

from services.steps.base import Reject
from services.steps.map_values import map_values

TABLE = {"Closed Won": "won", "Closed Lost": "lost", "7": "seven", "true": 1}


@pytest.mark.parametrize(
    ("value", "config", "mapped"),
    [
        (" CLOSED won ", {}, "won"),
        ("CLOSED won", {"ignore_case": False, "default": "?"}, "?"),
        (7, {}, "seven"),
        (True, {}, 1),
        (None, {"default": "?"}, None),
        ("Closd Won", {"fuzzy_cutoff": 85}, "won"),
        ("Closd Won", {"default": "?"}, "?"),
        ("x" * 100_000, {"fuzzy_cutoff": 85, "default": "?"}, "?"),
    ],
)
def test_values(value, config, mapped):
    assert map_values.execute([{"f": value}], {"field": "f", "table": TABLE, **config}).records == [{"f": mapped}]


def test_equally_near_entries_are_taken_in_the_order_of_the_table():
    for table in ({"abcd": 1, "abce": 2}, {"abce": 2, "abcd": 1}):
        output = map_values.execute([{"f": "abcf"}], {"field": "f", "table": table, "fuzzy_cutoff": 70})
        assert output.records == [{"f": next(iter(table.values()))}]


def test_what_is_in_no_table_is_a_fault():
    config = {"field": "f", "table": TABLE, "output_field": "g", "on_error": "reject"}
    output = map_values.execute([{"f": "nope"}, {"f": [1]}, {"f": "7"}], config)
    assert output.records == [{"f": "7", "g": "seven"}]
    assert output.rejects == [Reject(0, "f", "unmapped", "nope"), Reject(1, "f", "not_text", [1])]


def test_entries_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValidationError, match="case only"):
        map_values.execute([], {"field": "f", "table": {"a": 1, "A": 2}})
