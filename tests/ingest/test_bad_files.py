"""Files that are not what they seem, and files made to do harm: a clear error, in bounded memory."""

import gzip
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import pytest

from services.ingest.config import ReadFileConfig
from services.ingest.step import READ_FILE, read_file
from services.steps.base import NO_CONTEXT, Source, StepError
from tests.ingest.support import read


def code_of(data: bytes, **config) -> str:
    with pytest.raises(StepError) as caught:
        read(data, **config)
    assert not caught.value.retryable
    return caught.value.code


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("data.csv", "a,b\n")
    return out.getvalue()


@pytest.mark.parametrize(
    "data,code",
    [
        (b"", "empty_file"),
        (b"\xef\xbb\xbf", "empty_file"),
        (b"\n\r\n \n", "empty_file"),
        (gzip.compress(b"", mtime=0), "empty_file"),
        (b"%PDF-1.7 ...", "unsupported_format"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1....", "unsupported_format"),
        (zipped(), "unsupported_format"),
        (gzip.compress(gzip.compress(b"a,b\n", mtime=0), mtime=0), "unsupported_format"),
        (bytes(range(32)) * 100, "not_text"),
        ("a,b\n".encode("utf-32"), "unsupported_encoding"),
    ],
)
def test_what_is_no_table(data: bytes, code: str) -> None:
    assert code_of(data) == code


@pytest.mark.parametrize(
    "data,config,code",
    [
        (b"a,b\n1,2\n", {"format": "parquet"}, "format_mismatch"),
        (b"a,b\n1,2\n", {"format": "xlsx"}, "format_mismatch"),
        (b"a,b\n1,2\n", {"format": "jsonl"}, "format_mismatch"),
        (b'{"a":1}\n', {"format": "csv"}, "format_mismatch"),
        (zipped(), {"format": "csv"}, "format_mismatch"),
        (b"a,b\n", {"compression": "gzip"}, "compression_mismatch"),
        (gzip.compress(b"a,b\n", mtime=0), {"compression": "zstd"}, "compression_mismatch"),
        (gzip.compress(b"a,b\n", mtime=0), {"compression": "none"}, "compression_mismatch"),
        ("a,b\n".encode("utf-16"), {"encoding": "utf-8"}, "encoding_mismatch"),
    ],
)
def test_what_was_declared_wrongly(data: bytes, config: dict[str, str], code: str) -> None:
    assert code_of(data, **config) == code


def test_too_many_columns_and_bytes() -> None:
    assert code_of(b"a," * 3000 + b"b\n", delimiter=",") == "too_many_columns"
    assert code_of(b"a,b\n" * 1000, max_bytes=100) == "file_too_large"


def test_what_the_store_raises_comes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield gzip.compress(b"a,b\n" * 100_000)[:100]
        raise ConnectionError("lost")

    with pytest.raises(ConnectionError, match="lost"):
        list(read_file(broken(), ReadFileConfig()))


def test_the_step_reads_what_it_is_given() -> None:
    assert isinstance(READ_FILE.body, Source)
    assert READ_FILE.kind == "source"
    found = list(READ_FILE.body.function(iter([b"a\n1\n"]), ReadFileConfig(), NO_CONTEXT))
    assert found[0].frame.records() == [{"a": "1"}]
    with pytest.raises(StepError) as caught:
        READ_FILE.execute([], {})
    assert caught.value.code == "needs_file"
    schema = READ_FILE.config_schema()
    assert [name for name, field in schema["properties"].items() if not field.get("description")] == []
    for example in schema["examples"]:
        ReadFileConfig.model_validate(example)


PROGRAM = """
import resource, sys, zlib, itertools
from services.ingest.config import ReadFileConfig
from services.ingest.step import read_file
from services.steps.base import StepError
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
MIB = 1 << 20
def packed(blocks):
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    for block in blocks:
        if data := pack.compress(block):
            yield data
    yield pack.flush()
CASES = {
    "line": itertools.chain([b"a,b\\n1,2\\n"], itertools.repeat(b"x" * MIB, 5_000), [b"\\n3,4\\n"]),
    "quoted": itertools.chain([b'a,b\\n1,2\\n"'], itertools.repeat(b"x" * MIB, 2_000), [b'"\\n3,4\\n']),
    "json": itertools.chain([b'{"a":1}\\n{"a":"'], itertools.repeat(b"x" * MIB, 2_000), [b'"}\\n{"a":2}\\n']),
    "bomb": packed(itertools.chain([b"a,b\\n"], itertools.repeat(b"0,0\\n" * (MIB // 4), 2_000))),
    "quotes": itertools.chain([b"a,b\\n"], itertools.repeat(b'x","y\\n' * 100_000, 20)),
    "rows": itertools.chain([b"a,b\\n"], itertools.repeat(b"1,2\\n" * (MIB // 4), 40)),
}
rows, rejects = 0, []
try:
    for result in read_file(CASES[sys.argv[1]], ReadFileConfig()):
        rows += len(result.frame)
        rejects += [(reject.row, reject.code, len(reject.value)) for reject in result.rejects][:5]
    print(rows, rejects)
except StepError as error:
    print(error.code)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # ru_maxrss counts the parent's
print(peak // 1024)
"""


@pytest.mark.parametrize(
    "case,expected",
    [
        ("line", "2 [(3, 'record_too_long', 1000)]"),
        ("quoted", "2 [(3, 'field_too_long', 1000)]"),
        ("json", "2 [(2, 'record_too_long', 1000)]"),
        ("bomb", "unpacks_too_large"),
        ("quotes", "too_many_bad_quotes"),
        ("rows", "10485760 []"),
    ],
)
def test_memory_is_bounded(case: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
    outcome, peak_mib = done.stdout.splitlines()
    assert outcome == expected
    assert int(peak_mib) < 400
