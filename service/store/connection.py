"""The connection to Redis: which one, and whether it will do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from service import embedded
from service.embedded import OLDEST_REDIS, RedisUnavailable
from service.redis_url import without_password
from service.settings import Settings
from service.store import permissions
from service.store.patience import Patience
from service.store.pool import Pool
from service.store.refusal import NotNow

MOST_CONNECTIONS = 64
"""Of one process; more threads than these wait for one to be free, which takes about a command's time."""


def redis_url(settings: Settings) -> str:
    """REDIS_URL, else the embedded server's, if one is there. Raises RedisUnavailable."""
    if settings.redis_url:
        return settings.redis_url
    if embedded.socket_path(settings.data_dir).exists():
        return embedded.url(settings.data_dir)
    raise RedisUnavailable(
        "REDIS_URL is not set and no embedded Redis runs here: set it, or start all with `python -m service up`"
    )


def connect(settings: Settings, tries: int = 3) -> redis.Redis:
    """A client of the configured Redis. A command that fails is tried `tries` times more, within REDIS_TIMEOUT.

    Every command of ours may be sent twice (see the scripts), so the client's own tries are harmless.
    Raises RedisUnavailable if the URL cannot be used.
    """
    url = redis_url(settings)
    try:
        pool = Pool.from_url(
            url,
            patience=Patience(settings.redis_timeout, tries),
            max_connections=MOST_CONNECTIONS,
            socket_timeout=settings.redis_timeout,
            socket_connect_timeout=settings.redis_timeout,
            health_check_interval=30,
        )
        return redis.Redis.from_pool(pool)
    except ValueError:  # its message has parts of the URL in it
        raise RedisUnavailable(f"REDIS_URL is {without_password(url)!r}, which is none") from None


def check(connection: redis.Redis, settings: Settings) -> None:
    """Make sure that Redis answers and is new enough. Raises RedisUnavailable, with what to do."""
    where = without_password(redis_url(settings))
    with _explained(where):
        version = _version(connection)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise RedisUnavailable(
            f"Redis at {where} is version {version}: 6.2 or newer is needed; upgrade it, "
            "or unset REDIS_URL to use the embedded one"
        )


def check_permissions(connection: redis.Redis, settings: Settings) -> None:
    """Make sure that our user may do all that the service does. Raises RedisUnavailable, with the rules to add."""
    where = without_password(redis_url(settings))
    with _explained(where):
        missing = permissions.missing(connection)
    if missing:
        name = permissions.user(connection)
        raise RedisUnavailable(
            f"Redis at {where} does not let its user {name} do all that is needed; "
            f"add what is missing: ACL SETUSER {name} {' '.join(missing)}"
        )


def _version(connection: redis.Redis) -> str:
    # It is said when a connection is made: INFO may be forbidden.
    link = connection.connection_pool.get_connection()
    greeting: dict[Any, Any] = link.handshake_metadata or {}
    connection.connection_pool.release(link)
    version = greeting.get(b"version") or greeting.get("version") or connection.info("server")["redis_version"]
    return version.decode() if isinstance(version, bytes) else str(version)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except (NotNow, redis.exceptions.AuthenticationError) as error:
        hint = ""
        if isinstance(error, redis.exceptions.AuthenticationError) or error.code in ("NOAUTH", "WRONGPASS"):
            hint = "; check the password in REDIS_URL"
        elif rule := permissions.rule_of(str(error)):
            hint = f"; ACL SETUSER with {rule} allows it"
        raise RedisUnavailable(f"Redis at {where} refuses us: {error}{hint}") from None
    except redis.exceptions.RedisError as error:
        raise RedisUnavailable(
            f"Redis at {where} does not answer ({error}): start it, or set REDIS_URL to one that runs"
        ) from None
