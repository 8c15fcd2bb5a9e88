"""A Redis client that sends nothing twice, and calls to it until they are answered.

redis-py repeats a command, or a whole transaction, whose answer was lost though it may have been done: a job
is then queued twice. Here the caller learns of it, looks at what has been done, and decides.
"""

# mypy: allow-untyped-calls
# (redis-py's pipelines carry no types)

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError, TimeoutError, WatchError
from redis.retry import Retry
from rq.connections import parse_connection

T = TypeVar("T")


class OnePipeline(Pipeline):
    """A pipeline that tells a lost connection from a watched key that has changed."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        try:
            answers: list[Any] = super().execute(raise_on_error)
            return answers
        except WatchError as error:
            # redis-py raises WatchError for both, and RQ then sends its transaction again.
            if isinstance(error.__context__, Lost | TimeoutError):
                raise error.__context__ from None
            raise


class _OneClient(redis.Redis):
    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return OnePipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def sending_once(connection: redis.Redis) -> redis.Redis:
    """Another client of the same Redis, with its own connections."""
    kind, link, options = parse_connection(connection)
    options["retry"] = Retry(NoBackoff(), 0)
    pool = redis.ConnectionPool(connection_class=link, **options)
    made: redis.Redis = type("OneClient", (_OneClient, kind), {})(connection_pool=pool)
    return made


def is_away(error: Exception) -> bool:
    """Whether Redis is not there, or has no memory for a write, and what was asked must be asked again."""
    if isinstance(error, Lost | TimeoutError | OutOfMemoryError | ReadOnlyError):
        return True
    return isinstance(error, ResponseError) and "OOM" in str(error)


def persistently(
    step: Callable[[], T], give_up: Callable[[Exception], None] | None = None, pause: float = 0.1, longest: float = 1.0
) -> T:
    """Call `step` until Redis answers it, and return its value. `give_up` may raise between two tries."""
    while True:
        try:
            return step()
        except Exception as error:
            if not is_away(error):
                raise
            if give_up is not None:
                give_up(error)
            time.sleep(pause)
            pause = min(pause * 2, longest)
