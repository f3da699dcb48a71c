"""derive and filter: what CEL gives, what it may read, and that no expression stalls or blows up a worker."""

import json
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError

from services.steps._cel import fields_read
from services.steps.base import Reject, StepError
from services.steps.derive import derive
from services.steps.filter import filter as filter_

ROW = {"n": 7, "x": 1.5, "s": "Ann", "l": [1, 2, 3], "o": {"k": "v"}, "Company Name": "Acme", "none": None}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("row.n + 1", 8),
        ("row.x * 2.0", 3.0),
        ("row.n > 1.5", True),
        ("row.s.lowerAscii() + '!'", "ann!"),
        ("row['Company Name'].size()", 4),
        ("row.l.map(i, i * 2)", [2, 4, 6]),
        ("row.l.filter(i, i > 1).size()", 2),
        ("row.o.k", "v"),
        ("has(row.zz) ? row.zz : 'none'", "none"),
        ("row.none == null", True),
        ("{'a': row.n, 'b': [row.s]}", {"a": 7, "b": ["Ann"]}),
        ("timestamp('2024-05-01T10:00:00+02:00')", "2024-05-01T08:00:00Z"),
        ("duration('90s')", 90.0),
        ("'é😀'.size()", 2),
        ("[3, 1, 2].join === 1", None),
    ],
)
def test_values_are_those_of_json(expression, value):
    if value is None:
        with pytest.raises(ValidationError, match="not valid"):
            derive.execute([ROW], {"fields": {"out": expression}})
        return
    assert derive.execute([ROW], {"fields": {"out": expression}}).records == [{**ROW, "out": value}]


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("row.s + 1", "expression_error"),
        ("1 / (row.n - 7)", "expression_error"),
        ("row.n + 9223372036854775807", "expression_error"),
        ("int(row.s)", "expression_error"),
        ("b'abc'", "not_json"),
        ("1.0 / 0.0", "not_json"),
        ("type(row.n)", "not_json"),
        ("{1: 2}", "not_json"),
        ("row.l.map(a, row.l.map(b, row.l.map(c, 1)))[0][0][9]", "expression_error"),
    ],
)
def test_what_has_no_value_is_a_fault(expression, code):
    config = {"fields": {"out": expression}, "on_error": "reject"}
    output = derive.execute([ROW], config)
    assert (output.records, output.rejects) == ([], [Reject(0, "out", code, None)])
    assert derive.execute([ROW], config | {"on_error": "null"}).records == [{**ROW, "out": None}]
    with pytest.raises(StepError) as caught:
        derive.execute([ROW], config | {"on_error": "fail"})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("row.", "1:5"),
        ("undeclared + 1", "undeclared"),
        ("1 + 'a'", "overload"),
        ("'" + "a" * 3000 + "'", "2000 characters"),
        ("row.s" + ".replace('a','bb')" * 4, "more than 3 calls"),
        ("(" * 100 + "1" + ")" * 100, "recursion"),
    ],
)
def test_an_expression_that_is_not_valid_is_an_error_of_the_config(expression, says):
    with pytest.raises(ValidationError, match=says):
        derive.execute([ROW], {"fields": {"out": expression}})


def test_filter_wants_true_or_false():
    with pytest.raises(ValidationError, match="true or false"):
        filter_.execute([ROW], {"keep": "1 + 1"})
    output = filter_.execute([ROW, {**ROW, "n": True}], {"keep": "row.n", "on_error": "reject"})
    assert (output.rows, output.rejects) == ([1], [Reject(0, None, "not_boolean", None)])


def test_a_field_that_no_row_has_is_told_with_those_there_are():
    with pytest.raises(StepError, match=r"'city'.*Company Name"):
        filter_.execute([ROW], {"keep": "row.city == 'Bonn'"})
    assert fields_read("""row.a + row['b c'] + row["d"] + (has(row.e) ? row.e : '')""") == ["a", "b c", "d"]


def test_a_long_text_is_not_read():
    output = derive.execute([{"s": "x" * 70_000}], {"fields": {"out": "row.s"}, "on_error": "reject"})
    assert output.rejects == [Reject(0, "out", "value_too_long", None)]


ATTACKS = [
    "row.l.map(a, row.l.map(b, row.l.map(c, a + b + c)))",
    "row.s.replace('', row.s).replace('', row.s).replace('', row.s)",
    "[row.s].map(a, a + a + a + a + a + a + a + a).map(a, a + a + a + a + a + a + a).map(a, a + a + a + a + a + a)",
    "row.l.map(a, row.l).map(a, [a, a, a, a, a, a, a, a]).map(a, [a, a, a, a, a, a, a, a])",
    "row.s.matches('(a+)+(b+)+(a*)*$')",
]


@pytest.mark.parametrize("expression", ATTACKS)
def test_no_expression_blows_up_or_stalls_a_step_process(expression):
    """In a process with the limits that a step process has: it ends in time, with a result or a failure."""
    request = {"records": [{"s": "ab" * 30_000, "l": list(range(500))}], "fields": {"out": expression}}
    code = (
        "import json, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "from services.steps.derive import derive\n"
        "request = json.load(sys.stdin)\n"
        "out = derive.execute(request['records'], {'fields': request['fields'], 'on_error': 'reject'})\n"
        "print(len(out.records), len(out.rejects))\n"
    )
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(request), text=True, capture_output=True, timeout=60
    )
    assert time.monotonic() - began_s < 50
    assert done.returncode != 0 or done.stdout.split() in (["1", "0"], ["0", "1"])
