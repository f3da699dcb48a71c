"""Collects the cases that others wrote into `data/*.json`: inputs and what their authors expect of them, nothing else.

Run it again when a library is upgraded, over the unpacked source distributions of the four packages:

    pip download --no-binary :all: --no-deps -d SDISTS phonenumbers==… email-validator==… publicsuffixlist==… \
        nameparser==…   # then unpack them there
    python tests/conformance/collect.py SDISTS

It imports their test modules, so trust them first. Each file names its source, version and licence.
"""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

DATA = Path(__file__).parent / "data"

# Runs in the source distribution's own folder: its tests exchange the numbering plans for ones made up for tests.
RECORD_PHONES = """
import json, sys, unittest
sys.path.insert(0, ".")
import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType

examples = []
for region in sorted(phonenumbers.SUPPORTED_REGIONS):
    for kind in PhoneNumberType.values():
        number = phonenumbers.example_number_for_type(region, kind)
        if number is not None:
            national = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
            e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
            examples.append({"text": national, "region": region, "e164": e164})
    number = phonenumbers.invalid_example_number(region)
    if number is not None:
        e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
        examples.append({"text": e164, "region": region, "e164": None})

parsed = []
parse = phonenumbers.parse
def recording(number, region=None, *more, **options):
    case = {"text": number, "region": region}
    try:
        found = parse(number, region, *more, **options)
    except phonenumbers.NumberParseException as error:
        parsed.append({**case, "error": error.error_type})
        raise
    parsed.append({**case, "e164": phonenumbers.format_number(found, PhoneNumberFormat.E164)})
    return found
phonenumbers.parse = recording
from tests.phonenumberutiltest import PhoneNumberUtilTest
names = unittest.TestLoader().getTestCaseNames(PhoneNumberUtilTest)
names = [name for name in names if name.startswith(("testParse", "testFailedParse"))]
result = unittest.TextTestRunner(stream=sys.stderr).run(unittest.TestSuite(map(PhoneNumberUtilTest, names)))
assert result.wasSuccessful() and result.testsRun == len(names)
json.dump({"examples": examples, "parsed": parsed}, sys.stdout)
"""


def main(sdists: Path) -> None:
    """Write the data files from the unpacked source distributions in a folder."""
    folders = {name: _only(sdists.glob(f"{name}-*/")) for name in ("email_validator", "nameparser", "phonenumbers")}
    suffixes = _only(sdists.glob("publicsuffixlist-*/"))
    _write("email_validator", folders["email_validator"], "Unlicense", _emails(folders["email_validator"]))
    _write("publicsuffixlist", suffixes, "CC0-1.0 (the Public Suffix List's own test data)", _suffixes(suffixes))
    _write("nameparser", folders["nameparser"], "LGPL", _names(folders["nameparser"]))
    _write("phonenumbers", folders["phonenumbers"], "Apache-2.0", _phones(folders["phonenumbers"]))


def _emails(folder: Path) -> dict[str, list[Any]]:
    """By test: the address, and its normal form where the test has one."""
    tests = _module(folder / "tests" / "test_syntax.py")
    groups: dict[str, list[Any]] = {}
    for name in ("test_email_valid", "test_email_valid_intl_local_part"):
        groups[name] = [
            {"text": text, "normalized": found.normalized, "display_name": getattr(found, "display_name", None)}
            for text, found in _parameters(tests, name)
        ]
    for name in (
        "test_email_valid_only_if_quoted_local_part",
        "test_email_invalid_syntax",
        "test_email_invalid_syntax_display_name",
        "test_email_invalid_reserved_domain",
        "test_email_invalid_character_smtputf8_off",
    ):
        rows = _parameters(tests, name)
        groups[name] = [{"text": row if isinstance(row, str) else row[0]} for row in rows]
    # The tests put these before and after the sign of an address under `.test`, with an option that ours has not.
    unsafe = [row[0] for row in _parameters(tests, "test_email_unsafe_character")]
    groups["test_email_unsafe_character"] = [
        {"text": text} for part in unsafe for text in (f"{part}@example.com", f"test@{part}.example.com")
    ]
    groups["test_pyisemail_tests"] = [
        {"text": text, "status": status} for text, status in _parameters(tests, "test_pyisemail_tests")
    ]
    return groups


def _suffixes(folder: Path) -> dict[str, list[Any]]:
    text = (folder / "publicsuffixlist" / "test_psl.txt").read_text(encoding="utf-8")
    found = re.findall(r"^checkPublicSuffix\((null|'[^']*'), (null|'[^']*')\);", text, re.MULTILINE)
    plain = [[None if value == "null" else value.strip("'") for value in row] for row in found]
    return {"checkPublicSuffix": [{"host": host, "domain": domain} for host, domain in plain]}


def _names(folder: Path) -> dict[str, list[Any]]:
    """Those rows of the case table that ask for no more than an order of names."""
    cases = _module(folder / "tests" / "v2" / "cases.py").CASES
    from nameparser import FAMILY_FIRST, FAMILY_FIRST_GIVEN_LAST, Policy

    orders = {
        None: "given_first",
        Policy(name_order=FAMILY_FIRST): "family_first",
        Policy(name_order=FAMILY_FIRST_GIVEN_LAST): "family_first_given_last",
    }
    rows = [
        {"id": case.id, "text": case.text, "order": orders[case.policy], "expect": case.expect}
        for case in cases
        if case.locale is None and case.policy in orders
    ]
    print(f"nameparser: {len(rows)} of {len(cases)} cases; the rest set options that the step has not")
    return {"cases": rows}


def _phones(folder: Path) -> dict[str, list[Any]]:
    script = [sys.executable, "-c", RECORD_PHONES]
    done = subprocess.run(script, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    groups: dict[str, list[Any]] = json.loads(done.stdout)
    return {name: list({json.dumps(row): row for row in rows}.values()) for name, rows in groups.items()}


def _parameters(module: ModuleType, test: str) -> list[Any]:
    """What a test of pytest's is parametrised with."""
    rows: list[Any] = getattr(module, test).pytestmark[0].args[1]
    return rows


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"collected_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _only(paths: Iterable[Path]) -> Path:
    (path,) = paths
    return path


def _write(name: str, folder: Path, licence: str, groups: dict[str, list[Any]]) -> None:
    head = {
        "source": f"{folder.name}.tar.gz on PyPI",
        "licence": licence,
        "note": "facts: inputs and expected outcomes",
    }
    # A case a line, so that an upgrade's diff can be read.
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for group, rows in groups.items():
        parts.append(f"{json.dumps(group)}: [\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")
    (DATA / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
