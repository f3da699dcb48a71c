"""normalize_email on email-validator's own cases, and on those of pyIsEmail that it carries."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from services.steps.normalize_email import normalize_email

CASES = json.loads((Path(__file__).parent / "data" / "email_validator.json").read_text(encoding="utf-8"))
GROUPS = {name: cases for name, cases in CASES.items() if isinstance(cases, list)}

STRICT = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghiklmn@iana.org"


def answer(text: str, **config: Any) -> str:
    """The address in normal form, or the fault's code."""
    output = normalize_email.execute([{"email": text}], {"field": "email", "on_error": "reject", **config})
    return output.rejects[0].code if output.rejects else output.records[0]["email"]


def agrees(group: str, case: dict[str, str]) -> bool:
    """Whether the step does as the library's test says."""
    found = answer(case["text"], allow_smtputf8=group != "test_email_invalid_character_smtputf8_off")
    if "normalized" in case:
        return found == case["normalized"]
    return ("@" in found) == (case.get("status") == "ISEMAIL_VALID")


def reason(case: dict[str, str]) -> str | None:
    """Why the step may differ from the library's test here."""
    text = case["text"]
    if text != text.strip():
        return "the step takes outer whitespace off first"
    if case.get("display_name") is not None:
        return "the test allows display names, the step does not"
    if text.startswith('"'):
        return "the test allows quoted local parts, the step does not"
    if text == STRICT:
        return "64 characters before the sign are the limit in the library's strict mode only"
    return None


def test_the_data_are_of_the_version_that_runs() -> None:
    assert CASES["source"] == f"email_validator-{version('email-validator')}.tar.gz on PyPI"


@pytest.mark.parametrize("group", GROUPS)
def test_email_validators_cases(group: str) -> None:
    different = [case for case in GROUPS[group] if not agrees(group, case)]
    assert [case for case in different if reason(case) is None] == []
    # What differs is what the reasons say, and no more of it than is known.
    known = {"test_email_valid": 7, "test_email_valid_intl_local_part": 1, "test_email_invalid_syntax": 2}
    assert len(different) == {**known, "test_pyisemail_tests": 25}.get(group, 0)
    for case in different:
        found = answer(case["text"])
        if case["text"] != case["text"].strip():
            assert found == case["text"].strip()
        elif case["text"] == STRICT:
            assert found == STRICT
        else:
            assert found == "invalid_email"


def test_how_many_there_are() -> None:
    assert sum(map(len, GROUPS.values())) == 304


def test_other_letters_before_the_sign_can_be_refused() -> None:
    for case in GROUPS["test_email_valid_intl_local_part"]:
        assert answer(case["text"], allow_smtputf8=False) == "invalid_email"


def test_reserved_domains_have_a_code_of_their_own() -> None:
    for case in GROUPS["test_email_invalid_reserved_domain"]:
        assert answer(case["text"]) == "reserved_domain"
