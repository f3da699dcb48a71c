"""How countries are written: spellings from ISO 3166-1, from the CLDR in many languages, and a few of our own."""

import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import iso3166
from babel import Locale

LANGUAGES = (
    *("de", "fr", "es", "it", "pt", "nl", "ca", "pl", "cs", "sk", "sl", "hr", "hu", "ro", "bg", "el", "sv", "da"),
    *("nb", "fi", "et", "lv", "lt", "tr", "ru", "uk", "ja", "zh", "zh_Hant", "ko", "ar", "he", "fa", "hi", "th", "id"),
    *("vi",),
)
"""The CLDR languages, besides English, whose country names are known."""

LONG_FORMS = ("Republic of {}", "Federal Republic of {}", "Islamic Republic of {}", "Kingdom of {}")
"""English long forms, each also with `the` and inverted: `Sudan, Republic of the`."""

AMBIGUOUS = frozenset(
    {
        *("america", "brasilia", "congo", "kongo", "korea", "norfolk", "republic of china", "china republic of"),
        *("saint martin", "virgin islands"),
    }
)
"""Folded names that people use for more than one place, though one table or another gives them to a single country."""

ALIASES = {
    "AE": ("UAE", "Emirates"),
    "BA": ("Bosnia", "Bosnia-Herzegovina"),
    "CD": ("DRC", "DR Congo", "Congo DR", "Congo, Dem. Rep.", "Congo (DRC)", "Democratic Republic of Congo", "Zaire"),
    "CG": ("Republic of the Congo", "Republic of Congo", "Congo, Republic of", "Congo, Republic of the", "Congo, Rep."),
    "CI": ("Ivory Coast", "Elfenbeinküste"),
    "CN": ("PRC", "PR China", "People's Republic of China", "China, People's Republic of", "Mainland China"),
    "CZ": ("Czech Republic", "Czech Rep."),
    "DE": ("Bundesrepublik Deutschland", "BRD"),
    "DO": ("Dominican Rep.",),
    "EG": ("Egypt, Arab Rep.",),
    "FK": ("Falklands", "Malvinas"),
    "FM": ("Micronesia, Fed. Sts.",),
    "FR": ("French Republic", "République française"),
    "GB": ("UK", "Great Britain", "Britain", "England", "Scotland", "Wales", "Northern Ireland"),
    "GR": ("Hellenic Republic", "EL"),
    "HK": ("Hongkong", "Hong Kong SAR", "Hong Kong, China", "Hong Kong SAR, China"),
    "IE": ("Irish Republic", "Eire"),
    "IN": ("Bharat",),
    "IR": ("Iran, Islamic Rep.",),
    "IT": ("Italian Republic",),
    "JP": ("Nippon",),
    "KG": ("Kyrgyz Republic",),
    "KP": ("DPRK", "DPR Korea", "Korea (North)", "Korea, Dem. People's Rep."),
    "KR": ("ROK", "Rep. of Korea", "Korea (South)", "Korea Rep."),
    "LA": ("Lao PDR",),
    "LK": ("Ceylon",),
    "MK": ("Macedonia", "FYROM", "Former Yugoslav Republic of Macedonia", "Republic of Macedonia"),
    "MM": ("Burma",),
    "MO": ("Macau", "Macau SAR", "Macao, China", "Macao SAR, China"),
    "NL": ("Holland",),
    "NZ": ("Aotearoa",),
    "PS": ("Palestinian Territory", "Occupied Palestinian Territory"),
    "PT": ("Portuguese Republic",),
    "RU": ("Russian Fed.",),
    "SA": ("KSA",),
    "SK": ("Slovak Republic",),
    "SZ": ("Swaziland",),
    "TL": ("East Timor",),
    "TR": ("Turkey", "Republic of Turkey"),
    "TW": ("Taiwan (R.O.C.)", "Chinese Taipei"),
    "US": (
        *("USA", "U.S.", "U.S. of A.", "US of America", "United States (USA)", "United States of America (USA)"),
        *("Estados Unidos de América", "États-Unis d'Amérique", "Vereinigte Staaten von Amerika"),
        *("Stati Uniti d'America", "США", "米国"),
    ),
    "VA": ("Vatican", "Vatican City State", "Holy See (Vatican City State)"),
    "VE": ("Venezuela, RB",),
    "VG": ("BVI",),
    "VI": ("USVI", "United States Virgin Islands"),
    "VN": ("Socialist Republic of Vietnam",),
    "YE": ("Yemen, Rep.",),
    "ZA": ("RSA",),
}
"""Alpha-2 to spellings that neither ISO nor the CLDR has, as address lists and company registers write them."""

