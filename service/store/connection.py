"""The connection to Redis: which one, and whether it will do."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from service import embedded
from service.embedded import OLDEST_REDIS, RedisUnavailable
from service.redis_url import without_password
from service.settings import Settings

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


def connect(settings: Settings, tries: int = 3, timeout: float = 5) -> redis.Redis:
    """A client of the configured Redis. It tries a command `tries` times more, within about two seconds.

    Every command of ours may be sent twice (see the scripts), so the client's own tries are harmless.
    `timeout`: seconds that an answer may take.
    Raises RedisUnavailable if the URL cannot be used.
    """
    url = redis_url(settings)
    try:
        # Blocking: a plain pool raises when its connections (100 by default in redis-py 8) are all in use.
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MOST_CONNECTIONS,
            timeout=10,
            socket_timeout=timeout,
            socket_connect_timeout=2,
            health_check_interval=30,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), tries),
        )
        return redis.Redis.from_pool(pool)
    except ValueError:  # its message has parts of the URL in it
        raise RedisUnavailable(f"REDIS_URL is {without_password(url)!r}, which is none") from None


def check(connection: redis.Redis, settings: Settings) -> None:
    """Make sure that Redis answers and is new enough. Raises RedisUnavailable, with what to do."""
    where = without_password(redis_url(settings))
    try:
        info = connection.info("server")
    except redis.exceptions.AuthenticationError as error:
        raise RedisUnavailable(f"Redis at {where} refuses us: {error}; check the password in REDIS_URL") from None
    except redis.exceptions.RedisError as error:
        raise RedisUnavailable(
            f"Redis at {where} does not answer ({error}): start it, or set REDIS_URL to one that runs"
        ) from None
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < OLDEST_REDIS:
        raise RedisUnavailable(
            f"Redis at {where} is version {info['redis_version']}: 6.2 or newer is needed; upgrade it, "
            "or unset REDIS_URL to use the embedded one"
        )
