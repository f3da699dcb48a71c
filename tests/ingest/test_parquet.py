"""Parquet."""

import io
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.steps.base import StepError
from tests.ingest.support import read, refused, results, rows


def parquet(table: pa.Table, **options) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def test_values_that_json_has_not_become_exact_text() -> None:
    table = pa.table(
        {
            "i": pa.array([1, None], pa.int8()),
            "u": pa.array([2**64 - 1, 1], pa.uint64()),
            "f": pa.array([1.5, float("nan")]),
            "dec": pa.array([Decimal("0.00000001"), Decimal("-12.50000000")], pa.decimal128(20, 8)),
            "day": pa.array([date(2024, 2, 29), None]),
            "at": pa.array([datetime(2024, 1, 2, 3, 4, 5, 678, UTC)] * 2, pa.timestamp("us", tz="Europe/Berlin")),
            "ns": pa.array([1, 10**9], pa.timestamp("ns")),
            "bin": pa.array([b"text", "é".encode()]),
            "list": pa.array([[{"x": Decimal("1.10")}], None]),
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "dict": pa.array(["a", "a"]).dictionary_encode(),
            "nothing": pa.nulls(2),
            "b": [True, False],
        }
    )
    first, second = rows(parquet(table))
    assert first == {
        "i": 1, "u": 2**64 - 1, "f": 1.5, "dec": "0.00000001", "day": "2024-02-29", "at": "2024-01-02T03:04:05.000678Z",
        "ns": "1970-01-01T00:00:00.000000001", "bin": "text", "list": [{"x": "1.10"}], "map": [["k", 1]], "dict": "a",
        "nothing": None, "b": True,
    }  # fmt: skip
    assert (second["i"], second["f"], second["dec"], second["bin"], second["list"]) == (
        None,
        None,
        "-12.50000000",
        "é",
        None,
    )


def test_what_cannot_be_read_is_a_reject() -> None:
    table = pa.table({"f": [1.0, float("inf"), 2.0, 3.0], "b": [b"x", b"x", b"\xff", b"y"]})
    found = read(parquet(table))
    assert [(r.row, r.field, r.code, r.value) for r in found.rejects] == [
        (2, "f", "not_finite", "inf"),
        (3, "b", "undecodable", "ff"),
    ]
    assert found.frame.row_ids() == [0, 3]
    assert found.frame.records() == [{"f": 1.0, "b": "x"}, {"f": 3.0, "b": "y"}]


def test_names_and_chunks() -> None:
    table = pa.table([list(range(60_000)), ["x"] * 60_000], names=["A", "a"])
    found = results(parquet(table, row_group_size=7_000, compression="zstd"))
    assert [len(result.frame) for result in found] == [25_000, 25_000, 10_000]
    assert found[0].frame.names == ("A", "a_2")
    assert [n for result in found for n in result.frame.values("A")] == list(range(60_000))


def test_no_rows() -> None:
    found = read(parquet(pa.table({"a": pa.array([], pa.int64())})))
    assert (len(found.frame), found.frame.names) == (0, ("a",))


@pytest.mark.parametrize("keep", [4, 100, -1, -20])
def test_a_file_that_is_cut_off(keep: int) -> None:
    data = parquet(pa.table({"a": list(range(10_000))}))
    with pytest.raises(StepError) as caught:
        read(data[:keep])
    assert caught.value.code == "damaged_file"


def test_damage_inside_is_an_error_and_no_crash() -> None:
    data = bytearray(parquet(pa.table({"a": [str(n) for n in range(10_000)]}), use_dictionary=False))
    data[1000:3000] = b"\xff" * 2000
    with pytest.raises(StepError) as caught:
        read(bytes(data))
    assert caught.value.code == "damaged_file"


def test_columns_are_converted() -> None:
    found = read(parquet(pa.table({"a": [1, 2], "b": ["1", "x"]})), columns={"a": "text", "b": "integer"})
    assert found.frame.records() == [{"a": "1", "b": 1}]
    assert refused(found.rejects) == [(2, "not_integer")]


def test_uuids_are_text() -> None:
    """DuckDB and others write them by the format's own type; their bytes are no text."""
    found = uuid.UUID("0f5d4262-4123-4b57-ae74-47d777ce7657")
    table = pa.table({"id": pa.array([found.bytes, None], pa.uuid())})
    assert rows(parquet(table)) == [{"id": str(found)}, {"id": None}]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**62, pa.timestamp("ms")),
        (-(2**62), pa.timestamp("us", "UTC")),
        (2**31 - 1, pa.date32()),
    ],
)
def test_times_that_no_calendar_has_are_rejected(value: int, kind: pa.DataType) -> None:
    integers = pa.array([0, value], pa.int32() if kind == pa.date32() else pa.int64())
    found = read(parquet(pa.table({"at": integers.cast(kind)})))
    assert [record["at"][:10] for record in found.frame.records()] == ["1970-01-01"]
    assert refused(found.rejects) == [(2, "out_of_range")]
    assert str(value) in str(found.rejects[0].value)


def test_text_that_is_no_utf8_is_rejected() -> None:
    """Arrow takes a writer's word for it."""
    offsets, data = pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"ok\xff\xfe")
    table = pa.table({"x": pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])})
    found = read(parquet(table))
    assert found.frame.records() == [{"x": "ok"}]
    assert [(reject.row, reject.code, reject.value) for reject in found.rejects] == [(2, "undecodable", "fffe")]
