"""Redis that is away for a while: how that shows, and how to wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import redis

from service.store.refusal import NotNow, refusal_of

T = TypeVar("T")

REDIS_IS_AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    NotNow,
)
"""What a command on a connection of ours raises while Redis cannot do its work; it will pass."""


def is_away(error: Exception) -> bool:
    """The same of an error on any connection: Redis is not there, or refuses for now, and it must be asked again."""
    return isinstance(error, REDIS_IS_AWAY) or refusal_of(error) is not None


def why(error: Exception) -> str:
    """What is wrong with Redis, for people, without what was asked of it."""
    refused = refusal_of(error)
    if refused is not None:
        return f"refuses: {refused.reason}"
    if isinstance(error, redis.exceptions.ResponseError):
        return "takes what it was sent for wrong"
    return "does not answer" if isinstance(error, redis.exceptions.TimeoutError) else "cannot be reached"


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
