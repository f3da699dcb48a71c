"""extract_domain on the Public Suffix List's own test data, as publicsuffixlist carries it."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from services.steps.extract_domain import extract_domain

CASES = json.loads((Path(__file__).parent / "data" / "publicsuffixlist.json").read_text(encoding="utf-8"))

# The data take a top-level domain that is not on the list for a suffix; the step says that it does not know it.
DIFFERENT = {
    "example.example": "unknown_suffix",
    "b.example.example": "unknown_suffix",
    "a.b.example.example": "unknown_suffix",
}


def answer(host: str | None) -> Any:
    """The domain, or the fault's code."""
    config = {"url_fields": ["host"], "private_suffixes": True, "on_error": "reject"}
    output = extract_domain.execute([{"host": host}], config)
    return output.rejects[0].code if output.rejects else output.records[0]["domain"]


def test_the_data_are_of_the_version_that_runs() -> None:
    assert CASES["source"] == f"publicsuffixlist-{version('publicsuffixlist')}.tar.gz on PyPI"


def test_the_lists_cases() -> None:
    different = {}
    for case in CASES["checkPublicSuffix"]:
        found = answer(case["host"])
        if case["domain"] is not None:
            agreed = found == case["domain"].encode("idna").decode("ascii")  # the step writes A-labels
        else:
            agreed = found in (None, "public_suffix", "unknown_suffix", "invalid_url")
        if not agreed:
            different[case["host"]] = found
    assert different == DIFFERENT
    assert len(CASES["checkPublicSuffix"]) == 78
