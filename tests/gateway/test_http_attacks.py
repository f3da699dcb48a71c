"""A real gateway process under attack on the wire: it refuses in bounded time and memory, and serves others."""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import psutil
import pytest
import pytest_asyncio

from events.settings import Settings
from tests.gateway.support import Service, World

ROOT = Path(__file__).parent.parent.parent
MIB = 1024 * 1024
HEAD_MAX, HEADERS_MAX = 64 * 1024, 100
PER_ADDRESS = 150
GROWTH_MAX_BYTES = 64 * MIB
WITHIN_S = 20


@dataclass
class Target:
    port: int
    process: psutil.Process
    client: httpx.AsyncClient

    async def serves(self, world: World) -> None:
        """It is there, and quick, for somebody else."""
        async with asyncio.timeout(5):
            answer = await self.client.post("/v1/orgs/get", json={}, headers=world.admin.headers)
        assert answer.status_code == 200


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def target(settings: Settings, database: object, nats: object) -> AsyncIterator[Target]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    short = {
        "port": port, "http_head_timeout_s": 0.5, "http_body_timeout_s": 0.5, "http_body_min_bytes_per_s": 1000.0,
        "http_send_timeout_s": 0.5, "http_connections_per_address_max": PER_ADDRESS,
    }  # fmt: skip
    environment = os.environ | settings.model_copy(update=short).as_environment()
    environment |= {f"DATA_ENGINE_{name.upper()}": str(value) for name, value in short.items()}
    command = [sys.executable, "-c", "from cli.main import app; app()", "gateway"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/health")).status_code == 200:
                        break
                await asyncio.sleep(0.05)  # a process that starts gives no signal
        yield Target(port, psutil.Process(process.pid), client)
    process.terminate()
    assert process.wait(20) == 0


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def unharmed(target: Target, world: World) -> AsyncIterator[None]:
    """After each attack the process is the same, not much larger, and serves."""
    await target.serves(world)
    before = target.process.memory_info().rss
    yield
    await target.serves(world)
    assert target.process.memory_info().rss - before < GROWTH_MAX_BYTES


async def send(target: Target, parts: Iterable[bytes]) -> bytes:
    """Send it on a connection of its own; all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    answer = b""

    async def read() -> None:
        nonlocal answer
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                answer += part

    async def write() -> None:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()

    reading, writing = asyncio.create_task(read()), asyncio.create_task(write())
    try:
        async with asyncio.timeout(WITHIN_S):
            await reading
    finally:
        writing.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)
        writer.close()
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def check_problem(answer: bytes, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x-content-type-options"] == b"nosniff"
    problem = orjson.loads(body)
    assert (problem["code"], problem["status"]) == (code, statuses(answer)[0])
    assert problem["request_id"].encode() == headers[b"x-request-id"]


POST = b"POST /v1/orgs/get HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def repeated(part: bytes, total_bytes: int) -> Iterable[bytes]:
    return (part for _ in range(total_bytes // len(part)))


HUGE = {
    "a header of 100 MB": (lambda: [POST + b"X: ", *repeated(b"a" * 65536, 100 * MIB), b"\r\n\r\n"], "head_too_large"),
    "100,000 headers": (lambda: [POST, *repeated(b"X-A: b\r\n" * 1000, 800_000), b"\r\n"], "head_too_large"),
    "a header name of 1 MB": (lambda: [POST, *repeated(b"a" * 4096, MIB)], "head_too_large"),
    "101 headers": (lambda: [POST, b"X-A: b\r\n" * HEADERS_MAX, b"\r\n"], "head_too_large"),
    "a header just too large": (lambda: [POST + b"X: " + b"a" * HEAD_MAX + b"\r\n\r\n"], "head_too_large"),
    "a request line of 10 MB": (lambda: [b"POST /", *repeated(b"a" * 65536, 10 * MIB), b" HTTP/1.1\r\n\r\n"],
                                "target_too_long"),
    "a method that never ends": (lambda: repeated(b"P" * 65536, 10 * MIB), "malformed_request"),
    "empty lines for ever": (lambda: repeated(b"\r\n" * 32768, 10 * MIB), "head_too_large"),
    "a chunk extension of 10 MB": (lambda: [CHUNKED, b"1;", *repeated(b"a" * 65536, 10 * MIB)], None),
    "a trailer of 10 MB": (lambda: [CHUNKED, b"0\r\nX: ", *repeated(b"a" * 65536, 10 * MIB)], None),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
async def test_what_is_too_large(name: str, target: Target) -> None:
    parts, code = HUGE[name]
    began = time.monotonic()
    answer = await send(target, parts())
    assert time.monotonic() - began < 10
    if code is None:  # nobody is known by these credentials, which is said before the body is read
        assert statuses(answer) == [401]
    elif answer:  # a sender that does not listen may lose it to its own noise
        check_problem(answer, code)
    if name in ("101 headers", "a header just too large", "a header name of 1 MB"):
        assert statuses(answer) == [431]


MALFORMED = {
    "both lengths": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, the other way": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    "another transfer coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a tab before chunked": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a folded header": POST + b"X: a\r\n b\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "NUL in a value": POST + b"X: a\x00b\r\n\r\n",
    "a line feed alone": POST.replace(b"\r\n", b"\n") + b"\n",
    "NUL in the path": b"POST /v1/\x00 HTTP/1.1\r\n\r\n",
    "bytes in the path": "POST /v1/é HTTP/1.1\r\n\r\n".encode(),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an upgrade": POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "an authority as target": b"POST example.com:80 HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_not_http(name: str, target: Target) -> None:
    answer = await send(target, [MALFORMED[name]])
    assert statuses(answer) == [400]
    check_problem(answer, "malformed_request")


@pytest.mark.parametrize("line", [b"GET /health\r\n\r\n", b"GET /health HTTP/2.0\r\n\r\n", b"GET / HTTP/1.2\r\n\r\n"])
async def test_other_versions(line: bytes, target: Target) -> None:
    answer = await send(target, [line])
    assert statuses(answer) in ([505], [400])


async def test_a_bad_chunk_size_ends_a_body_that_is_being_read(target: Target, world: World) -> None:
    head = CHUNKED.replace(b"Host", f"Authorization: Bearer {world.admin.token}\r\nHost".encode())
    for size in (b"FFFFFFFFFFFFFFFFFF\r\n", b"-1\r\n", b"1 x\r\n{", b"zz\r\n"):
        answer = await send(target, [head, b"1\r\n{\r\n" + size])
        assert statuses(answer) == [400], size


async def test_the_smuggled_request_is_not_answered(target: Target, world: World) -> None:
    """One request by Content-Length, another by chunks: there is one refusal and no second answer."""
    inner = b"POST /v1/orgs/get HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    outer = POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (len(inner) + 5)
    assert statuses(await send(target, [outer + inner])) == [400]


async def trickle(target: Target, first: bytes, drop: bytes) -> tuple[bytes, float]:
    """Send `first`, then a byte at a time, each as soon as the server has had time to see the one before."""
    began = time.monotonic()

    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    answer = b""
    writer.write(first)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - began < WITHIN_S:
            writer.write(drop)
            try:
                async with asyncio.timeout(0.1):
                    part = await reader.read(65536)
            except TimeoutError:
                continue
            if not part:
                break
            answer += part
    writer.close()
    return answer, time.monotonic() - began


async def test_slow_heads_and_bodies(target: Target, world: World) -> None:
    """slowloris, in the head, in a body, in chunks, between requests; fifty at once, and others are served."""
    known = POST.replace(b"Host", f"Authorization: Bearer {world.admin.token}\r\nHost".encode())
    slow = {
        "head": (b"POST /v1/orgs/get HTTP/1.1\r\nX-A: ", b"a", "head_timeout"),
        "request line": (b"P", b"", "head_timeout"),
        "body": (known + b"Content-Length: 1000\r\n\r\n", b" ", "body_timeout"),
        "body that never comes": (known + b"Content-Length: 1000\r\n\r\n", b"", "body_timeout"),
        "chunks": (known + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", "body_timeout"),
    }
    sending = [asyncio.create_task(trickle(target, first, drop)) for first, drop, _ in slow.values() for _ in range(10)]
    while not all(task.done() for task in sending):
        await target.serves(world)
        await asyncio.wait(sending, timeout=0.1)
    codes = [code for _, _, code in slow.values() for _ in range(10)]
    for code, task in zip(codes, sending, strict=True):
        answer, took_s = task.result()
        assert statuses(answer) == [408], code
        check_problem(answer, code)
        assert took_s < 10


async def test_a_body_that_is_slow_after_the_answer(target: Target) -> None:
    """Refused at once, it goes on for ever: the connection ends all the same."""
    answer, took_s = await trickle(target, POST + b"Content-Length: 1000000\r\n\r\n", b" ")
    assert statuses(answer) == [401]
    assert took_s < 10


async def test_silence(target: Target, world: World) -> None:
    """Connections that say nothing, or only empty lines, are closed without a word."""
    for drop in (b"", b"\r\n"):
        answer, took_s = await trickle(target, b"", drop)
        assert (answer, took_s < 10) == (b"", True)


async def test_a_client_that_takes_no_answer(target: Target, world: World) -> None:
    """It asks for 2 MiB of documents and never reads: it is cut, and its memory is free."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(deaf.connect, ("127.0.0.1", target.port))
        mine = deaf.getsockname()[1]
        for _ in range(200):
            with contextlib.suppress(ConnectionError, BlockingIOError):
                deaf.setblocking(False)
                deaf.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            await target.serves(world)
        async with asyncio.timeout(WITHIN_S):
            while any(
                c.raddr and c.raddr.port == mine and c.status == psutil.CONN_ESTABLISHED
                for c in target.process.net_connections("tcp")
            ):
                await target.serves(world)


async def test_too_many_connections_of_one_address(target: Target, world: World) -> None:
    """The client of the test has one itself; those beyond the limit are told so, and there is room again afterwards."""
    opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", target.port) for _ in range(PER_ADDRESS + 20)))
    await target.serves(world)
    told = 0
    for reader, _ in opened:
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), WITHIN_S)  # until closed: told, or silent for too long
            if answer:
                check_problem(answer, "too_many_connections")
                assert b"\r\nretry-after: 1\r\n" in answer.lower()
                told += 1
    assert told >= 20
    for _, writer in opened:
        writer.close()
    async with asyncio.timeout(WITHIN_S):
        one_more = [b"GET /health HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n"]
        while statuses(await send(target, one_more)) != [200]:
            await target.serves(world)


