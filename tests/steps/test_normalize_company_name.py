"""normalize_company_name: trailing legal forms and nothing else; the comparison key."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps.base import Record, Reject, StepError
from services.steps.normalize_company_name import comparison_key, normalize_company_name


def name_or_code(value: Any, **config: Any) -> Any:
    output = normalize_company_name.execute([{"c": value}], {"field": "c", "on_error": "reject", **config})
    return output.rejects[0].code if output.rejects else output.records[0]["company_name"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Acme Inc.", "Acme"),
        ("Acme, Inc", "Acme"),
        ("ACME INCORPORATED", "ACME"),
        ("Foo Co., Ltd.", "Foo"),
        ("Foo Pty. Ltd.", "Foo"),
        ("Foo Pvt. Ltd.", "Foo"),
        ("Foo l.l.c", "Foo"),
        ("Müller GmbH & Co. KG", "Müller"),
        ("Müller GmbH & Co. KGaA", "Müller"),
        ("Müller UG (haftungsbeschränkt)", "Müller"),
        ("Ölmühle e.K.", "Ölmühle"),
        ("Siemens Aktiengesellschaft", "Siemens"),
        ("Fresenius SE & Co. KGaA", "Fresenius"),
        ("Grupo Bimbo, S.A.B. de C.V.", "Grupo Bimbo"),
        ("Nestlé S.A.", "Nestlé"),
        ("Nestlé S. A.", "Nestlé"),
        ("Foo Sp. z o.o.", "Foo"),
        ("Foo, spol. s r.o.", "Foo"),
        ("Novo Nordisk A/S", "Novo Nordisk"),
        ("Skanska AB (publ)", "Skanska"),
        ("Koç Holding A.Ş.", "Koç Holding"),
        ("Ромашка ООО", "Ромашка"),
        ("トヨタ自動車株式会社", "トヨタ自動車"),
        ("トヨタ自動車㈱", "トヨタ自動車"),
        ("腾讯控股有限公司", "腾讯控股"),
        ("삼성전자 주식회사", "삼성전자"),
        ("Foo - GmbH", "Foo"),
        ("  Foo\u00a0\t Ltd ", "Foo"),
        ("Ｆｏｏ Ｌｔｄ", "Foo"),
        # Forms elsewhere than at the end belong to the name.
        ("SAS Institute", "SAS Institute"),
        ("SAS Institute Inc.", "SAS Institute"),
        ("AB Volvo", "AB Volvo"),
        ("株式会社トヨタ", "株式会社トヨタ"),
        ("Alphabet Inc. Class A", "Alphabet Inc. Class A"),
        ("Bar N.V. (Netherlands)", "Bar N.V. (Netherlands)"),
        ("Foo (UK) Limited", "Foo (UK)"),
        ("Orion (pharmaceutical company)", "Orion (pharmaceutical company)"),
        # Words that only look like a form.
        ("The Company", "The Company"),
        ("Bank of Co", "Bank of Co"),
        ("Louisiana Pt", "Louisiana Pt"),
        ("Vitamin A B", "Vitamin A B"),
        ("Good As", "Good As"),
        ("Mobil Oil AS", "Mobil Oil"),
        ("Procter & Gamble", "Procter & Gamble"),
        ("AT&T", "AT&T"),
        # What would be nothing else.
        ("GmbH", "GmbH"),
        ("Ltd Ltd", "Ltd"),
        ("- Inc", "- Inc"),
        ("...", "..."),
        ("", None),
        ("  ", None),
        (None, None),
        (7, "not_text"),
        ("x" * 501, "too_long"),
        ("Ltd " * 250_000, "too_long"),
        ("Foo\ud800 Ltd", "invalid_unicode"),
    ],
)
def test_names(raw: Any, expected: str | None) -> None:
    assert name_or_code(raw) == expected


def test_the_form_can_stay_and_the_case_can_change() -> None:
    assert name_or_code("Foo  Ltd.", strip_legal_form=False) == "Foo Ltd."
    assert name_or_code("o’neil FOODS GmbH", case="title") == "O’neil Foods"
    assert name_or_code("Foo Ltd", case="upper") == "FOO"
    assert name_or_code("Foo Ltd", case="lower") == "foo"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Müller & Söhne", "muller sohne"),
        ("Straße", "strasse"),
        ("Jo's  Pizza-House!", "jos pizza house"),
        ("E.ON", "e on"),
        ("foo_bar 1", "foo bar 1"),
        ("foo_bär 1", "foo bar 1"),
        ("ﬁne ＣＯ", "fine co"),
        ("İstanbul", "istanbul"),
        ("삼성전자", "삼성전자"),
        ("हिन्दी", "हिन्दी"),
        ("ガス", "ガス"),
        ("שָׁלוֹם", "שלום"),
        ("!!!", None),
    ],
)
def test_keys(name: str, key: str | None) -> None:
    assert comparison_key(name) == key


def test_the_raw_name_and_the_key() -> None:
    records: list[Record] = [{"c": "Müller GmbH"}, {}, {"c": ["x"]}]
    output = normalize_company_name.execute(
        records, {"field": "c", "output_field": "n", "key_field": "k", "on_error": "reject"}
    )
    assert output.records == [{"c": "Müller GmbH", "n": "Müller", "k": "muller"}, {"n": None, "k": None}]
    assert output.rejects == [Reject(2, "c", "not_text", ["x"])]
    with pytest.raises(StepError) as caught:
        name_or_code(7, on_error="fail")
    assert caught.value.code == "not_text"


@pytest.mark.parametrize("outputs", [{"output_field": "c"}, {"key_field": "c"}, {"key_field": "company_name"}])
def test_the_fields_must_be_different(outputs: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="must be different fields"):
        name_or_code("Foo", **outputs)


words = st.lists(
    st.text(max_size=6) | st.sampled_from(["Ltd", "Ltd.", "S.", "A.", "&", "Co.", "GmbH", "(publ)", "AS", "(株)"]),
    max_size=7,
).map(" ".join)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(raw=words)
def test_a_name_is_a_beginning_of_the_raw_one_and_never_nothing(raw: str) -> None:
    whole, name = name_or_code(raw, strip_legal_form=False), name_or_code(raw)
    if whole is None or whole == "invalid_unicode":
        assert name == whole
    else:
        assert name
        assert whole.startswith(name)
        assert name_or_code(name) in (name, None) or name.isupper() or name.islower()
    if name:
        key = comparison_key(name)
        assert key is None or comparison_key(key) == key
