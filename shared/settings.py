"""Every setting, in one typed object. Read once at start, passed down, never global."""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.connection import parse_url
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from shared import sentinel
from shared.errors import DataDirError

PREFIX = "MINIVAULT_"
ENV_FILE = ".env"
RATE = re.compile(r"[1-9]\d{0,8}/(second|minute|hour|day)")
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[1-9]\d{0,4})?")
"""As browsers write it: lower case, no path, no slash at its end."""
_SOCKET_PATH_MAX = 100  # bytes; the kernel's limit is 104 on macOS, 108 on Linux

Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Each field is the environment variable `MINIVAULT_<FIELD>`, or a line in `.env`."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True
    )

    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the API listens on.")
    auth: Literal["auto", "required", "open"] = Field(
        "auto",
        description="Whether requests need an API key. `auto`: once there is one, and wherever "
        "others than this machine reach the API; there it does not start without. `required`: "
        "also while there is none. `open`: only once there is one.",
    )
    published_host: str | None = Field(
        None,
        description="Address at which the API is reached where that is not the one it listens on, "
        "as in a container. Decides for `MINIVAULT_AUTH`.",
    )
    data_dir: Path = Field(
        Path("data"), description="Where models, the database, Redis' file and logs live."
    )
    redis_url: str | None = Field(
        None,
        description="`redis://`, `rediss://`, `unix://` or `redis+sentinel://` URL. Unset: an "
        "embedded Valkey in the data folder.",
    )
    redis_password_file: Path | None = Field(
        None, description="File that holds Redis' password, for a URL that has none."
    )
    database_url: str | None = Field(
        None,
        description="`postgresql://` or `sqlite:///` URL. Unset: `db/minivault.db` in the "
        "data folder.",
    )
    database_password_file: Path | None = Field(
        None,
        description="File that holds the database's password, for a URL that names a user and "
        "has none.",
    )
    store_text: Literal["on", "off"] = Field(
        "on",
        description="Whether the database keeps prompts and responses; `off`: only their numbers "
        "of tokens, times and ends.",
    )
    history_days: float = Field(
        0, ge=0, le=36_500, description="Days after which interactions are deleted; 0: never."
    )
    workers: int = Field(1, ge=1, le=64, description="Worker processes that `up` starts.")
    models: Names = Field(
        ("smollm2-135m",),
        description="Catalog names the workers serve, comma-separated; the first is the default.",
    )
    max_loaded_models: int = Field(
        2, ge=1, description="Models a worker keeps in memory; the least recently used goes."
    )
    model_patience: float = Field(
        10,
        gt=0,
        description="Seconds that jobs wait for a model that is in no worker's memory before one "
        "that has work makes room for it, and that such a model may stay then.",
    )
    model_memory: float = Field(
        0,
        ge=0,
        description="GiB that a worker's models may take, their KV caches when full included. "
        "0: a model is loaded if it fits into the memory that is free then.",
    )
    slots: int = Field(32, ge=1, le=1024, description="Requests a worker generates at once.")
    prefill_chunk: int = Field(
        128, ge=16, description="Prompt tokens prefilled per step while other streams run."
    )
    prefix_cache_mb: int = Field(
        512,
        ge=0,
        description="MiB in which a worker keeps, for each loaded model, what it has computed of "
        "prompts and answers, for prompts that begin alike; the least recently used goes. 0: none.",
    )
    max_prompt_tokens: int = Field(1024, ge=1, description="Longest prompt, in tokens.")
    max_tokens: int = Field(1024, ge=1, description="Largest `max_tokens` a request may ask for.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where models run.")
    dtype: Literal["auto", "int8", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Weights and activations. `auto`: `int8` on a CPU, `bfloat16` on a GPU. "
        "`int8`: in the models that our kernels take, which are those built like Llama; others are "
        "`float32`, and so is everything until the kernels are compiled.",
    )
    threads: int = Field(0, ge=0, description="Torch threads per worker. 0: all cores, shared out.")
    rate_limit: str = Field(
        "5/minute", description="Requests per client and `second|minute|hour|day`, or `off`."
    )
    max_queued: int = Field(10_000, ge=1, description="Jobs that may wait for one model.")
    max_in_flight: int = Field(
        1_000, ge=1, description="Jobs that one client may have waiting and running."
    )
    max_priority: int = Field(
        0, ge=0, le=9, description="Largest `priority` a request may ask for; 0 to 9."
    )
    queue_ttl: float = Field(
        3600, gt=0, description="Seconds after which a job that still waits ends as expired."
    )
    disconnect_grace: float = Field(
        30,
        ge=0,
        description="Seconds that a job goes on when nobody follows it any more, unless it was "
        "submitted in the background.",
    )
    trusted_proxies: Names = Field(
        (), description="Addresses or networks whose `X-Forwarded-For` counts, comma-separated."
    )
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body.")
    request_seconds: float = Field(
        30, gt=0, description="Seconds in which a request's head has to come in; then its body."
    )
    max_connections: int = Field(
        2_000, ge=1, description="Connections that an API process holds; one more gets 503."
    )
    allowed_hosts: Names = Field(
        (),
        description="Names that requests may have as `Host`, comma-separated, besides `localhost` "
        "and IP addresses; `*`: any. Unset: none where the API listens on a loopback address, any "
        "elsewhere.",
    )
    cors_origins: Names = Field(
        (),
        description="Origins whose pages may use the API from a browser, comma-separated, like "
        "`https://app.example.org`; `*`: any page that a user of the service opens.",
    )
    webhook_hosts: Names = Field(
        (),
        description="Where webhooks may go, comma-separated: host names, `*` for any, and "
        "addresses or networks. What is not public must be in one of the networks. Unset: nowhere.",
    )
    webhook_secret_file: Path | None = Field(
        None,
        description="File that holds the key that webhooks are signed with: `whsec_` and 24 to 64 "
        "bytes in base64. Unset: webhooks are refused.",
    )
    docs: Literal["on", "off"] = Field(
        "on", description="Whether the API serves `/docs` and `/openapi.json`."
    )
    ping_seconds: float = Field(
        15, gt=0, le=30, description="Seconds of silence after which a stream gets a comment."
    )
    result_ttl: int = Field(
        3600, ge=10, description="Seconds that an ended job can still be read or replayed."
    )
    shutdown_grace: float = Field(
        5,
        ge=0,
        le=600,
        description="Seconds in which a stopping process ends or hands back its running work.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address of `MINIVAULT_METRICS_PORT`.")
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of a process's own `/metrics`, `/healthz` and `/readyz`. Of those that "
        "`up` starts the API gets it, and each worker one of the next. 0: none; the API then has "
        "its metrics where it has everything.",
    )
    dashboard_host: str = Field(
        "127.0.0.1", description="Address that `minivault dashboard` listens on."
    )
    dashboard_port: int = Field(9181, ge=1, le=65535, description="Port of `minivault dashboard`.")
    dashboard_password_file: Path | None = Field(
        None,
        description="File that holds the dashboard's password; the user is `minivault`. Needed "
        "where it listens for other machines.",
    )
    api_key: SecretStr | None = Field(
        None,
        description="API key that commands such as `minivault stream` send.",
    )
    api_key_file: Path | None = Field(
        None, description="File that holds it instead, which fewer can read."
    )
    log_format: Literal["console", "json"] = Field("console", description="How logs are written.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )

    @field_validator(
        "models", "trusted_proxies", "allowed_hosts", "cors_origins", "webhook_hosts", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("models")
    @classmethod
    def _some_model(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one model")
        return tuple(dict.fromkeys(value))

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network, strict=False)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if host != "*" and not re.fullmatch(r"[\w.-]+", host):
                raise ValueError("write names, without scheme and port, or *")
        return tuple(host.lower() for host in value)

    @field_validator("webhook_hosts")
    @classmethod
    def _destinations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if host != "*" and "/" not in host and not re.fullmatch(r"[\w.:-]+", host):
                raise ValueError("write host names, addresses or networks, or *")
            if "/" in host:
                ipaddress.ip_network(host)
        return tuple(host.lower() for host in value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError("write origins like https://app.example.org:8443, or *")
        return value

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str) -> str:
        if value != "off" and not RATE.fullmatch(value):
            raise ValueError("write it like 5/minute, or off")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: str | None) -> str | None:
        schemes = ("redis://", "rediss://", "unix://", f"{sentinel.SCHEME}://")
        if value is not None and not value.startswith(schemes):
            raise ValueError("start it with redis://, rediss://, unix:// or redis+sentinel://")
        if value is not None:
            try:
                if value.startswith(sentinel.SCHEME):
                    sentinel.parse(value)
                else:
                    parse_url(value)  # type: ignore[no-untyped-call]  # redis-py
            except ValueError:
                raise ValueError("it is no URL that Redis clients understand") from None
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                kind = make_url(value).drivername
            except (ArgumentError, ValueError):
                raise ValueError("it is no URL that SQLAlchemy understands") from None
            if kind not in ("sqlite", "postgresql", "postgresql+psycopg"):
                raise ValueError("start it with postgresql:// or sqlite:///")
        return value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def default_model(self) -> str:
        return self.models[0]

    @property
    def reached_at(self) -> str:
        """Address that decides who can reach the API."""
        return self.published_host or self.host

    @property
    def embedded_redis(self) -> bool:
        return self.redis_url is None

    @property
    def socket_path(self) -> Path:
        """Unix socket of the embedded server: private to the user, and no port to collide on."""
        return self.data_dir / "redis.sock"

    @property
    def effective_redis_url(self) -> str:
        return self.redis_url or f"unix://{quote(str(self.socket_path))}"

    @property
    def effective_database_url(self) -> str:
        if self.database_url is not None:
            return self.database_url
        path = self.data_dir / "db" / "minivault.db"
        return URL.create("sqlite", database=str(path)).render_as_string()

    @property
    def models_dir(self) -> Path:
        """Converted models, ready to load."""
        return self.data_dir / "models"

    @property
    def catalog_file(self) -> Path:
        """Models the operator added."""
        return self.data_dir / "models.toml"

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"

    def prepare_data_dir(self) -> None:
        """Make the data folder and prove that it can be written.

        Raises:
            DataDirError: it can't, or its path is too long for the embedded server's socket.
        """
        try:
            # Prompts lie in there, which other users of the machine have no business with.
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.models_dir, self.logs_dir, self.data_dir / "db"):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.data_dir):
                pass
        except OSError as error:
            raise DataDirError(
                f"The data folder {self.data_dir} can't be written ({error.strerror}). "
                f"Make it writable or set {PREFIX}DATA_DIR."
            ) from error
        if self.embedded_redis and len(os.fsencode(self.socket_path)) > _SOCKET_PATH_MAX:
            raise DataDirError(
                f"The path {self.socket_path} is too long for a Unix socket "
                f"({_SOCKET_PATH_MAX} bytes). Set {PREFIX}DATA_DIR to a shorter path."
            )
