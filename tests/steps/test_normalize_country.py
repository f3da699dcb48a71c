"""normalize_country: messy spellings, what stays unknown, and the three outputs."""

from typing import Any

import iso3166
import pytest

from services.steps.base import Reject, StepError
from services.steps.normalize_country import normalize_country

MESSY = {
    "US": "USA|U.S.A.|U.S.|US|us|usa|840|United States|united states of america|The United States of America|"
    "United States of America (USA)|Estados Unidos|Vereinigte Staaten|États-Unis|米国|США",
    "GB": "UK|U.K.|GB|gbr|England|Scotland|Great Britain|United Kingdom |"
    "United Kingdom of Great Britain and Northern Ireland|Vereinigtes Königreich",
    "DE": "Deutschland|GERMANY|Germany, Federal Republic of|Bundesrepublik Deutschland|Allemagne|DEU",
    "KR": "Korea, Republic of|South Korea|Republic of Korea|Korea (South)|Korea, South|대한민국|R.O.K.",
    "KP": "North Korea|DPRK|Korea, Democratic People's Republic of",
    "NL": "Holland|the netherlands|Nederland|Pays-Bas|Kingdom of the Netherlands",
    "VN": "Viet Nam|Vietnam|VIETNAM|Việt Nam",
    "TR": "Türkiye|Turkey|TURKIYE|Turquie|Türkei",
    "CZ": "Czechia|Czech Republic|Česko|Tschechien",
    "CI": "Ivory Coast|Côte d'Ivoire|Cote d’Ivoire|COTE DIVOIRE|Elfenbeinküste",
    "CN": "China|P.R. China|People's Republic of China|中国|中國",
    "TW": "Taiwan|Taiwan, Province of China|Taiwan (R.O.C.)",
    "HK": "Hong Kong|HONG KONG SAR|Hong Kong SAR China",
    "RU": "Russia|Russian Federation|Россия|Russland",
    "CD": "Congo, Democratic Republic of the|DR Congo|Democratic Republic of the Congo|Congo - Kinshasa",
    "CG": "Republic of the Congo|Congo-Brazzaville|Congo, Republic of the",
    "CH": "Switzerland|Schweiz|Suisse|Svizzera|  swiTZERland\t",
    "AE": "UAE|U.A.E.|United Arab Emirates",
    "BA": "Bosnia & Herzegovina|Bosnia and Herzegovina|Bosnia-Herzegovina",
    "BO": "Bolivia|Bolivia, Plurinational State of|Plurinational State of Bolivia",
    "KN": "St. Kitts & Nevis|Saint Kitts and Nevis|St Kitts and Nevis",
    "TZ": "Tanzania|United Republic of Tanzania|Tanzania, United Republic of",
    "MM": "Burma|Myanmar|Myanmar (Burma)",
    "MK": "Macedonia|North Macedonia|FYROM",
    "SZ": "Swaziland|Eswatini|eSwatini",
    "CV": "Cape Verde|Cabo Verde",
    "TL": "East Timor|Timor-Leste",
    "VA": "Vatican|Vatican City|Holy See",
    "ST": "Sao Tome and Principe|São Tomé & Príncipe",
    "IR": "Iran|Iran, Islamic Republic of|Islamic Republic of Iran",
    "VE": "Venezuela|Venezuela, Bolivarian Republic of|Venezuela, RB",
    "GM": "Gambia|The Gambia|Gambia, The",
    "ES": "España|Spain|Spanien|ESPAÑA|Ｓｐａｉｎ",
    "SE": "Sverige|Sweden|Suède",
    "GR": "Greece|Hellas|Ελλάδα|EL",
    "GE": "Georgia",
    "NE": "Niger",
    "NG": "Nigeria",
    "NA": "NA|Namibia",
    "IE": "Ireland|Republic of Ireland|Éire",
    "XK": "Kosovo|XK",
}
SPELLINGS = [(code, text) for code, spellings in MESSY.items() for text in spellings.split("|")]

UNKNOWN = [
    *("N/A", "N.A.", "n a", "-", "none given", "unknown", "Europe", "EU", "XX", "ZZ", "000", "999", "42"),
    *("Congo", "Korea", "America", "Virgin Islands", "Saint Martin", "Republic of China"),
    *("Untied States", "Germny", "Unitedstates", "Yugoslavia", "USSR", "Paris", "California", "ao.", "Áo", "x" * 5000),
]


def country_or_code(value: Any, output: str = "alpha-2") -> str | None:
    result = normalize_country.execute([{"a": value}], {"field": "a", "output": output, "on_error": "reject"})
    return result.rejects[0].code if result.rejects else result.records[0]["a"]


@pytest.mark.parametrize(("code", "text"), SPELLINGS)
def test_messy_spellings(code: str, text: str) -> None:
    assert country_or_code(text) == code


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_is_not_known_or_not_one_country_is_never_guessed(text: str) -> None:
    assert country_or_code(text) == "unknown_country"


@pytest.mark.parametrize("entry", iso3166.countries, ids=lambda entry: entry.alpha2)
def test_every_code_and_name_leads_back_to_its_country(entry: iso3166.Country) -> None:
    codes = [entry.alpha2, entry.alpha2.lower(), entry.alpha3, entry.alpha3.title()]
    name = country_or_code(entry.alpha2, "name")
    full_names = [] if entry.name == "Congo" else [entry.name, entry.name.upper()]
    for text in [*codes, *full_names, name]:
        assert country_or_code(text) == entry.alpha2 or (text, entry.alpha2) == ("St. Martin", "MF")
    assert country_or_code(entry.alpha2, "alpha-3") == entry.alpha3


def test_outputs() -> None:
    assert [country_or_code("Deutschland", output) for output in ("alpha-2", "alpha-3", "name")] == [
        "DE",
        "DEU",
        "Germany",
    ]


def test_blank_is_null_and_what_is_not_text_is_a_fault() -> None:
    assert [country_or_code(value) for value in (None, "", " ", 840, ["US"])] == [
        *(None, None, None),
        *("not_text", "not_text"),
    ]


def test_it_writes_in_place_or_beside() -> None:
    records = [{"hq": "Holland"}, {"hq": "Atlantis"}]
    assert normalize_country.execute(records, {"field": "hq"}).records == [{"hq": "NL"}, {"hq": None}]
    beside = normalize_country.execute(records, {"field": "hq", "output_field": "c", "on_error": "reject"})
    assert beside.records == [{"hq": "Holland", "c": "NL"}]
    assert beside.rejects == [Reject(1, "hq", "unknown_country", "Atlantis")]
    with pytest.raises(StepError, match="row 1, field 'hq': unknown_country: 'Atlantis'"):
        normalize_country.execute(records, {"field": "hq", "on_error": "fail"})
