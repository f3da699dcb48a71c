"""Logins in NATS URLs: taken out of them, the same for every server, never shown."""

import pytest

from events.connection import Login, connect, inbox_prefix, login_of
from events.errors import ConfigurationError


def test_the_login_is_taken_out_of_every_url():
    login = login_of(["nats://dex:p%40ss@one:4222", "tls://dex:p%40ss@[::1]:4223"])
    assert login == Login(["nats://one:4222", "tls://[::1]:4223"], "dex", "p@ss")
    assert "p@ss" not in repr(login)


@pytest.mark.parametrize("url", ["nats://one:4222", "nats://a-token@one:4222"])
def test_a_url_without_a_password_is_left_as_it_is(url):
    assert login_of([url]) == Login([url])
    assert inbox_prefix([url]) == "_INBOX"


def test_servers_with_different_logins_are_refused():
    with pytest.raises(ConfigurationError, match="same") as caught:
        login_of(["nats://dex:secret@one", "nats://other:secret@two"])
    assert "secret" not in str(caught.value)


async def test_after_a_flush_the_server_knows_what_was_subscribed_before_it(servers):
    """A request is answered at once, each time: nobody is told that nobody listens."""

    async def answer(message):
        await message.respond(b"heard")

    service, client = [await connect([servers.nats_url], name) for name in ("service", "client")]
    for number in range(200):
        listening = await service.subscribe(f"flushed.{number}", cb=answer)
        await service.flush()
        assert (await client.request(f"flushed.{number}", b"")).data == b"heard"
        await listening.unsubscribe()
    await service.close()
    await client.close()
