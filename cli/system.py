"""The whole system on one machine: embedded servers unless others are set, migrations, and the five processes."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import SecretStr

from cli import embedded
from cli.database_roles import GROUPS, MAY_DO_WITHOUT, Login, ensure_logins
from cli.processes import ARCHIVER, COMMAND_SERVICE, GATEWAY, PROJECTOR, WORKER
from cli.supervisor import ProcessFailedError, ProcessSpec, Supervisor
from events.connection import connect
from events.errors import ConfigurationError
from events.health import ask_health
from events.settings import Settings
from migrations.database import migrate
from migrations.streams import migrate_streams

PROCESS_URLS = (
    "gateway_database_url", "projector_database_url", "archiver_database_url", "command_service_database_url",
    "worker_database_url",
    "gateway_nats_url", "command_service_nats_url", "worker_nats_url", "projector_nats_url", "archiver_nats_url",
)  # fmt: skip

OnEvent = Callable[[str, str], None]

_HEALTH_WITHIN_S = 1.0

SERVERS_ALONE = "To look at the data and mend it, start the servers without the processes: dex up --servers"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a system's parts are."""

    nats_url: str
    database_url: str
    gateway_url: str
    process_nats_urls: dict[str, str] = field(default_factory=dict)
    process_database_urls: dict[str, str] = field(default_factory=dict)
    master_keys: str | None = None

    def applied_to(self, settings: Settings) -> Settings:
        """The settings of the operator's commands."""
        urls = {"nats_url": SecretStr(self.nats_url), "database_url": SecretStr(self.database_url)}
        if self.master_keys and settings.master_keys is None:
            urls["master_keys"] = SecretStr(self.master_keys)
        return settings.model_copy(update=urls)

    def for_process(self, settings: Settings, name: str) -> Settings:
        """The settings of one process: its own URLs, nobody else's, and no secret that it has no use for."""
        nats_url = self.process_nats_urls.get(name, self.nats_url)
        without = None if name in MAY_DO_WITHOUT or name not in GROUPS else self.database_url
        database_url = self.process_database_urls.get(name, without)
        own: dict[str, SecretStr | None] = dict.fromkeys(PROCESS_URLS)
        own |= {"nats_url": SecretStr(nats_url), "database_url": SecretStr(database_url) if database_url else None}
        if name != GATEWAY:
            own["jwt_secret"] = None
        if name != WORKER:
            own["tenant_key"] = None
        if name != ARCHIVER:
            own |= {"audit_key": None, "audit_push_url": None}
        return settings.model_copy(update=own)


