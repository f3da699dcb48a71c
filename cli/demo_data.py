"""The demo's data: companies of the world's stock indices, as the MIT-licensed package pytickersymbols has them.

They are as messy as real exports are: the country is sometimes a city with its state, websites are missing or bare,
names carry stray blanks, and companies that are in several indices come more than once.
"""

from typing import Any

from pytickersymbols import PyTickerSymbols

BLUEPRINT: list[dict[str, Any]] = [
    {
        "key": "map_fields",
        "config": {
            "mappings": {"company_name": "name", "country_raw": "country", "website": "website", "ticker": "symbol"},
            "drop_unmapped": False,
        },
    },
    {"key": "normalize_text", "config": {"fields": ["company_name"], "null_tokens": ["N/A", "-"]}},
    {
        "key": "extract_domain",
        "config": {"url_fields": ["website"], "output_field": "domain", "on_error": "reject"},
    },
    {
        "key": "normalize_country",
        "config": {"field": "country_raw", "output_field": "country_code", "output": "alpha-2"},
    },
    {
        "key": "deduplicate",
        "config": {"keys": [["domain"], ["ticker"]], "keep": "most_complete", "count_field": "listings"},
    },
]


def companies() -> list[dict[str, Any]]:
    """Every listed company that has a name: name, symbol, country, website, employees, headquarters."""
    rows = []
    for stock in PyTickerSymbols().get_all_stocks():
        about = stock.get("metadata") or {}
        rows.append(
            {
                "name": stock.get("name"),
                "symbol": stock.get("symbol"),
                "country": stock.get("country"),
                "website": about.get("website"),
                "employees": about.get("employees"),
                "headquarters": about.get("headquarters"),
            }
        )
    return rows