DROPPED = str.maketrans("", "", ".'’‘`ʻʼ")


class Country(NamedTuple):
    """One country, in each form that the step can write."""

    alpha_2: str
    alpha_3: str
    name: str


def fold(text: str) -> str:
    """The form in which spellings are compared: no case, accents, dots or apostrophes, words parted by one space.

    An opening `the` is left out, `&` is read as `and`, `st` as `saint`.
    """
    for _ in range(2):  # folding case can bring out letters that decompose further
        text = unicodedata.normalize("NFKD", text.casefold())
    text = text.translate(DROPPED).replace("&", " and ")
    # Only the accents of Latin, Greek and Cyrillic go: in Hindi or Thai a combining mark is a vowel.
    text = "".join(_folded(character) for character in text)
    words = ["saint" if word == "st" else word for word in text.split()]
    return " ".join(words[1:] if words[:1] == ["the"] else words)


def _folded(character: str) -> str:
    if "\u0300" <= character <= "\u036f":
        return ""
    return character if character.isalnum() or unicodedata.category(character)[0] == "M" else " "


@cache
def codes() -> dict[str, Country]:
    """Alpha-2, alpha-3 and numeric codes, in capitals, to their countries; XK (Kosovo, user-assigned) included."""
    english = Locale("en").territories
    by_code: dict[str, Country] = {}
    for entry in iso3166.countries:
        country = Country(entry.alpha2, entry.alpha3, english[entry.alpha2])
        by_code |= {entry.alpha2: country, entry.alpha3: country}
        if entry.alpha2 != "XK":
            by_code[entry.numeric] = country
    return by_code


@cache
def names() -> dict[str, Country]:
    """Folded names to their countries. A name that belongs to two, or is one of `AMBIGUOUS`, is not in it."""
    by_code = codes()
    found: dict[str, set[Country]] = {}
    for code, spelling in _spellings():
        if code in by_code:
            found.setdefault(fold(spelling), set()).add(by_code[code])
    return {key: next(iter(of)) for key, of in found.items() if len(of) == 1 and key not in AMBIGUOUS}


def _spellings() -> Iterator[tuple[str, str]]:
    """Each known spelling after its alpha-2 code; some codes are the CLDR's own and no country's."""
    for entry in iso3166.countries:
        inverted = " ".join(reversed(entry.name.split(", ", 1)))
        yield from ((entry.alpha2, name) for name in (entry.name, entry.apolitical_name, inverted))
    for code, name in Locale("en").territories.items():
        yield from ((code, name), (code, f"{name}, The"))
        for form in LONG_FORMS:
            yield from ((code, form.format(name)), (code, form.format(f"the {name}")))
            yield from ((code, f"{name}, {form.format('')}"), (code, f"{name}, {form.format('the')}"))
    for language in LANGUAGES:
        for code, name in Locale.parse(language).territories.items():
            # Two or three letters are a code to most readers: Vietnamese "Áo" is Austria, and AO is Angola. The two
            # halves of Saint Martin are not told apart in every language.
            if not (len(name) <= 3 and fold(name).isascii()) and code not in {"MF", "SX"}:
                yield code, name
    for code, spellings in ALIASES.items():
        yield from ((code, spelling) for spelling in spellings)
