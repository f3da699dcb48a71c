"""parse_person_name on nameparser's own table of cases, but for those that set options that the step has not."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from services.steps.parse_person_name import ORDERS, PARTS, parse_person_name

CASES = json.loads((Path(__file__).parent / "data" / "nameparser.json").read_text(encoding="utf-8"))


def test_the_data_are_of_the_version_that_runs() -> None:
    assert CASES["source"] == f"nameparser-{version('nameparser')}.tar.gz on PyPI"


@pytest.mark.parametrize("order", ORDERS)
def test_nameparsers_cases(order: str) -> None:
    cases = [case for case in CASES["cases"] if case["order"] == order]
    config = {"field": "text", "outputs": {part: part for part in PARTS}, "order": order}
    output = parse_person_name.execute([{"text": case["text"]} for case in cases], config)
    different = [
        (case, record)
        for case, record in zip(cases, output.records, strict=True)
        if {PARTS[part]: record[part] for part in PARTS if record[part] is not None} != case["expect"]
    ]
    assert different == []
    assert len(cases) == {"given_first": 1161, "family_first": 16, "family_first_given_last": 8}[order]
