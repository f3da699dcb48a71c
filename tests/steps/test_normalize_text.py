"""normalize_text: Unicode form, whitespace, case, null tokens, mojibake."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.steps.base import Record, Reject, StepError
from services.steps.normalize_text import normalize_text


def normalised(text: Any, **config: Any) -> Any:
    return normalize_text.execute([{"a": text}], {"fields": ["a"], **config}).records[0]["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Acme \t\n Corp ", "Acme Corp"),
        ("Acme\u00a0\u3000Corp", "Acme Corp"),
        ("\ufeffAcme\u200b", "Acme"),
        ("ﬁne ＡＢＣ", "fine ABC"),
        ("Cafe\u0301", "Café"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("", ""),
        (None, None),
    ],
)
def test_form_and_whitespace(text: str | None, expected: str | None) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("lower", "ÅSA İstanbul", "åsa i\u0307stanbul"),
        ("upper", "straße", "STRASSE"),
        ("title", "o’brien's CAFÉ-bar 3RD", "O’brien's Café-Bar 3Rd"),
        ("none", "McDonald", "McDonald"),
    ],
)
def test_case(case: str, text: str, expected: str) -> None:
    assert normalised(text, case=case) == expected


def test_null_tokens_ignore_case_and_outer_whitespace() -> None:
    config = {"null_tokens": ["N/A", "-", ""]}
    assert [normalised(text, **config) for text in (" n/a ", "－", "  ", "n/a?")] == [None, None, None, "n/a?"]
    assert normalised("", null_tokens=["-"]) == ""


def test_mojibake_is_repaired_only_when_asked() -> None:
    assert normalised("CafÃ©", fix_mojibake=True) == "Café"
    assert normalised("CafÃ©") == "CafÃ©"
    assert normalised("Café", fix_mojibake=True) == "Café"


def test_every_repair_can_be_left_out() -> None:
    assert normalised(" ﬁ  x ", nfkc=False, collapse_whitespace=False) == " ﬁ  x "


def test_what_is_not_text_is_a_fault() -> None:
    records: list[Record] = [{"a": 7, "b": " x "}, {"a": "y"}, {"a": "\ud800"}]
    config: dict[str, Any] = {"fields": ["a", "b"]}
    assert normalize_text.execute(records, config).records == [
        {"a": None, "b": "x"},
        {"a": "y", "b": None},
        {"a": None, "b": None},
    ]
    rejecting = normalize_text.execute(records, {**config, "on_error": "reject"})
    assert rejecting.records == [{"a": "y", "b": None}]
    assert rejecting.rejects == [Reject(0, "a", "not_text", 7), Reject(2, "a", "invalid_unicode", "\ud800")]
    with pytest.raises(StepError, match="row 0, field 'a': not_text: 7"):
        normalize_text.execute(records, {**config, "on_error": "fail"})


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=st.text(), case=st.sampled_from(["none", "lower", "upper", "title"]))
def test_once_is_enough(text: str, case: str) -> None:
    once = normalised(text, case=case)
    assert unicodedata.is_normalized("NFKC", once)
    assert normalised(once, case=case) == once
