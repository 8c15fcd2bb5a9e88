"""Every setting: read once from the environment, checked, and passed in.

Nothing else in the service reads the environment (a model file may read its own variables).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import redis_url
from service.namespace import check as check_namespace
from service.webhooks.address import parse_allowed
from service.webhooks.signature import parse_secret

MOST_TRIES, LONGEST_DELAY = 100, 7 * 86_400
SECRET: JsonDict = {"secret": True}
"""Marks a setting that is, or may hold, a credential: it is not in the environment of models."""


class InvalidSettings(ValueError):
    """One or more environment variables have a value that cannot be used; the message names each."""


def _redis_url(url: str) -> str:
    return redis_url.check(url) if url else url


def _host(host: str) -> str:
    """An IPv6 address also in the brackets that it has in a URL."""
    host = host.strip()
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _word(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _words(value: Any) -> tuple[str, ...]:
    return tuple(value.split()) if isinstance(value, str) else tuple(value)


_Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


def _webhook_secrets(secrets: tuple[str, ...]) -> tuple[str, ...]:
    for secret in secrets:
        parse_secret(secret)
    return secrets


def _webhook_allow(items: tuple[str, ...]) -> tuple[str, ...]:
    parse_allowed(items)
    return items


def _webhook_backoff(items: tuple[str, ...]) -> tuple[str, ...]:
    if len(items) > MOST_TRIES or not all(item.isdigit() and int(item) <= LONGEST_DELAY for item in items):
        raise ValueError(f"expected at most {MOST_TRIES} whole numbers of seconds, separated by spaces")
    return items


def _trusted_proxies(items: tuple[str, ...]) -> tuple[str, ...]:
    for item in items:
        ip_network(item, strict=False)
    return items


class Settings(BaseSettings):
    """All that can be configured. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        "",
        description="Redis or Valkey that keeps queues, jobs and events; empty: the embedded one",
        json_schema_extra=SECRET,
    )
    namespace: Annotated[str, AfterValidator(check_namespace)] = Field(
        "", description="What all keys and channels in Redis begin with, so that several services can share one"
    )
    redis_timeout: float = Field(
        2.0, ge=0.1, le=60, description="Longest that one request, or one step of a worker, waits for Redis in all"
    )
    host: Annotated[str, AfterValidator(_host)] = Field("127.0.0.1", description="Address the web process listens on")
    port: int = Field(8000, ge=1, le=65535, description="Port the web process listens on")
    data_dir: Path = Field(Path("data"), description="Where the embedded Redis keeps its data")
    jobs_dir: Path = Field(Path("jobs"), description="Where the model files are")

    workers: int = Field(1, ge=1, le=256, description="Workers that `up` and the Procfile run")
    reload: bool = Field(False, description="Take changed model files up at once, for development (`up --reload`)")

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_word)] = Field(
        "warning", description="Least level that is logged; info logs each request and each change of a job"
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_word)] = Field(
        "text", description="A log line as key=value or as JSON"
    )

    web_concurrency: int = Field(1, ge=1, le=64, description="Web processes")
    web_threads: int = Field(16, ge=2, le=4096, description="Threads of a web process; those who wait take none")
    max_watchers: int = Field(
        10_000, ge=1, description="WebSockets, event streams and long polls that a web process holds at once"
    )
    max_body_bytes: int = Field(2**20, ge=1024, description="Largest body of a request")
    max_connections: int = Field(
        10_000, ge=16, description="Connections that a web process has at once, beside those that wait for a job"
    )
    max_pending_bytes: int = Field(
        256 * 2**20, ge=2**20, description="Half requests and unread answers that a web process keeps at once"
    )
    head_timeout: float = Field(10, gt=0, description="Longest that the head of a request may take to come")
    body_timeout: float = Field(10, gt=0, description="Longest that its body may, beside its bytes at MIN_BODY_RATE")
    min_body_rate: int = Field(1000, ge=1, description="Bytes a second that a body must come with at least")
    send_timeout: float = Field(30, gt=0, description="For how long a client may take nothing of its answer")
    max_wait: float = Field(60, gt=0, le=600, description="Longest that Prefer: wait holds an answer")
    trusted_proxies: Annotated[_Words, AfterValidator(_trusted_proxies)] = Field(
        (), description="Addresses and networks of reverse proxies whose X-Forwarded-* are read, space-separated"
    )
    allowed_origins: _Words = Field(
        (), description="Other sites whose pages may watch and change jobs, as https://host, space-separated"
    )

    webhook_secret: Annotated[_Words, AfterValidator(_webhook_secrets)] = Field(
        (),
        repr=False,
        description="Signs webhooks: whsec_ and base64, 24 to 64 bytes; two while it is changed",
        json_schema_extra=SECRET,
    )
    webhook_allow: Annotated[_Words, AfterValidator(_webhook_allow)] = Field(
        (), description="Hosts, addresses and networks that webhooks may go to though they are not public"
    )
    webhook_backoff: Annotated[_Words, AfterValidator(_webhook_backoff)] = Field(
        ("5", "30", "120", "600", "1800", "3600", "7200", "14400", "28800", "28800"),
        description="Seconds before each further try of a webhook; after the last it is given up",
    )

    max_queued: int = Field(
        100_000, ge=0, description="Jobs of one model that may wait, unless it says otherwise; 0: any number"
    )
    max_events: int = Field(10_000, ge=100, description="Events kept per job; the oldest go first")
    max_output_bytes: int = Field(10 * 2**20, ge=1024, description="Largest output of a job, as JSON")
    max_log_lines: int = Field(1_000, ge=0, description="Log lines of a model kept per try of a job")
    result_ttl: int = Field(86_400, ge=1, description="How long a finished job is kept")
    failure_ttl: int = Field(604_800, ge=1, description="How long a failed, stopped or canceled job is kept")
    tombstone_ttl: int = Field(604_800, ge=1, description="How long after that its id answers 410, not 404")

    idempotency_ttl: int = Field(86_400, ge=1, description="How long an Idempotency-Key is known")

    grace_period: float = Field(
        30, ge=0, le=3600, description="How long running jobs may go on after a worker is asked to stop"
    )
    stop_grace: float = Field(1.0, ge=0, le=60, description="From asking a job to stop, or its timeout, to killing it")
    setup_timeout: float = Field(600, gt=0, description="Longest that a model's setup may take")
    horse_max_jobs: int = Field(0, ge=0, description="Jobs after which a work-horse is replaced; 0: never")
    horse_max_memory: int = Field(0, ge=0, description="Memory above which it is replaced, between jobs; 0: any")
    model_ttl: float = Field(
        604_800, ge=1, description="How long a model is known that no worker has any more, unless jobs of it wait"
    )
    version_wait: float = Field(
        600, ge=1, le=604_800, description="How long a job waits for its version of a model if others refuse its input"
    )
    lease: float = Field(10, ge=3, le=300, description="A job whose worker is silent for this long is taken over")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidSettings("; ".join(map(_sentence, error.errors()))) from None


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for models: all but the variables that give the service its credentials, in whatever case."""
    fields = Settings.model_fields.items()
    secret = {name.upper() for name, field in fields if field.json_schema_extra == SECRET}
    return {name: value for name, value in environment.items() if name.upper() not in secret}


def _sentence(error: Any) -> str:
    name = str(error["loc"][0]).upper()
    reason = error["msg"].removeprefix("Value error, ")
    return f"{name} is {_harmless(name, error['input'])}: {reason[:1].lower()}{reason[1:]}"


def _harmless(name: str, value: Any) -> str:
    """A value as a log may have it, where no secret belongs."""
    if name == "WEBHOOK_SECRET":
        return "wrong"
    return repr(redis_url.without_password(value) if name == "REDIS_URL" else value)
