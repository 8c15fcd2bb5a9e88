"""A Redis client that sends nothing twice.

redis-py repeats a command, or a whole transaction, whose answer was lost though it may have been done: a job
is then queued twice. Here the caller learns of it, looks at what has been done, and decides.
"""

# mypy: allow-untyped-calls
# (redis-py's pipelines carry no types)

from __future__ import annotations

import math
from typing import Any

import redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import TimeoutError, WatchError
from rq.connections import parse_connection

from service.store.patience import Patience
from service.store.pool import Pool


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
    """Another client of the same Redis, with its own connections: `close` it."""
    kind, link, options = parse_connection(connection)
    pool = Pool(Patience(math.inf, tries=0), link, **options)
    made_of: Any = type("OneClient", (_OneClient, kind), {})
    made: redis.Redis = made_of.from_pool(pool)
    return made
