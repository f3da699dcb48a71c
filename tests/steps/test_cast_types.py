"""cast_types: numbers as people write them, explicit formats and zones, and what becomes of everything else."""

import locale
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps._times import parser_of
from services.steps.base import Reject, StepError
from services.steps.cast_types import cast_types


def cast(value: Any, to: str, **how: Any) -> Any:
    """The value that comes out; or a fault's code, marked."""
    config = {"casts": [{"field": "v", "to": to, **how}], "on_error": "reject"}
    output = cast_types.execute([{"v": value}], config)
    return f"! {output.rejects[0].code}" if output.rejects else output.records[0]["v"]


@pytest.mark.parametrize(
    "value, how, expected",
    [
        ("42", {}, 42),
        (" -7 ", {}, -7),
        ("+7", {}, 7),
        ("\u22127", {}, -7),
        (7, {}, 7),
        (7.0, {}, 7),
        ("7.00", {}, 7),
        ("7.", {}, 7),
        ("1e3", {}, 1000),
        ("9007199254740993", {}, 9007199254740993),
        ("9223372036854775807", {}, 2**63 - 1),
        ("9223372036854775808", {}, "! out_of_range"),
        ("1e300", {}, "! out_of_range"),
        ("1e-300", {}, "! not_an_integer"),
        ("7.5", {}, "! not_an_integer"),
        (0.5, {}, "! not_an_integer"),
        ("", {}, None),
        ("  ", {}, None),
        (None, {}, None),
        ("seven", {}, "! not_a_number"),
        ("٧", {}, "! not_a_number"),
        ("1_000", {}, "! not_a_number"),
        ("0x10", {}, "! not_a_number"),
        ("NaN", {}, "! not_a_number"),
        (True, {}, "! not_a_number"),
        ([1], {}, "! not_scalar"),
        ("1,234,567", {"thousands_mark": ","}, 1234567),
        ("1234567", {"thousands_mark": ","}, 1234567),
        ("12,34,567", {"thousands_mark": ","}, "! not_a_number"),
        ("1,23", {"thousands_mark": ","}, "! not_a_number"),
        ("1 234\u202f567\u00a0890", {"thousands_mark": " "}, 1234567890),
        ("1'000", {"thousands_mark": "'"}, 1000),
        ("1.000", {"thousands_mark": ".", "decimal_mark": ","}, 1000),
        ("$1,200", {"thousands_mark": ",", "strip": ["$"]}, 1200),
        ("-$5", {"strip": ["$"]}, -5),
        ("5 USD", {"strip": ["USD"]}, 5),
        ("$", {"strip": ["$"]}, "! not_a_number"),
        ("9" * 101, {}, "! out_of_range"),
        ("9" * 1001, {}, "! too_long"),
    ],
)
def test_integers(value: Any, how: dict[str, Any], expected: Any) -> None:
    found = cast(value, "integer", **how)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "value, how, expected",
    [
        ("1.5", {}, 1.5),
        (".5", {}, 0.5),
        ("1.234,5", {"decimal_mark": ",", "thousands_mark": "."}, 1234.5),
        (3, {}, 3.0),
        ("1e400", {}, "! out_of_range"),
        ("-0", {}, 0.0),
        (float("inf"), {}, "! out_of_range"),
        (float("nan"), {}, "! out_of_range"),
        ("12 %", {"strip": ["%"]}, 12.0),
    ],
)
def test_numbers(value: Any, how: dict[str, Any], expected: Any) -> None:
    found = cast(value, "number", **how)
    assert (str(found), type(found)) == (str(expected), type(expected))


@pytest.mark.parametrize(
    "value, how, expected",
    [
        ("12.5", {}, "12.50"),
        (12, {}, "12.00"),
        (0.1, {"scale": 3}, "0.100"),
        (2.675, {}, "2.68"),
        ("2.665", {}, "2.66"),
        ("2.665", {"rounding": "half_up"}, "2.67"),
        ("2.665", {"rounding": "refuse"}, "! too_many_places"),
        ("2.660", {"rounding": "refuse"}, "2.66"),
        ("-0.001", {}, "0.00"),
        ("1e5", {"scale": 0}, "100000"),
        (1e22, {"scale": 0}, "1" + "0" * 22),
        ("1e200", {}, "! out_of_range"),
        ("99999999999999999999999999999999.995", {"rounding": "half_up"}, "100000000000000000000000000000000.00"),
    ],
)
def test_decimals_are_exact(value: Any, how: dict[str, Any], expected: str) -> None:
    assert cast(value, "decimal", **how) == expected