async def test_pipelined_requests_are_answered_in_order_and_bounded(target: Target) -> None:
    one = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert statuses(await send(target, [one * 10 + last])) == [404] * 10 + [200]
    flood = statuses(await send(target, [one * 100_000]))
    assert len(flood) < 1000
    assert set(flood) <= {404, 400}


async def test_an_error_in_a_pipelined_request_comes_after_the_answers_before_it(target: Target) -> None:
    answer = await send(target, [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nnot http at all\r\n\r\n"])
    assert statuses(answer) == [200]


async def test_expect_continue_is_for_those_who_may(target: Target, world: World) -> None:
    expecting = POST + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n"
    assert statuses(await send(target, [expecting + b"\r\n"])) == [401]
    known = expecting + f"Authorization: Bearer {world.admin.token}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(known)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert statuses(await reader.read()) == [200]
    writer.close()


async def test_odd_but_allowed(target: Target, world: World) -> None:
    """An absolute target, bytes beyond ASCII in values, trailers: none of them becomes something else."""
    token = f"Authorization: Bearer {world.admin.token}\r\n".encode()
    absolute = b"POST http://elsewhere.example/v1/orgs/get HTTP/1.1\r\nHost: y\r\nContent-Type: application/json\r\n"
    close = b"Connection: close\r\n"
    assert statuses(await send(target, [absolute + token + close + b"Content-Length: 2\r\n\r\n{}"])) == [200]
    assert statuses(await send(target, [POST + token + close + b"X: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}"])) == [200]
    trailer = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + token + b"\r\n"
    assert statuses(await send(target, [POST + close + trailer])) == [401]
    for path in (b"//v1/orgs/get", b"/v1/../v1/orgs/get", b"/v1/orgs/get%00", b"/v1%2forgs/get", b"*"):
        line = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + token + close + b"Content-Length: 0\r\n\r\n"
        assert statuses(await send(target, [line]))[0] in (400, 404, 415), path


async def test_refused_uploads_get_their_answer(target: Target, world: World, service: Service) -> None:
    """A body above the limit: the answer is there although the client was still sending, by length and by chunks."""
    for _ in range(3):
        answer = await target.client.post("/v1/orgs/get", content=b" " * (512 * 1024), headers=world.admin.headers)
        assert answer.status_code in (413, 415)


async def test_answers_are_kept_by_nobody_and_tell_no_versions(target: Target, world: World) -> None:
    for path, method in (("/v1/orgs/get", "POST"), ("/health", "GET"), ("/nothing", "GET"), ("/docs", "GET")):
        answer = await target.client.request(method, path, headers=world.admin.headers)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert ("default-src 'none'" in answer.headers.get("Content-Security-Policy", "")) == (path == "/docs")
        assert not {"server", "x-powered-by", "access-control-allow-origin"} & set(answer.headers)
