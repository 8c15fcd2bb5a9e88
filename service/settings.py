"""Every setting: read once from the environment, checked, and passed in.

Nothing else in the service reads the environment (a model file may read its own variables).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


class InvalidSettings(ValueError):
    """One or more environment variables have a value that cannot be used; the message names each."""


def _redis_url(url: str) -> str:
    if url and not url.startswith(REDIS_SCHEMES):
        raise ValueError(f"should start with {', '.join(REDIS_SCHEMES)}")
    return url


def _origins(value: Any) -> tuple[str, ...]:
    return tuple(value.split()) if isinstance(value, str) else tuple(value)


class Settings(BaseSettings):
    """All that can be configured. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        "", description="Redis or Valkey that keeps queues, jobs and events; empty: the embedded one"
    )
    host: str = Field("127.0.0.1", description="Address the web process listens on")
    port: int = Field(8000, ge=1, le=65535, description="Port the web process listens on")
    data_dir: Path = Field(Path("data"), description="Where the embedded Redis keeps its data")
    jobs_dir: Path = Field(Path("jobs"), description="Where the model files are")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Least level that is logged; info logs each request and each change of a job"
    )
    log_format: Literal["text", "json"] = Field("text", description="A log line as key=value or as JSON")

    web_concurrency: int = Field(1, ge=1, le=64, description="Web processes")
    web_threads: int = Field(16, ge=2, le=4096, description="Threads of a web process; those who wait take none")
    max_watchers: int = Field(
        10_000, ge=1, description="WebSockets, event streams and long polls that a web process holds at once"
    )
    max_body_bytes: int = Field(2**20, ge=1024, description="Largest body of a request")
    max_wait: float = Field(60, gt=0, le=600, description="Longest that Prefer: wait holds an answer")
    allowed_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = Field(
        (), description="Other sites whose pages may open our WebSockets, as https://host, space-separated"
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
    lease: float = Field(10, ge=3, le=300, description="A job whose worker is silent for this long is taken over")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidSettings("; ".join(map(_sentence, error.errors()))) from None


def _sentence(error: Any) -> str:
    name = str(error["loc"][0]).upper()
    reason = error["msg"].removeprefix("Value error, ")
    return f"{name} is {error['input']!r}: {reason[:1].lower()}{reason[1:]}"