def test_booleans_by_tokens() -> None:
    found = [cast(value, "boolean") for value in ("Yes", " FALSE ", 1, 0, True, "ja", 2, 1.0, "")]
    assert found == [True, False, True, False, True, "! not_a_boolean", "! not_a_boolean", "! not_a_boolean", None]
    assert cast("oui", "boolean", true_tokens=["OUI"], false_tokens=["non"]) is True
    assert cast("yes", "boolean", true_tokens=["oui"], false_tokens=["non"]) == "! not_a_boolean"


@pytest.mark.parametrize(
    "value, formats, expected",
    [
        ("2026-03-01", [], "2026-03-01"),
        ("2026-02-30", [], "! no_format_fits"),
        ("2024-02-29", [], "2024-02-29"),
        ("01/02/2026", ["%d/%m/%Y", "%m/%d/%Y"], "2026-02-01"),
        ("01/02/2026", ["%m/%d/%Y", "%d/%m/%Y"], "2026-01-02"),
        ("12/31/2026", ["%d/%m/%Y", "%m/%d/%Y"], "2026-12-31"),
        ("1/2/26", ["%d/%m/%y"], "2026-02-01"),
        ("1/2/69", ["%d/%m/%y"], "1969-02-01"),
        ("1/2/68", ["%d/%m/%y"], "2068-02-01"),
        ("mar 3, 2026", ["%b %d, %Y"], "2026-03-03"),
        ("3 SEPTEMBER 2026", ["%d %B %Y"], "2026-09-03"),
        ("20260301", ["%Y%m%d"], "2026-03-01"),
        ("2026-03-01T23:59:59-05:00", ["%Y-%m-%dT%H:%M:%S%z"], "2026-03-01"),
        (46082, ["excel"], "2026-03-01"),
        ("46082.75", ["excel"], "2026-03-01"),
        (1772323200, ["unix"], "2026-03-01"),
        (1772323200000, ["unix_ms"], "2026-03-01"),
        ("100%1/2/2026", ["100%%%d/%m/%Y"], "2026-02-01"),
        (True, ["excel"], "! no_format_fits"),
        ("٢٠٢٦-03-01", [], "! no_format_fits"),
        ("0000-01-01", [], "! no_format_fits"),
        (10**14, ["excel"], "! no_format_fits"),
        (1e300, ["excel"], "! no_format_fits"),
    ],
)
def test_dates(value: Any, formats: list[str], expected: str) -> None:
    assert cast(value, "date", formats=formats) == expected


@pytest.mark.parametrize(
    "value, how, expected",
    [
        ("2026-07-01T09:30:00Z", {}, "2026-07-01T09:30:00Z"),
        ("2026-07-01 09:30+0200", {}, "2026-07-01T07:30:00Z"),
        ("2026-07-01T09:30:00.123456789Z", {}, "2026-07-01T09:30:00.123456Z"),
        ("2026-07-01T09:30", {}, "! no_time_zone"),
        ("2026-07-01T09:30", {"time_zone": "Europe/Berlin"}, "2026-07-01T07:30:00Z"),
        ("2026-01-01T09:30", {"time_zone": "Europe/Berlin"}, "2026-01-01T08:30:00Z"),
        # the clocks go forward at 2 and back at 3
        ("2026-03-29T02:30", {"time_zone": "Europe/Berlin"}, "! no_such_time"),
        ("2026-10-25T02:30", {"time_zone": "Europe/Berlin"}, "2026-10-25T00:30:00Z"),
        ("12/31/2026 11:05 PM", {"formats": ["%m/%d/%Y %I:%M %p"], "time_zone": "UTC"}, "2026-12-31T23:05:00Z"),
        ("12/31/2026 12:05 a.m.", {"formats": ["%m/%d/%Y %I:%M %p"], "time_zone": "UTC"}, "2026-12-31T00:05:00Z"),
        (46082.75, {"formats": ["excel"], "time_zone": "UTC"}, "2026-03-01T18:00:00Z"),
        (1772323200123, {"formats": ["unix_ms"]}, "2026-03-01T00:00:00.123000Z"),
        (-1.5, {"formats": ["unix"]}, "1969-12-31T23:59:58.500000Z"),
        ("0001-01-01T00:00+14:00", {}, "! out_of_range"),
        ("0001-01-01T00:00", {"time_zone": "Asia/Tokyo"}, "! no_such_time"),
        ("9999-12-31T23:59:59-12:00", {}, "! out_of_range"),
        ("2026-07-01T25:00Z", {}, "! no_format_fits"),
        ("2026-07-01T09:30:00+24:00", {}, "! no_format_fits"),
    ],
)
def test_times(value: Any, how: dict[str, Any], expected: str) -> None:
    assert cast(value, "datetime", **how) == expected