class System:
    """A running system; made by `start`, ended by `stop`.

    With `makes_keys` False no master key is made where the settings have none: nothing is encrypted then, which is for
    measuring what encryption costs.
    """

    def __init__(self, settings: Settings, on_event: OnEvent, *, makes_keys: bool = True) -> None:
        self._settings = settings
        self._makes_keys = makes_keys
        self._folder = embedded.DataFolder(settings.home)
        self.supervisor = Supervisor(state_path(settings.home), on_event)
        self.endpoints: Endpoints | None = None
        self._metrics_ports: dict[str, int] = {}
        self._logins: dict[str, Login] = {}

    async def start(
        self, *, processes: tuple[str, ...] = (COMMAND_SERVICE, WORKER, PROJECTOR, ARCHIVER, GATEWAY)
    ) -> Endpoints:
        """Start the servers that are not set, migrate, and start the processes. Stops again when one fails."""
        try:
            self.endpoints = await self._start_servers()
            await migrate_everything(self.endpoints.applied_to(self._settings))
            if self._logins:  # those of an embedded server; elsewhere the operator makes them (dex database roles)
                await ensure_logins(self.endpoints.database_url, self._logins)
            facts = {
                "gateway_url": self.endpoints.gateway_url,
                "nats_url": self.endpoints.nats_url,
                "database_url": self.endpoints.database_url,
                "metrics": {name: self._metrics_url(name) for name in processes},
                "process_nats_urls": self.endpoints.process_nats_urls,
                "process_database_urls": self.endpoints.process_database_urls,
                "master_keys": _revealed(self._settings.master_keys),
            }
            self.supervisor.note(facts)
            # at once: each takes a second or two to import, and none needs another to be there first
            async with asyncio.TaskGroup() as starting:
                for name in processes:
                    starting.create_task(self.supervisor.start(self._process(name, self.endpoints)))
        except BaseExceptionGroup as group:
            await self.stop()
            error = group.exceptions[0]
            if isinstance(error, ProcessFailedError):
                error = ProcessFailedError(f"{error.message}\n{SERVERS_ALONE}")
            raise error from None
        except BaseException:
            await self.stop()
            raise
        return self.endpoints

    async def stop(self, *, abruptly: bool = False) -> None:
        """Stop everything, the servers last, and unlock the data folder; `abruptly` when nobody needs the data."""
        await self.supervisor.stop(abruptly=abruptly)
        self._folder.close()

    async def _start_servers(self) -> Endpoints:
        settings, home = self._settings, self._settings.home
        nats_url = settings.nats_url.get_secret_value() if settings.nats_url else None
        database_url = settings.database_url.get_secret_value() if settings.database_url else None
        nats_urls, database_urls = process_urls(settings, "nats"), process_urls(settings, "database")
        if nats_url is None or database_url is None:
            config = await asyncio.to_thread(embedded.prepare, home)
            if settings.tenant_key is None:
                self._settings = self._settings.model_copy(update={"tenant_key": SecretStr(config.tenant_key)})
            if settings.master_keys is None and self._makes_keys:
                self._settings = self._settings.model_copy(update={"master_keys": SecretStr(config.master_keys)})
            if settings.audit_key is None:
                self._settings = self._settings.model_copy(update={"audit_key": SecretStr(config.audit_key)})
            if nats_url is None:
                await self.supervisor.start(embedded.nats_spec(home, config))
                nats_url, nats_urls = config.nats_url, config.nats_urls
            if database_url is None:
                await self.supervisor.start(embedded.postgres_spec(home, config))
                database_url, database_urls, self._logins = config.database_url, config.database_urls, config.logins
        port = settings.port if embedded.is_free(settings.port, settings.host) else 0
        host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
        gateway_url = f"http://{host}:{port or embedded.free_port(settings.host)}"
        master_keys = _revealed(self._settings.master_keys)
        return Endpoints(nats_url, database_url, gateway_url, nats_urls, database_urls, master_keys)

    def _metrics_url(self, name: str) -> str:
        """Where a process of this system serves its metrics: each on a free port of its own."""
        assert self.endpoints is not None
        host, gateway = self._settings.metrics_host, int(self.endpoints.gateway_url.rpartition(":")[2])
        # the ports that were chosen already are free until their processes have started
        while (port := embedded.free_port(host)) in {gateway, *self._metrics_ports.values()}:
            continue
        self._metrics_ports[name] = port
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/metrics"

    def _process(self, name: str, endpoints: Endpoints) -> ProcessSpec:
        async def serves_http() -> None:
            async with httpx.AsyncClient() as http:
                (await http.get(f"{endpoints.gateway_url}/health")).raise_for_status()

        async def answers() -> None:
            connection = await connect(endpoints.nats_url.split(","), "dex")
            try:
                if not await ask_health(connection, _HEALTH_WITHIN_S, process=name, enough=1):
                    raise ConfigurationError(f"{name} does not answer yet.")
            finally:
                await connection.close()

        environment = endpoints.for_process(self._settings, name).as_environment()
        environment |= {"DATA_ENGINE_METRICS_PORT": str(self._metrics_ports[name])}
        if name == GATEWAY:
            environment |= {"DATA_ENGINE_PORT": endpoints.gateway_url.rpartition(":")[2]}
        argv = [sys.executable, "-m", "cli.processes", name]
        log_path = self._settings.home / "logs" / f"{name}.log"
        return ProcessSpec(name, argv, log_path, env=environment, ready=serves_http if name == GATEWAY else answers)


async def migrate_everything(settings: Settings) -> tuple[list[str], list[str]]:
    """Bring the database and the streams to what this version needs; what was applied and made."""
    applied = await migrate(settings.database_dsn)
    connection = await connect(settings.nats_servers, "dex")
    try:
        made = await migrate_streams(connection, settings.nats_replicas, settings.events_max_bytes)
    finally:
        await connection.close()
    return applied, made


def running_endpoints(settings: Settings) -> Endpoints:
    """Where the running system is: as the settings say, else as `dex up` wrote down. Raises ConfigurationError."""
    state = read_state(settings.home)
    nats_url = settings.nats_url.get_secret_value() if settings.nats_url else state.get("nats_url")
    database_url = settings.database_url.get_secret_value() if settings.database_url else state.get("database_url")
    gateway_url = os.environ.get("DATA_ENGINE_GATEWAY_URL") or state.get("gateway_url")
    if nats_url is None or database_url is None:
        raise ConfigurationError(
            "No running system was found. Start one with `dex up`, or set DATA_ENGINE_NATS_URL and "
            "DATA_ENGINE_DATABASE_URL."
        )
    return Endpoints(
        nats_url,
        database_url,
        gateway_url or f"http://{settings.host}:{settings.port}",
        state.get("process_nats_urls") or process_urls(settings, "nats"),
        state.get("process_database_urls") or process_urls(settings, "database"),
        state.get("master_keys"),
    )


def process_urls(settings: Settings, server: Literal["nats", "database"]) -> dict[str, str]:
    """The URL of each process that has one of its own in the settings, for servers that are not embedded."""
    suffix = f"_{server}_url"
    urls = {name: getattr(settings, name) for name in PROCESS_URLS if name.endswith(suffix)}
    return {name.removesuffix(suffix).replace("_", "-"): url.get_secret_value() for name, url in urls.items() if url}


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def state_path(home: Path) -> Path:
    """Where a running system tells what it is."""
    return home / "run" / "state.json"


def read_state(home: Path) -> dict[str, Any]:
    """What the running system told, or nothing when none runs."""
    try:
        state: dict[str, Any] = json.loads(state_path(home).read_text())
        os.kill(state["supervisor_pid"], 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return {}
    return state
