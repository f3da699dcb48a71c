"""Tasks come as soon as they are there, whenever that is; nothing is lost, nor given twice."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from faststream import AckPolicy
from faststream.nats import JStream, PullSub
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from events.ids import new_id
from events.settings import Settings
from services.broker import build_broker, raw_message
from services.pulling import REFUSED_PAUSE_S, OneRequestPull

DURABLE = "puller"
TIMEOUT_S = 0.4


@pytest.fixture
async def stream(connection: Client) -> AsyncIterator[str]:
    """A stream of its own for each test; its subjects are `<name>.>`."""
    name, jetstream = f"pulled-{new_id()}", connection.jetstream()
    await jetstream.add_stream(name=name, subjects=[f"{name}.>"])
    await jetstream.add_consumer(name, ConsumerConfig(durable_name=DURABLE))
    yield name
    await jetstream.delete_stream(name)


@pytest.fixture
async def pull(connection: Client, stream: str) -> AsyncIterator[OneRequestPull]:
    made = OneRequestPull(connection, stream, DURABLE)
    await made.open()
    yield made
    await made.unsubscribe()


async def put(connection: Client, stream: str, *bodies: bytes) -> None:
    for body in bodies:
        await connection.jetstream().publish(f"{stream}.x", body)


async def bodies(pull: OneRequestPull, batch: int) -> list[bytes]:
    return [message.data for message in await pull.fetch(batch, TIMEOUT_S)]


async def test_what_is_there_comes_at_once_and_in_order(connection: Client, stream: str, pull: OneRequestPull) -> None:
    everything = [b"%d" % number for number in range(10)]
    await put(connection, stream, *everything)
    began_s = time.monotonic()
    assert [await bodies(pull, 4) for _ in range(3)] == [everything[:4], everything[4:8], everything[8:]]
    assert time.monotonic() - began_s < TIMEOUT_S
    with pytest.raises(TimeoutError):
        await pull.fetch(4, TIMEOUT_S)


async def test_nothing_waits_whenever_it_comes(connection: Client, stream: str, pull: OneRequestPull) -> None:
    """Also about the end of a fetch, after which nats-py held the next message back until its next time limit."""
    pauses, came = random.Random(7), dict[int, float]()
    sent = dict[int, float]()

    async def send() -> None:
        for number in range(40):
            await asyncio.sleep(pauses.choice([0, 0.01, TIMEOUT_S - 0.001, TIMEOUT_S, TIMEOUT_S / 2]))
            sent[number] = time.monotonic()
            await put(connection, stream, b"%d" % number)

    sending = asyncio.create_task(send())
    async with asyncio.timeout(60):
        while len(came) < 40:
            try:
                for message in await pull.fetch(8, TIMEOUT_S):
                    assert came.setdefault(int(message.data), time.monotonic()) <= time.monotonic()
                    await message.ack()
            except TimeoutError:
                continue
    await sending
    waited_s = sorted(came[number] - sent[number] for number in sent)
    assert waited_s[-3] < TIMEOUT_S / 4, waited_s


async def test_what_answers_a_request_that_was_given_up_is_given_out(
    connection: Client, stream: str, pull: OneRequestPull
) -> None:
    """As after a pause of this process: two requests are at the server, and the older one is answered."""
    await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{DURABLE}", b'{"batch":8,"no_wait":true,"expires":'
                             b'9000000000}', f"{pull._inbox}.0")  # fmt: skip
    fetching = asyncio.create_task(bodies(pull, 8))
    await connection.flush()
    await put(connection, stream, b"a")
    assert await fetching == [b"a"]
    await put(connection, stream, b"b")  # answers the second request
    began_s = time.monotonic()
    assert await bodies(pull, 8) == [b"b"]
    await put(connection, stream, b"c")
    assert await bodies(pull, 8) == [b"c"]
    assert time.monotonic() - began_s < TIMEOUT_S


async def test_a_consumer_that_is_not_there_is_not_asked_without_a_pause(connection: Client, stream: str) -> None:
    pull = OneRequestPull(connection, stream, "nobody")
    await pull.open()
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        await pull.fetch(8, 5)
    assert REFUSED_PAUSE_S <= time.monotonic() - began_s < 2
    await pull.unsubscribe()


async def test_the_brokers_subscribers_pull_so(connection: Client, stream: str, settings: Settings) -> None:
    broker, came = build_broker(settings.nats_servers, "test"), asyncio.Queue[bytes]()
    subscriber = broker.subscriber(
        f"{stream}.x", durable=DURABLE, stream=JStream(stream, declare=False), decoder=raw_message,
        pull_sub=PullSub(batch_size=8, timeout=5), ack_policy=AckPolicy.MANUAL,
    )  # fmt: skip

    @subscriber
    async def handle(message: Any) -> None:
        await message.ack()
        came.put_nowait(message.data)

    await broker.connect()
    await broker.start()
    assert isinstance(subscriber.subscription, OneRequestPull)
    await put(connection, stream, b"a", b"b")
    async with asyncio.timeout(10):
        assert [await came.get(), await came.get()] == [b"a", b"b"]
    await broker.stop()
