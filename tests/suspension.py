"""Keeps jobs queued for as long as a test wants: `rq suspend`, which a worker obeys before it takes a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from rq import suspension

from tests.deployment import Api


@contextmanager
def suspended(api: Api) -> Iterator[None]:
    """Within it the workers of a service take no job; those that they have taken go on."""
    with redis.Redis.from_url(api.redis_url) as connection:  # type: ignore[attr-defined]
        suspension.suspend(connection)
        try:
            yield
        finally:
            suspension.resume(connection)
