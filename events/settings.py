"""The settings: one frozen object, read from the environment by the entry points and by nothing else."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from events.limits import Limits, Rate

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
    archiver_database_url: SecretStr | None = None
    command_service_database_url: SecretStr | None = None
    worker_database_url: SecretStr | None = None
    """Logins that `dex database roles` makes. Command service and worker need theirs only once the log was trimmed, to
    read in the archive what it no longer has."""
    gateway_nats_url: SecretStr | None = None
    command_service_nats_url: SecretStr | None = None
    worker_nats_url: SecretStr | None = None
    projector_nats_url: SecretStr | None = None
    archiver_nats_url: SecretStr | None = None
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
    upload_max_bytes: Annotated[int, Field(ge=KIB)] = 4 * 1024 * MIB
    """As long a file may be that is uploaded, as it comes: compressed, if it is."""
    uploads_per_org_max: Annotated[int, Field(ge=1)] = 4
    """Files of one org that a gateway process takes at the same time."""
    previews_per_org_max: Annotated[int, Field(ge=1)] = 2
    """Previews of one org that a gateway process waits for at the same time."""
    streams_per_org_max: Annotated[int, Field(ge=1)] = 8
    """Streams of the log (`events/stream`) of one org that a gateway process serves at the same time."""
    history_reads_per_org_max: Annotated[int, Field(ge=1)] = 8
    """Pages of events, traces, reports of verifications, lists of runs `as_of`, of an org at once, in a gateway."""
    wait_max_s: Annotated[float, Field(gt=0, le=300)] = 60.0
    """The longest `wait_s` of runs/get."""
    command_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """How long the gateway waits for a command's answer before it defers it and answers 202."""

    http_head_max_bytes: Annotated[int, Field(ge=KIB, le=16 * MIB)] = 64 * KIB
    """Request line and headers together; more is refused with 431."""
    http_headers_max: Annotated[int, Field(ge=8, le=10_000)] = 100
    """Headers of one request; more are refused with 431."""
    http_target_max_bytes: Annotated[int, Field(ge=256, le=MIB)] = 8 * KIB
    """The request's target (path and query); a longer one is refused with 414."""
    http_head_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """A request whose head is not there after this long is refused with 408; a silent new connection is closed."""
    http_body_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """In each such time a body comes at `http_body_min_bytes_per_s` at least, or it is complete; else 408."""
    http_body_min_bytes_per_s: Annotated[float, Field(gt=0)] = 4.0 * KIB
    http_send_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """A connection whose client takes nothing of an answer for this long is cut."""
    http_keep_alive_s: Annotated[int, Field(ge=1)] = 65
    """How long a connection may be idle between requests; longer than a load balancer's own time."""
    http_connections_max: Annotated[int, Field(ge=1)] = 4000
    """Connections at once; never more than the process may have open files. More are refused with 503."""
    http_connections_per_address_max: Annotated[int, Field(ge=1)] = 1000
    """Connections at once of one client address (IPv6: of one /64); more are refused with 503."""
    trusted_proxies: str = ""
    """Addresses or networks of proxies, with commas: their X-Forwarded-For says who the client is. Empty: none."""

    limit_org_requests_per_s: Rate = 5000.0
    """Requests of one org that one gateway process takes; more are refused with 429, as with all of these."""
    limit_org_bytes_per_s: Rate = 32.0 * MIB
    """Of request bodies."""
    limit_org_rows_per_s: Rate = 400_000.0
    """Records of submissions."""
    limit_org_open_runs: Annotated[int, Field(ge=0)] = 10_000
    """Runs of one org that have not ended, over all gateways."""
    limit_token_requests_per_s: Rate = 3000.0
    limit_token_bytes_per_s: Rate = 16.0 * MIB
    limit_token_rows_per_s: Rate = 200_000.0
    """The same for one API token, or for a user's sessions."""
    limit_user_open_runs: Annotated[int, Field(ge=0)] = 10_000
    """Runs that have not ended and that one user started."""
    limit_burst_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """After a pause, what a rate allows in so many seconds may come at once."""
    limit_address_failures_per_s: Rate = 20.0
    """Failed authentications of one client address (IPv6: of one /64); 50 seconds' worth may come at once."""

    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 sessions (Supabase's JWT secret)."""
    jwt_jwks_url: str | None = None
    """Where the keys of RS256 and ES256 sessions are published."""
    jwt_issuer: str | None = None
    jwt_audience: str | None = "authenticated"
    jwt_leeway_s: Annotated[float, Field(ge=0, le=300)] = 10.0

    tenant_key: Annotated[SecretStr, Field(min_length=32)] | None = None
    """The secret that each org's pseudonyms are made from (`mask_fields`); another one makes other pseudonyms."""

    master_keys: SecretStr | None = None
    """`id:base64` of 32 bytes, several with commas: wrap the keys that companies' data is encrypted with. The first one
    wraps, all unwrap; unset: nothing is encrypted."""
    audit_key: SecretStr | None = None
    """Base64 of the Ed25519 key that signs the checkpoints of the orgs' histories (`dex audit new-key`); unset: none
    are signed. The archiver alone has it."""
    audit_origin: Annotated[str, Field(pattern=r"^[^\s+/][^\s+]*$", max_length=200)] = "data-engine-x.local"
    """The platform's name in its checkpoints, and of its key; like a URL without scheme. Never change it."""
    audit_push_file: Path | None = None
    """A file that new checkpoints are appended to, one JSON object a line; best on another machine."""
    audit_push_url: SecretStr | None = None
    """Where new checkpoints are posted to, as `{"checkpoints": ["…"]}`."""
    audit_push_interval_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    audit_push_internal: bool = False
    """Whether that URL may be of an internal address."""

    step_modules: Annotated[tuple[str, ...], NoDecode] = ("services.steps.catalogue",)
    """Python modules with a `STEPS` tuple that a worker serves; commas between them."""
    remote_steps: Annotated[tuple[str, ...], NoDecode] = ()
    """Keys of steps that a worker serves by asking workers in other languages, which announce them (docs/protocol.md);
    commas between them; `*`: whatever is announced."""
    worker_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Tasks that one worker holds at a time, for each step."""
    worker_processes: Annotated[int, Field(ge=1, le=256)] = 2
    """Isolated step processes of one worker, for large batches and redelivered tasks: as many as one org may have at
    work. One more is for quick tasks, and one of each kind for other orgs."""
    worker_helps: bool = True
    """Whether idle step processes do chunks of large batches that other workers direct, and others do of its own."""
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

    @property
    def limits(self) -> Limits:
        """The platform's limits: those of an org for which the operator has said nothing else."""
        return Limits(**{name: getattr(self, f"limit_{name}") for name in Limits.model_fields})

    def as_environment(self) -> dict[str, str]:
        """What was set, as the environment of a child process that is to have the same settings."""
        return {f"DATA_ENGINE_{name.upper()}": _as_text(getattr(self, name)) for name in self.model_fields_set}

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object, info: ValidationInfo) -> object:
        """An optional setting that is empty is not set: so an environment can take back what `.env` says."""
        return None if value == "" and _is_optional(cls.model_fields[str(info.field_name)].annotation) else value

    @field_validator("tenant_key", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return value or None

    @field_validator("step_modules", "remote_steps", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _is_optional(annotation: object) -> bool:
    return type(None) in get_args(annotation)


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if value is None:
        return ""
    return ",".join(value) if isinstance(value, tuple) else str(value)
