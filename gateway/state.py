"""What one gateway process holds: its connections, and what is built on them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nats.aio.client import Client

from events.connection import connect
from events.keyring import use_keys, wrapper_of
from events.log import EventLog
from events.settings import Settings
from gateway.archived import whole_log
from gateway.at_once import AtOnce
from gateway.auth import Authenticator
from gateway.commands import CommandSender
from gateway.limits import Clock, Limiter
from gateway.open_runs import OpenRuns
from gateway.payloads import Payloads
from gateway.previews import Previews
from gateway.proved import Proved
from gateway.run_view import RunLoader
from gateway.sign_in import SignIn
from gateway.signals import Signals
from gateway.usage import TokenUsage
from projections.database import create_pool
from projections.queries.audit import proved_position
from projections.queries.positions import projected_position
from projections.queries.reader import Reader


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that an endpoint delegates to."""

    settings: Settings
    connection: Client
    reader: Reader
    authenticator: Authenticator
    limiter: Limiter
    open_runs: OpenRuns
    usage: TokenUsage
    signals: Signals
    proved: Proved
    commands: CommandSender
    log: EventLog
    payloads: Payloads
    runs: RunLoader
    uploads: AtOnce
    previews: Previews
    streams: AtOnce
    history_reads: AtOnce


@asynccontextmanager
async def open_gateway(settings: Settings, clock: Clock = time.monotonic) -> AsyncIterator[Gateway]:
    """Connect to NATS and Postgres, and close both in the end. `clock` is the one of the limits, in seconds."""
    connection = await connect(settings.nats_servers, "gateway")
    keyring = use_keys(connection, wrapper_of(settings))
    try:
        async with await create_pool(settings) as pool:
            gateway = _assemble(settings, connection, Reader(pool, max(1, settings.database_pool_max // 2)), clock)
            parts = (gateway.signals, gateway.proved, gateway.authenticator.watch, gateway.usage)
            try:
                await keyring.listen(connection)
                for part in parts:
                    await part.start()
                yield gateway
            finally:
                for part in reversed(parts):
                    await part.stop()
    finally:
        await connection.close()


def _assemble(settings: Settings, connection: Client, reader: Reader, clock: Clock) -> Gateway:
    commands = CommandSender(connection, settings.command_timeout_s)
    signals = Signals(connection, lambda: projected_position(reader), lambda reset: authenticator.hear(reset=reset))
    limiter = Limiter(settings, clock)
    authenticator = Authenticator(settings, reader, SignIn(reader, commands, signals).admit, limiter)
    return Gateway(
        settings=settings,
        connection=connection,
        reader=reader,
        authenticator=authenticator,
        limiter=limiter,
        open_runs=OpenRuns(reader, clock),
        usage=TokenUsage(reader),
        signals=signals,
        proved=Proved(connection, lambda: proved_position(reader)),
        commands=commands,
        log=whole_log(connection, reader),
        payloads=Payloads(connection),
        runs=RunLoader(reader),
        uploads=AtOnce("uploads", settings.uploads_per_org_max),
        previews=Previews(connection, settings.previews_per_org_max),
        streams=AtOnce("streams", settings.streams_per_org_max),
        history_reads=AtOnce("history_reads", settings.history_reads_per_org_max),
    )
