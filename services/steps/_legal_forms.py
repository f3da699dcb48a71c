"""The legal forms that may end a company's name: cleanco's terms, and a table of what those lack."""

import re
import unicodedata
from functools import lru_cache
from typing import Final

from cleanco import prepare_default_terms

# What cleanco 2.3 has not, as companies write it at the end of their name. Sources: the companies acts' own names for
# the forms (ISO 20275 lists them by country).
MORE_TERMS: Final = (
    "ad", "aktiebolag", "aktiengesellschaft", "aktieselskab", "and co", "and company", "anonim sirketi",
    "anonim sti", "anpartsselskab", "as", "berhad", "besloten vennootschap", "cjsc", "co kg", "company limited",
    "doo", "ek", "eireli", "ev", "fz llc", "fzco", "fze", "fzllc", "gesellschaft mit beschrankter haftung", "gmbh",
    "gmbh co kg", "gmbh co kgaa", "godo kaisha", "haftungsbeschrankt", "jsc", "kabushiki kaisha", "kk",
    "kommanditgesellschaft", "ksc", "limited company", "limited liability company", "limited sirketi", "ltda",
    "ltd sti", "ltee", "mbh", "naamloze vennootschap", "ojsc", "osakeyhtio", "pjsc", "private limited",
    "proprietary limited", "psc", "publ", "pte limited", "pte ltd", "public company limited", "public limited company",
    "pvt", "pvt limited", "pvt ltd", "qpsc", "s de rl de cv", "sa de cv", "sab de cv", "sapi de cv", "sas", "sc", "se",
    "sociedad anonima", "sociedad limitada", "sociedade anonima", "societa per azioni", "societas europaea",
    "societe anonyme", "spa", "spk", "sp z oo", "tas", "tbk", "ug", "unipessoal lda", "vvag", "wll",
    "ао", "зао", "оао", "ооо", "пао", "тов",
)  # fmt: skip

# Forms of cleanco's that are words or names first: Da, the Dutch "nl", an era's "private". Not taken off at all.
WORDS: Final = frozenset(
    {
        "aj", "ay", "da", "dat", "ee", "mb", "nl",
        "oe", "og", "pp", "private", "sal", "sd", "ses", "stg", "teo", "vat", "xk", "zat",
    }
)  # fmt: skip

# Forms that a name of mixed case ends in only when written as such (AS, A/S, S.E.): they are words too (Sa, As, Se).
CAPITALS_ONLY: Final = frozenset({"ad", "ae", "as", "ek", "ev", "hb", "ks", "kt", "pt", "sa", "sc", "se", "tas"})

# Scripts without spaces: the form stands right after the name. NFKC has made the sign ㈱ of (株).
UNSPACED: Final = (
    "株式会社", "有限会社", "合同会社", "合資会社", "(株)", "(有)", "股份有限公司", "有限责任公司",
    "有限責任公司", "有限公司", "주식회사", "유한회사", "(주)",
)  # fmt: skip

# Forms that are written in brackets; what else stands there (a country, a remark) belongs to the name.
BRACKETED: Final = frozenset({"haftungsbeschrankt", "publ"})

# What a name does not end in: The Company, Bank of Co.
UNFINISHED: Final = frozenset({"the", "of", "and", "for", "de", "der", "la", "le"})

_PUNCTUATION = re.compile(r"[^\w/&+]+")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")
_TRAILING = re.compile(r"[\s,;:&+/\\|–—-]+$")


def folded(text: str) -> str:
    """Without regard to case, accents and punctuation: what terms are compared by."""
    if text.isascii():
        return _PUNCTUATION.sub("", text.lower()).replace("/", "")
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return _PUNCTUATION.sub("", "".join(c for c in decomposed if not unicodedata.combining(c))).replace("/", "")


def _terms() -> frozenset[tuple[str, ...]]:
    own = (tuple(term.split()) for term in MORE_TERMS)
    theirs = (tuple(filter(None, map(folded, parts))) for _, parts in prepare_default_terms())
    return frozenset(term for term in (*own, *theirs) if term and not (len(term) == 1 and term[0] in WORDS))


TERMS: Final = _terms()
_LONGEST: Final = max(map(len, TERMS))


def without_legal_form(name: str) -> str:
    """The name without the legal forms that end it (`Müller GmbH & Co. KG` is `Müller`), and never nothing.

    `name` has single spaces between its words. Only what ends the name is looked at: in SAS Institute, SAS is a name.
    """
    mixed = not (name.isupper() or name.islower())
    while True:
        shorter = _TRAILING.sub("", _once(name, mixed=mixed))
        unfinished = shorter.rpartition(" ")[2].casefold() in UNFINISHED
        if shorter == name or unfinished or not any(character.isalnum() for character in shorter):
            return name
        name = shorter


def _once(name: str, *, mixed: bool) -> str:
    """The name without the one form that ends it, the longest that does."""
    for form in UNSPACED:
        if name.endswith(form):
            return name.removesuffix(form)
    words = name.split(" ")
    keys = [_key(word) for word in words]
    for size in range(min(len(words) - 1, 2 * _LONGEST), 0, -1):
        if keys[-size] and _is_form(keys[-size:], words[-size:], mixed=mixed):
            return " ".join(words[:-size])
    return name


@lru_cache(maxsize=4096)  # a few words end most names
def _key(word: str) -> str:
    """What a word is compared by; nothing for a lone sign, as in "GmbH & Co. KG", which is no word of a term."""
    key = folded(word).replace("&", "").replace("+", "")
    # A key with a bracket in it is no term's.
    return "(" + key if ("(" in word or ")" in word) and key not in BRACKETED else key


def _is_form(keys: list[str], words: list[str], *, mixed: bool) -> bool:
    term = tuple(filter(None, keys))
    if len(term) > 1 and all(_INITIALS.fullmatch(word.rstrip(",")) for word in words):
        term = ("".join(term),)  # S. A. is S.A.
    if term not in TERMS:
        return False
    if mixed and len(term) == 1 and term[0] in CAPITALS_ONLY:
        written = "".join(words)
        return "." in written or "/" in written or written.rstrip(",").isupper()
    return True
