"""The settings: one frozen object, read from the environment by the entry points and by nothing else."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

KIB, MIB = 1024, 1024 * 1024


class Settings(BaseSettings):
    """All that can be set, as `DATA_ENGINE_<NAME>`; `.env.example` lists each with its meaning."""

    model_config = SettingsConfigDict(
        env_prefix="DATA_ENGINE_",
        env_file=".env",
        env_file_encoding="utf-8",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
    )

    home: Path = Path(platformdirs.user_data_dir("data-engine-x"))
    """Where the embedded servers keep their data and a running system its state."""

    database_url: SecretStr | None = None
    """postgresql://… ; the operator's, who owns the tables; unset: an embedded PostgreSQL."""
    database_pooling: Literal["session", "transaction"] = "session"
    """`transaction` behind a transaction pooler (PgBouncer, Supabase's port 6543): no prepared statement is kept."""
    database_pool_max: Annotated[int, Field(ge=1, le=200)] = 8
    """Connections of one process at most."""

    nats_url: SecretStr | None = None
    """nats://operator:password@host:4222, or several with commas; unset: an embedded nats-server."""
    environment: Literal["production", "development"] = "production"
    """`development` makes warnings of what is otherwise refused: a process that could get past row-level security."""

    # What each process connects as, where the servers are not embedded. `dex up` hands each its own; a process of a
    # deployment is given it as DATA_ENGINE_NATS_URL and DATA_ENGINE_DATABASE_URL, and none of these.
    gateway_database_url: SecretStr | None = None
    projector_database_url: SecretStr | None = None
    """Logins that `dex database roles` makes; the other processes use no database."""
    gateway_nats_url: SecretStr | None = None
    command_service_nats_url: SecretStr | None = None
    worker_nats_url: SecretStr | None = None
    projector_nats_url: SecretStr | None = None
    """Users of migrations/nats_accounts.conf."""

    nats_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Replicas of each stream: 1 on a single node, 3 in a cluster."""
    events_max_bytes: Annotated[int, Field(ge=-1)] = -1
    """Size at which EVENTS refuses further decisions (never drops old ones); -1: no bound but the disk."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, validation_alias=AliasChoices("DATA_ENGINE_PORT", "PORT"))] = 8080
    """Where the gateway listens; the platform's plain `PORT` is honoured too."""
    body_max_bytes: Annotated[int, Field(ge=KIB)] = 4 * MIB
    """A request body above this is refused with 413."""
    wait_max_s: Annotated[float, Field(gt=0, le=300)] = 60.0
    """The longest `wait_s` of runs/get."""
    command_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """How long the gateway waits for a command's answer before it defers it and answers 202."""

    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 sessions (Supabase's JWT secret)."""
    jwt_jwks_url: str | None = None
    """Where the keys of RS256 and ES256 sessions are published."""
    jwt_issuer: str | None = None
    jwt_audience: str | None = "authenticated"
    jwt_leeway_s: Annotated[float, Field(ge=0, le=300)] = 10.0

    step_modules: Annotated[tuple[str, ...], NoDecode] = ("services.steps.catalogue",)
    """Python modules with a `STEPS` tuple that a worker serves; commas between them."""
    worker_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Tasks that one worker holds at a time, for each step."""
    worker_processes: Annotated[int, Field(ge=1, le=256)] = 2
    """Isolated step processes of one worker, for large batches and redelivered tasks."""
    task_ack_wait_s: Annotated[float, Field(ge=0.5, le=3600)] = 10.0
    """After this long without a sign from its worker, a task is given to another."""
    checkpoint_ms: Annotated[float, Field(ge=0)] = 5.0
    """Up to this much unrecorded work, a worker goes on to the next step before it records."""
    step_memory_max_bytes: Annotated[int, Field(ge=64 * MIB)] = 2 * 1024 * MIB
    """Address space of one isolated step process."""

    projector_batch: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """Decisions in one transaction of the projector at most."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"

    access_log: bool = True
    """One line a request, at `info`."""
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where this process serves `/metrics`; unset: nowhere. Never the gateway's public port."""
    otlp_endpoint: Annotated[
        str | None, Field(validation_alias=AliasChoices("DATA_ENGINE_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"))
    ] = None
    """http://collector:4318 : where traces go, by OTLP over HTTP; unset: none are made."""

    @property
    def nats_servers(self) -> list[str]:
        """The NATS URLs as a list; raises ValueError when none is set."""
        if self.nats_url is None:
            raise ValueError("DATA_ENGINE_NATS_URL is not set")
        return [url.strip() for url in self.nats_url.get_secret_value().split(",")]

    @property
    def database_dsn(self) -> str:
        """The database URL; raises ValueError when none is set."""
        if self.database_url is None:
            raise ValueError("DATA_ENGINE_DATABASE_URL is not set")
        return self.database_url.get_secret_value()

    def as_environment(self) -> dict[str, str]:
        """What was set, as the environment of a child process that is to have the same settings."""
        return {f"DATA_ENGINE_{name.upper()}": _as_text(getattr(self, name)) for name in self.model_fields_set}

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object, info: ValidationInfo) -> object:
        """An optional setting that is empty is not set: so an environment can take back what `.env` says."""
        return None if value == "" and _is_optional(cls.model_fields[str(info.field_name)].annotation) else value

    @field_validator("step_modules", mode="before")
    @classmethod
    def _split_modules(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _is_optional(annotation: object) -> bool:
    return type(None) in get_args(annotation)


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if value is None:
        return ""
    return ",".join(value) if isinstance(value, tuple) else str(value)
