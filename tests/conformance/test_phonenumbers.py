"""normalize_phone on phonenumbers' own cases: the example numbers of every region, and those of its parser's tests."""

import json
from pathlib import Path
from typing import Any

import phonenumbers

from services.steps.normalize_phone import UNPARSED, normalize_phone

CASES = json.loads((Path(__file__).parent / "data" / "phonenumbers.json").read_text(encoding="utf-8"))


# What the step answers otherwise than the parser's tests expect. They run on plans made up for them, and ask whether
# a text can be read; the step asks by the real plans, and whether the number is valid too.
DIFFERENT: dict[str | None, list[tuple[str | None, str | None]]] = {
    # The step says more: there is no country to read it in.
    "unknown_region": [
        ("123 456 7890", "ZZ"),
        ("123 456 7890", "CS"),
        ("123 456 7890", None),
        ("tel:555-1234;phone-context=www.google.com", "ZZ"),
    ],
    # Blank and null stay null in a step; they are no faults.
    None: [("", "ZZ"), (None, "ZZ"), (None, "US")],
    # The parser takes them; by the real plans they are too long (vanity letters; Mexico's old mobile prefix).
    "too_long": [
        ("800 six-flags", "US"),
        ("1800 six-flags", "US"),
        ("1800 SIX FLAGS", "US"),
        ("0~0 1800 7493 5247", "PL"),
        ("(1800) 7493.5247", "US"),
        ("0~0 1800 7493 5247 ~1234", "PL"),
        ("01 (449)978-0001", "MX"),
        ("+52 1 33 1234-5678", "MX"),
        ("044 (33) 1234-5678", "MX"),
        ("045 33 1234-5678", "MX"),
        ("tel:033316005;phone-context=+-1-2.3()", "ZZ"),
    ],
    # The parser takes them; the real plans do not give them out.
    "invalid_number": [
        ("(212)123-1234 x508/x1234", "US"),
        ("(212)123-1234 x508/ x1234", "US"),
        ("(212)123-1234 x508\\x1234", "US"),
        ("+1 (645) 123 1234-910#", "US"),
        ("+1 (645) 123 1234 ext. 910#", "US"),
        ("+1123-456-7890 666666#", "US"),
        ("+11234567890-6#", "US"),
        ("64(0)64123456", "NZ"),
        ("123-456-7890", "US"),
        ("0123456", "GB"),
        ("+54 23 1234 0000", "AR"),
        ("023 1234 0000", "AR"),
        ("812345", "BY"),
        ("8123456", "BY"),
        ("tel:033316005;phone-context=+64-3", "ZZ"),
        ("tel:033316005;phone-context=+(555)", "ZZ"),
    ],
    # The parser takes them; by the real plans they are too short.
    "too_short": [
        ("011", "AU"),
        ("001", "AU"),
        ("000", "AU"),
        ("0000", "AU"),
        ("+81 *2345", "JP"),
        ("12", "NZ"),
        ("03715 15 65", "AR"),
        ("8123", "BY"),
    ],
    # The parser takes them; they can be dialled within one area only.
    "local_only": [
        ("tel:253-0000;phone-context=www.google.com", "US"),
        ("tel:253-0000;isub=12345;phone-context=www.google.com", "US"),
        ("tel:2530000;isub=12345;phone-context=1234.com", "US"),
        ("81234", "BY"),
        ("011xx5481429712", "US"),
    ],
}


def answers(cases: list[dict[str, Any]]) -> list[Any]:
    """The number or the fault's code for each case."""
    records = [{"phone": case["text"], "region": case["region"]} for case in cases]
    config = {"field": "phone", "region_field": "region", "on_error": "reject"}
    output = normalize_phone.execute(records, config)
    found = {reject.row: reject.code for reject in output.rejects}
    assert output.rows is not None
    found.update((row, record["phone"]) for row, record in zip(output.rows, output.records, strict=True))
    return [found[row] for row in range(len(cases))]


def test_the_data_are_of_the_version_that_runs() -> None:
    assert CASES["source"] == f"phonenumbers-{phonenumbers.__version__}.tar.gz on PyPI"


def test_every_regions_example_numbers() -> None:
    cases = CASES["examples"]
    wrong = [
        (case, answer)
        for case, answer in zip(cases, answers(cases), strict=True)
        if (answer != case["e164"] if case["e164"] is not None else answer.startswith("+"))
    ]
    assert wrong == []
    assert len(cases) > 1000


def test_the_parsers_own_cases() -> None:
    cases = CASES["parsed"]
    different: dict[str | None, list[tuple[str | None, str | None]]] = {}
    for case, answer in zip(cases, answers(cases), strict=True):
        expected = UNPARSED[case["error"]] if "error" in case else case["e164"]
        if answer != expected:
            different.setdefault(answer, []).append((case["text"], case["region"]))
    assert different == DIFFERENT
    assert len(cases) == 204
    assert sum(map(len, different.values())) == 47