def test_text() -> None:
    found = [cast(value, "text") for value in (7, 1.5, True, False, "x", "", None, [1], "\ud800", float("inf"))]
    assert found == ["7", "1.5", "true", "false", "x", "", None, "! not_scalar", "! invalid_unicode", "! out_of_range"]
    assert cast("x" * 1_000_000, "text") == "x" * 1_000_000


def test_faults_say_field_and_value_and_casts_read_what_came_in() -> None:
    casts = [{"field": "a", "to": "integer"}, {"field": "a", "to": "text", "output_field": "raw"}]
    config = {"casts": casts, "on_error": "reject"}
    output = cast_types.execute([{"a": "1"}, {"a": "x"}], config)
    assert output.records == [{"a": 1, "raw": "1"}]
    assert output.rejects == [Reject(1, "a", "not_a_number", "x")]
    with pytest.raises(StepError, match="row 1, field 'a': not_a_number: 'x'"):
        cast_types.execute([{"a": "1"}, {"a": "x"}], {**config, "on_error": "fail"})
    assert cast_types.execute([{"a": "x"}], {"casts": casts}).records == [{"a": None, "raw": "x"}]


@pytest.mark.parametrize(
    "rule, message",
    [
        ({"to": "date", "formats": ["%Y-%m"]}, "needs one of %d"),
        ({"to": "date", "formats": ["%Y-%m-%d %Q"]}, "'%Q'"),
        ({"to": "date", "formats": ["%Y-%Y-%m-%d"]}, "there twice"),
        ({"to": "date", "formats": ["%y %Y %m %d"]}, "needs one of"),
        ({"to": "date", "formats": ["%Y %m %d %I"]}, "%I and %p"),
        ({"to": "date", "formats": ["%Y-%m-%d%"]}, "'%'"),
        ({"to": "integer", "formats": ["%Y"]}, "formats are for"),
        ({"to": "datetime", "time_zone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"to": "datetime", "time_zone": "../../etc/passwd"}, "no time zone"),
        ({"to": "date", "time_zone": "UTC"}, "time_zone is for"),
        ({"to": "number", "decimal_mark": ",", "thousands_mark": ","}, "the same"),
        ({"to": "boolean", "true_tokens": ["Yes"], "false_tokens": ["yes "]}, "at once: yes"),
    ],
)
def test_rules_that_cannot_work_are_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        cast_types.execute([], {"casts": [{"field": "v", **rule}]})
    with pytest.raises(ValidationError, match="same field"):
        cast_types.execute([], {"casts": [{"field": "v", "to": "text"}] * 2})


YEAR_1000, YEAR_1971, YEAR_2037 = (datetime.fromisoformat(f"{year}-01-01") for year in (1000, 1971, 2037))
FORMATS = ["%Y-%m-%d %H:%M:%S.%f", "%d/%m/%Y %I:%M:%S.%f %p", "%B %d, %Y %H:%M:%S.%f", "%d-%b-%Y %H:%M:%S.%f %z"]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.datetimes(YEAR_1000), st.sampled_from(FORMATS))
def test_formats_read_what_strftime_writes(time: datetime, form: str) -> None:
    aware = time.replace(tzinfo=ZoneInfo("UTC")) if "%z" in form else time
    assert locale.setlocale(locale.LC_TIME) in ("C", "POSIX", "en_US.UTF-8", "C.UTF-8")
    assert parser_of(form)(aware.strftime(form)) == aware


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.datetimes(YEAR_1971, YEAR_2037), st.sampled_from(["Europe/Berlin", "America/New_York"]))
def test_local_times_come_back_from_utc(time: datetime, zone: str) -> None:
    found = cast(time.isoformat(), "datetime", time_zone=zone, formats=["%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S"])
    if found == "! no_such_time":
        later = (time + timedelta(hours=1)).replace(tzinfo=ZoneInfo(zone))
        earlier = (time - timedelta(hours=1)).replace(tzinfo=ZoneInfo(zone))
        assert later.utcoffset() != earlier.utcoffset()
        return
    back = datetime.fromisoformat(found).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    assert back == time
